"""The transition tables: the only place that knows which status follows which.

A row reads: on this event, from one of these statuses, to that one. Whatever is not listed cannot happen; asking for it is a
programmer's error (``ForbiddenTransition``).
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class ForbiddenTransition(AssertionError):
    """The code asked for a change of status that the table does not list."""


class StepName(StrEnum):
    """The four steps, in the order in which they are worked."""

    REGISTRATION = "registration"
    DISPENSATION = "dispensation"
    DEVICE = "device"
    DND_EXCEPTION = "dnd_exception"


class StepStatus(StrEnum):
    """Where one step stands. ``open``: an intent is committed and its outcome is not known yet."""

    PENDING = "pending"
    OPEN = "open"
    DONE = "done"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    NOT_REQUESTED = "not_requested"


class CaseStatus(StrEnum):
    """Where one case stands."""

    READY = "ready"
    DONE = "done"
    ATTENTION = "attention"
    CANCELLED = "cancelled"


class StepEvent(StrEnum):
    """What can happen to a step."""

    FOUND = "found"
    INTENT = "intent"
    APPLIED = "applied"
    NOT_APPLIED = "not_applied"
    IN_DOUBT = "in_doubt"
    PROBED_ABSENT = "probed_absent"
    INCONCLUSIVE = "inconclusive"
    REFUSED = "refused"
    WAITING = "waiting"
    ROLLED_BACK = "rolled_back"
    RETRIED = "retried"
    DECIDED_APPLIED = "decided_applied"
    DECIDED_ABSENT = "decided_absent"
    REQUESTED = "requested"
    WITHDRAWN = "withdrawn"


class CaseEvent(StrEnum):
    """What can happen to a case."""

    WAITING = "waiting"
    FINISHED = "finished"
    ATTENTION = "attention"
    RESUMED = "resumed"
    REPLACED = "replaced"
    CONTRADICTED = "contradicted"
    CANCELLED = "cancelled"


_S = StepStatus
_C = CaseStatus

STEP_TRANSITIONS: Final[Mapping[StepEvent, Mapping[StepStatus, StepStatus]]] = {
    StepEvent.FOUND: {_S.PENDING: _S.DONE, _S.OPEN: _S.DONE},
    StepEvent.INTENT: {_S.PENDING: _S.OPEN, _S.OPEN: _S.OPEN},
    StepEvent.APPLIED: {_S.OPEN: _S.DONE},
    StepEvent.NOT_APPLIED: {_S.OPEN: _S.PENDING},
    StepEvent.IN_DOUBT: {_S.OPEN: _S.OPEN},
    StepEvent.PROBED_ABSENT: {_S.OPEN: _S.PENDING},
    StepEvent.INCONCLUSIVE: {_S.OPEN: _S.UNKNOWN, _S.PENDING: _S.UNKNOWN},
    StepEvent.REFUSED: {_S.PENDING: _S.REFUSED, _S.OPEN: _S.REFUSED},
    StepEvent.WAITING: {_S.PENDING: _S.PENDING, _S.OPEN: _S.OPEN},
    StepEvent.ROLLED_BACK: {_S.DONE: _S.PENDING, _S.PENDING: _S.PENDING},
    StepEvent.RETRIED: {_S.REFUSED: _S.PENDING},
    StepEvent.DECIDED_APPLIED: {_S.UNKNOWN: _S.DONE, _S.REFUSED: _S.DONE, _S.PENDING: _S.DONE, _S.DONE: _S.DONE},
    StepEvent.DECIDED_ABSENT: {
        _S.UNKNOWN: _S.PENDING,
        _S.REFUSED: _S.PENDING,
        _S.DONE: _S.PENDING,
        _S.PENDING: _S.PENDING,
    },
    StepEvent.REQUESTED: {
        _S.NOT_REQUESTED: _S.PENDING,
        _S.PENDING: _S.PENDING,
        _S.REFUSED: _S.PENDING,
        _S.DONE: _S.PENDING,
    },
    StepEvent.WITHDRAWN: {
        _S.PENDING: _S.NOT_REQUESTED,
        _S.REFUSED: _S.NOT_REQUESTED,
        _S.DONE: _S.NOT_REQUESTED,
    },
}

CASE_TRANSITIONS: Final[Mapping[CaseEvent, Mapping[CaseStatus, CaseStatus]]] = {
    CaseEvent.WAITING: {_C.READY: _C.READY},
    CaseEvent.FINISHED: {_C.READY: _C.DONE},
    CaseEvent.ATTENTION: {_C.READY: _C.ATTENTION},
    CaseEvent.RESUMED: {_C.ATTENTION: _C.READY},
    CaseEvent.REPLACED: {_C.READY: _C.READY, _C.ATTENTION: _C.READY, _C.DONE: _C.READY},
    CaseEvent.CONTRADICTED: {_C.READY: _C.ATTENTION, _C.DONE: _C.ATTENTION, _C.ATTENTION: _C.ATTENTION},
    CaseEvent.CANCELLED: {_C.READY: _C.CANCELLED, _C.ATTENTION: _C.CANCELLED},
}


class ClaimState(StrEnum):
    """Where a claim stands. ``done`` and ``unknown`` bind on, whoever holds it; ``free``: nobody holds it, nothing is bound."""

    HELD = "held"
    DONE = "done"
    UNKNOWN = "unknown"
    FREE = "free"


class ClaimEnd(StrEnum):
    """What becomes of what a step holds, once the step is settled."""

    BOUND = "bound"
    LEFT_UNKNOWN = "left_unknown"
    HELD_AGAIN = "held_again"
    GIVEN_BACK = "given_back"


CLAIM_ENDS: Final[Mapping[ClaimEnd, Mapping[ClaimState, ClaimState]]] = {
    ClaimEnd.BOUND: dict.fromkeys(ClaimState, ClaimState.DONE),
    ClaimEnd.LEFT_UNKNOWN: dict.fromkeys(ClaimState, ClaimState.UNKNOWN),
    ClaimEnd.HELD_AGAIN: {**{state: state for state in ClaimState}, ClaimState.UNKNOWN: ClaimState.HELD},
    ClaimEnd.GIVEN_BACK: {**{state: state for state in ClaimState}, ClaimState.HELD: ClaimState.FREE},
}
ENDS_WITHOUT_HOLDER: Final = frozenset({ClaimEnd.BOUND, ClaimEnd.GIVEN_BACK})

FINAL_STEP_STATUSES: Final = frozenset({StepStatus.DONE, StepStatus.NOT_REQUESTED})


def next_step_status(status: StepStatus, event: StepEvent) -> StepStatus:
    """The status that follows, or ``ForbiddenTransition``."""
    try:
        return STEP_TRANSITIONS[event][status]
    except KeyError:
        raise ForbiddenTransition(f"a step that is {status} cannot be {event}") from None


def next_case_status(status: CaseStatus, event: CaseEvent) -> CaseStatus:
    """The status that follows, or ``ForbiddenTransition``."""
    try:
        return CASE_TRANSITIONS[event][status]
    except KeyError:
        raise ForbiddenTransition(f"a case that is {status} cannot be {event}") from None
