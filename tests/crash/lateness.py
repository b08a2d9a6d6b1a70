"""What a vendor applied after the quiet time of the attempt that sent it: the stated limit, told from our own repetitions.

An attempt's quiet time ends ``quiet_s`` after its intent, as the trail has both. The trail tells milliseconds, so what was
applied in the one in which a quiet time ends was applied in time.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import isinf
from typing import Any, Final

from onboarding.ledger.states import StepName
from tests.crash.evidence import EFFECT_OF, Evidence, is_about, moment, path_is_about, thing

_NEVER: Final = datetime.max.replace(tzinfo=UTC) - timedelta(days=1)
_RESOLUTION: Final = timedelta(milliseconds=1)
_STEP_OF: Final[Mapping[str, StepName]] = {
    **{effect: step for step, effect in EFFECT_OF.items()},
    "participants_merged": StepName.REGISTRATION,
}
_LOOKS: Final = {
    StepName.REGISTRATION: "read_registration",
    StepName.DEVICE: "access_code",
    StepName.DND_EXCEPTION: "list_exceptions",
}


@dataclass(frozen=True)
class Applied:
    """One effect, with the intent that its request went out under.

    Attributes:
        entry: the effect, as logged.
        intended_at: when the last intent before its request was committed; None if there was none.
        quiet_until: when nobody might apply it any more.
        seen_at: when a look that could see it was answered, each time.
    """

    entry: Mapping[str, Any]
    intended_at: datetime | None
    quiet_until: datetime
    seen_at: Sequence[datetime]

    @property
    def late(self) -> bool:
        """Whether it was applied after its own quiet time."""
        return moment(self.entry) >= self.quiet_until + _RESOLUTION

    def excuses(self, later: "Applied") -> bool:
        """Whether a later attempt had every reason to believe that this one was not applied, and never would be."""
        if later.intended_at is None or not self.late:
            return False
        seen = any(at < later.intended_at for at in self.seen_at)
        return later.intended_at >= self.quiet_until and not seen


@dataclass(frozen=True)
class Applications:
    """How often one effect happened to one thing; ``times`` in the order in which the attempts were intended."""

    effect: str
    thing: Mapping[str, Any]
    times: Sequence[Applied]

    def repetitions(self) -> int:
        """How many of them repeat one that is not excused by having come too late."""
        return sum(
            not all(before.excuses(later) for before in self.times[:number])
            for number, later in enumerate(self.times[1:], start=1)
        )

    def excused(self) -> int:
        """How many of them repeat only what had come too late."""
        return len(self.times[1:]) - self.repetitions()


def applications(evidence: Evidence) -> list[Applications]:
    """Every effect of a step, by what it happened to."""
    grouped: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for entry in evidence.effects:
        if entry["effect"] in _STEP_OF:
            grouped.setdefault((entry["effect"], json.dumps(thing(entry), sort_keys=True)), []).append(entry)
    arrivals = {request["n"]: moment(request) for request in evidence.requests}
    found = []
    for (effect, key), entries in grouped.items():
        step = _STEP_OF[effect]
        cases = [one for one, asked in evidence.asked.items() if is_about(entries[0], asked, step, any_effect=True)]
        intents = sorted(
            (event.at, event.detail.get("quiet_s", evidence.quiet_s))
            for case_id in cases
            for event in evidence.trails[case_id]
            if event.kind == "step_intent" and event.step == step
        )
        times = [_applied(entry, arrivals, intents, _looks(evidence, entry, step, cases)) for entry in entries]
        times.sort(key=lambda applied: (applied.intended_at is not None, applied.intended_at, applied.entry["n"]))
        found.append(Applications(effect, json.loads(key), times))
    return found


def applied_late(evidence: Evidence) -> list[Applied]:
    """Every effect that was applied after its own quiet time, whether or not anything happened twice by it."""
    return [applied for one in applications(evidence) for applied in one.times if applied.late]


def excused(evidence: Evidence) -> int:
    """How many effects were repeated because one had come too late."""
    return sum(one.excused() for one in applications(evidence))


def _applied(
    entry: Mapping[str, Any],
    arrivals: Mapping[int, datetime],
    intents: Sequence[tuple[datetime, float]],
    seen_at: Sequence[datetime],
) -> Applied:
    arrived = arrivals.get(entry["request"], moment(entry))
    before = [intent for intent in intents if intent[0] <= arrived]
    if not before:
        return Applied(entry, None, _NEVER, seen_at)
    at, quiet_s = before[-1]
    until = _NEVER if isinf(quiet_s) else at + timedelta(seconds=quiet_s)
    return Applied(entry, at, until, seen_at)


def _looks(evidence: Evidence, entry: Mapping[str, Any], step: StepName, cases: Sequence[str]) -> list[datetime]:
    """When this effect was there to be seen: looks that were handled after it, and answered as they should be."""
    call = _LOOKS[step]
    return [
        moment(request)
        for request in evidence.requests
        if request["call"] == call
        and request["effects_before"] >= entry["n"]
        and request["status"] == 200
        and not request["faults"]
        and (call == "list_exceptions" or any(path_is_about(request["path"], call, evidence, one) for one in cases))
    ]
