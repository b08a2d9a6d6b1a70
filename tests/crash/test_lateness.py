"""What was applied after its own quiet time is told from a repetition of ours, to the millisecond, and never hidden."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

import pytest

from onboarding.ledger.states import StepName
from tests.crash.auditor import DUPLICATES, Evidence, applied_late, audit
from tests.crash.evidence import EFFECT_OF, SENDING, moment
from tests.crash.lateness import excused
from tests.crash.test_auditor import onboarded

MS: Final = timedelta(milliseconds=1)
FAULTLESS: Final[Mapping[str, Any]] = {"status": 200, "faults": [], "finished": True}
STEPS: Final = [pytest.param(step, id=step) for step in EFFECT_OF]
LOOK: Final = {
    StepName.REGISTRATION: "read_registration",
    StepName.DEVICE: "access_code",
    StepName.DND_EXCEPTION: "list_exceptions",
}


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    return onboarded(tmp_path_factory.mktemp("late"))


@dataclass(frozen=True)
class Scene:
    """One effect of a step, and when the quiet time of the attempt that sent it ends."""

    evidence: Evidence
    step: StepName
    effect: Mapping[str, Any]
    case_id: str
    quiet_until: datetime

    def applied_at(self, at: datetime) -> "Scene":
        """As if the vendor had applied it then."""
        effects = [{**one, "at": at.isoformat()} if one is self.effect else one for one in self.evidence.effects]
        unseen = self.effect["n"] - 1
        requests = [
            {**one, "effects_before": min(one["effects_before"], unseen)} if moment(one) < at else one
            for one in self.evidence.requests
        ]
        return replace(self, evidence=replace(self.evidence, effects=effects, requests=requests))

    def sent_again_at(self, at: datetime) -> "Scene":
        """As if another attempt had been intended then, sent right after, and applied."""
        trail = list(self.evidence.trails[self.case_id])
        intent = next(event for event in trail if event.kind == "step_intent" and event.step == self.step)
        trail.append(replace(intent, at=at))
        send = next(one for one in self.evidence.requests if one["n"] == self.effect["request"])
        again = {**send, "n": 901, "at": (at + MS).isoformat(), "effects": [901]}
        effect = {**self.effect, "n": 901, "request": 901, "at": (at + 2 * MS).isoformat()}
        changed = replace(
            self.evidence,
            trails={**self.evidence.trails, self.case_id: trail},
            effects=[*self.evidence.effects, effect],
            requests=[*self.evidence.requests, again],
        )
        return replace(self, evidence=changed)

    def looked_at(self, at: datetime, **changes: Any) -> "Scene":
        """As if a look that could see the effect had been answered then."""
        call = LOOK[self.step]
        path = next(one["path"] for one in self.evidence.requests if one["call"] == call)
        look = {"n": 900, "call": call, "path": path, "at": at.isoformat(), "effects_before": self.effect["n"]}
        look |= {**FAULTLESS, "monotonic": 0.0, "effects": [], **changes}
        return replace(self, evidence=replace(self.evidence, requests=[*self.evidence.requests, look]))

    def repeated(self) -> bool:
        """Whether the auditor says that something happened twice."""
        return any(problem.partition(":")[0] in DUPLICATES for problem in audit(self.evidence))


def scene(evidence: Evidence, step: StepName) -> Scene:
    """The first effect of a step, which was applied in time."""
    effect = next(one for one in evidence.effects if one["effect"] == EFFECT_OF[step])
    arrived = next(moment(one) for one in evidence.requests if one["n"] == effect["request"])
    at, case_id = max(
        (event.at, case_id)
        for case_id, trail in evidence.trails.items()
        for event in trail
        if event.kind == "step_intent" and event.step == step and event.at <= arrived
    )
    return Scene(evidence, step, effect, case_id, at + timedelta(seconds=evidence.quiet_s))


@pytest.mark.parametrize("step", STEPS)
def test_nothing_is_late_where_all_is_well(evidence: Evidence, step: StepName) -> None:
    assert applied_late(evidence) == []
    assert any(request["call"] == SENDING[step] for request in evidence.requests)


@pytest.mark.parametrize("step", STEPS)
def test_an_effect_that_came_after_its_quiet_time_is_counted_by_itself(evidence: Evidence, step: StepName) -> None:
    late = scene(evidence, step)
    late = late.applied_at(late.quiet_until + MS)
    assert [one.entry["n"] for one in applied_late(late.evidence)] == [late.effect["n"]]
    assert not late.repeated()
    assert excused(late.evidence) == 0


@pytest.mark.parametrize("step", STEPS)
def test_what_was_sent_again_after_the_quiet_time_of_a_late_one_is_no_duplicate(
    evidence: Evidence, step: StepName
) -> None:
    late = scene(evidence, step)
    late = late.sent_again_at(late.quiet_until).applied_at(late.quiet_until + 5 * MS)
    assert not late.repeated()
    assert (len(applied_late(late.evidence)), excused(late.evidence)) == (1, 1)


Change = Callable[[Scene], Scene]
OURS: Final[list[tuple[str, Change]]] = [
    (
        "sent again before the quiet time was over",
        lambda one: one.sent_again_at(one.quiet_until - MS).applied_at(one.quiet_until + 5 * MS),
    ),
    (
        "applied just within its quiet time",
        lambda one: one.sent_again_at(one.quiet_until + MS).applied_at(one.quiet_until),
    ),
    (
        "late, but seen before it was sent again",
        lambda one: (
            one.sent_again_at(one.quiet_until + 9 * MS)
            .applied_at(one.quiet_until + MS)
            .looked_at(one.quiet_until + 5 * MS)
        ),
    ),
]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("change", [row[1] for row in OURS], ids=[row[0] for row in OURS])
def test_every_other_repetition_stays_a_duplicate(evidence: Evidence, step: StepName, change: Change) -> None:
    assert change(scene(evidence, step)).repeated()


def test_a_look_whose_answer_was_spoilt_has_not_shown_the_effect(evidence: Evidence) -> None:
    late = scene(evidence, StepName.REGISTRATION)
    late = late.sent_again_at(late.quiet_until + 9 * MS).applied_at(late.quiet_until + MS)
    assert not late.looked_at(late.quiet_until + 5 * MS, faults=["truncate"]).repeated()


def test_an_exception_without_a_known_quiet_time_is_never_late(evidence: Evidence) -> None:
    late = scene(evidence, StepName.DND_EXCEPTION)
    late = late.sent_again_at(late.quiet_until).applied_at(late.quiet_until + 5 * MS)
    unknown = replace(late.evidence, quiet_s=Evidence.quiet_s)
    assert applied_late(unknown) == []
    assert replace(late, evidence=unknown).repeated()
