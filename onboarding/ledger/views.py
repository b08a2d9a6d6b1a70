"""What the ledger hands out: small frozen values, never rows."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from onboarding.ledger.states import CaseStatus, StepName, StepStatus


@dataclass(frozen=True)
class Intent:
    """What is about to be attempted, committed before it is sent.

    Attributes:
        body: the exact body, as JSON bytes; stored encrypted.
        quiet_s: seconds from now until nobody may still apply it (the request's deadline plus the settle time).
        facts: what a later probe needs (keyed digests of what stood before, connection type, listed exception ids); no
            personal data in the clear.
    """

    body: bytes
    quiet_s: float
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class IntentView:
    """The last intent of a step or shared claim.

    ``attempts`` counts intents, ``probes`` those probes that have an effect of their own, ``absences`` the times an attempt
    was proven not applied; ``quiet_left_s`` is 0 once the quiet time is over. ``earlier_boot``: it is counted by
    another boot (an earlier one, or another machine's), so that its quiet time would start anew.
    """

    attempts: int
    probes: int
    absences: int
    in_doubt: bool
    facts: Mapping[str, Any]
    quiet_left_s: float
    earlier_boot: bool


@dataclass(frozen=True)
class StepView:
    """One step as the ledger knows it."""

    name: StepName
    status: StepStatus
    intent: IntentView
    waits: int
    waiting_since: datetime | None
    met_already_registered: bool
    code: str | None
    http_status: int | None
    outcome: Mapping[str, Any]
    updated_at: datetime
    done_at: datetime | None

    def contradicts(self, answer: Mapping[str, Any]) -> bool:
        """Whether a late answer (``says``: ``applied`` or ``not_applied``, ``attempt``) says otherwise than this step."""
        if answer["says"] == "applied":
            return self.status in (StepStatus.PENDING, StepStatus.REFUSED, StepStatus.NOT_REQUESTED)
        return self.status is StepStatus.DONE and self.outcome.get("attempt") == answer["attempt"]


@dataclass(frozen=True)
class ClaimView:
    """A shared claim (an exception's content) as its new holder finds it.

    ``effect_age_s`` is how long ago the ledger learned of ``effect_id``, or None if that cannot be told (another boot).
    """

    key: str
    unknown: bool
    open: bool
    intent: IntentView
    effect_id: str | None
    effect_age_s: float | None

    @property
    def settled(self) -> bool:
        """Whether it is known under which id it exists, and nothing about it is open."""
        return self.effect_id is not None and not self.open and not self.unknown


@dataclass(frozen=True)
class Held:
    """Somebody else holds it; ``left_s`` is when to look again at the latest."""

    by_case: str
    left_s: float


@dataclass(frozen=True)
class CaseView:
    """One case as the ledger knows it.

    ``lease_left_s`` is above 0 while a runner works on it; ``blocked``: it waits for other log-in settings;
    ``contradicted``: the first step of which a late answer says otherwise than the ledger.
    """

    id: str
    study_id: str
    mode: str
    subject_id: str
    inventory_id: str | None
    batch_id: str | None
    status: CaseStatus
    reason: str | None
    due_at: datetime | None
    blocked: bool
    lease_left_s: float
    fence: int
    takings: int
    idle_takings: int
    flow_run_id: str | None
    created_at: datetime
    updated_at: datetime
    steps: Mapping[StepName, StepView]
    contradicted: StepName | None = None


@dataclass(frozen=True)
class EventView:
    """One entry of the trail; ``reason`` is decrypted free text."""

    sequence: int
    at: datetime
    actor: str
    kind: str
    step: str | None
    code: str | None
    detail: Mapping[str, Any]
    reason: str | None
