"""What a vendor applied after the quiet time of the attempt that sent it: the stated limit, told from our own repetitions.

An attempt's quiet time ends ``quiet_s`` after its intent, as the trail has both. The trail tells milliseconds, so what was
applied in the one in which a quiet time ends was applied in time.
"""

import json
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate, chain
from math import isinf
from operator import itemgetter
from typing import Any, Final

from onboarding.ledger.states import StepName
from tests.crash.evidence import EFFECT_OF, Evidence, moment, thing

_NEVER: Final = datetime.max.replace(tzinfo=UTC) - timedelta(days=1)
_RESOLUTION: Final = timedelta(milliseconds=1)
_STEP_OF: Final[Mapping[str, StepName]] = {
    **{effect: step for step, effect in EFFECT_OF.items()},
    "participants_merged": StepName.REGISTRATION,
}
_LISTS: Final = "list_exceptions"
_LOOKS: Final = {
    StepName.REGISTRATION: "read_registration",
    StepName.DEVICE: "access_code",
    StepName.DND_EXCEPTION: _LISTS,
}


@dataclass(frozen=True)
class Applied:
    """One effect, with the intent that its request went out under.

    Attributes:
        entry: the effect, as logged.
        intended_at: when the last intent before its request was committed; None if there was none.
        quiet_until: when nobody might apply it any more.
        seen_at: when a look that could see it was first answered; None if none was.
    """

    entry: Mapping[str, Any]
    intended_at: datetime | None
    quiet_until: datetime
    seen_at: datetime | None

    @property
    def late(self) -> bool:
        """Whether it was applied after its own quiet time."""
        return moment(self.entry) >= self.quiet_until + _RESOLUTION

    def excuses(self, later: "Applied") -> bool:
        """Whether a later attempt had every reason to believe that this one was not applied, and never would be."""
        if later.intended_at is None or not self.late:
            return False
        seen = self.seen_at is not None and self.seen_at < later.intended_at
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
    lists = _Looks(request for request in evidence.requests if request["call"] == _LISTS)
    found = []
    for (effect, key), entries in grouped.items():
        step = _STEP_OF[effect]
        cases = evidence.cases_about(entries[0], step)
        intents = sorted(
            (event.at, event.detail.get("quiet_s", evidence.quiet_s))
            for case_id in cases
            for event in evidence.trails[case_id]
            if event.kind == "step_intent" and event.step == step
        )
        call = _LOOKS[step]
        about = (evidence.requests_about(case_id, call) for case_id in cases)
        looks = lists if call == _LISTS else _Looks(chain.from_iterable(about))
        times = [_applied(entry, evidence.arrivals, intents, looks) for entry in entries]
        times.sort(key=lambda applied: (applied.intended_at is not None, applied.intended_at, applied.entry["n"]))
        found.append(Applications(effect, json.loads(key), times))
    return found


def applied_late(evidence: Evidence) -> list[Applied]:
    """Every effect that was applied after its own quiet time, whether or not anything happened twice by it."""
    return [applied for one in applications(evidence) for applied in one.times if applied.late]


def excused(evidence: Evidence) -> int:
    """How many effects were repeated because one had come too late."""
    return sum(one.excused() for one in applications(evidence))


class _Looks:
    """Looks at the other side that were answered as they should be, by how many effects there were to be seen."""

    def __init__(self, requests: Iterable[Mapping[str, Any]]) -> None:
        answered = [
            (request["effects_before"], moment(request))
            for request in requests
            if request["status"] == 200 and not request["faults"]
        ]
        answered.sort()
        self._effects = [effects for effects, _ in answered]
        self._first = list(accumulate((at for _, at in reversed(answered)), min))[::-1]

    def first_that_sees(self, entry: Mapping[str, Any]) -> datetime | None:
        """When the first one was answered that was handled after this effect."""
        place = bisect_left(self._effects, entry["n"])
        return self._first[place] if place < len(self._first) else None


def _applied(
    entry: Mapping[str, Any],
    arrivals: Mapping[int, datetime],
    intents: Sequence[tuple[datetime, float]],
    looks: _Looks,
) -> Applied:
    arrived, seen_at = arrivals.get(entry["request"], moment(entry)), looks.first_that_sees(entry)
    number = bisect_right(intents, arrived, key=itemgetter(0))
    if not number:
        return Applied(entry, None, _NEVER, seen_at)
    at, quiet_s = intents[number - 1]
    until = _NEVER if isinf(quiet_s) else at + timedelta(seconds=quiet_s)
    return Applied(entry, at, until, seen_at)
