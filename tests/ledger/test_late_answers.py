"""Answers that reach a runner after its lease: appended without a fence, and turned into attention if they contradict."""

import pytest

from onboarding.errors import CaseContradicted, LeaseLost
from onboarding.ledger.leasing import LATE_ANSWER, Closed
from onboarding.ledger.states import CaseStatus, StepStatus
from onboarding.ledger.writes import Lease
from tests.ledger.bench import (
    DEVICE,
    EXCEPTION,
    INTENT,
    LEASE_S,
    REGISTRATION,
    Bench,
    applied,
    without_device,
)
from tests.support.requests import LEFT_OUT, request

S = StepStatus


def answer_late(bench: Bench, lease: Lease, says: str, *, attempt: int = 1) -> None:
    answer = {"step": "registration", "attempt": attempt, "fence": lease.fence, "says": says, "code": "LATE"}
    bench.ledger.keep_late_answer(lease.case_id, lease.actor, answer)


def overtaken(bench: Bench) -> tuple[Lease, Lease]:
    """A runner that sent and was overtaken, and the one that has the case now."""
    first = bench.open_and_lease()
    bench.bring(first, REGISTRATION, S.OPEN)
    bench.clock.advance(LEASE_S)
    second = bench.lease(first.case_id)
    bench.do(second, REGISTRATION, lambda s: s.doubt("RUNNER_STOPPED"))
    return first, second


def test_a_late_answer_is_appended_without_a_fence_and_leaves_all_else(bench: Bench) -> None:
    first, second = overtaken(bench)
    before = bench.case(first.case_id)
    answer_late(bench, first, "applied")
    after = bench.case(first.case_id)
    assert (after.status, after.fence, after.lease_left_s) == (before.status, second.fence, before.lease_left_s)
    event = bench.last_event(first.case_id)
    assert (event.kind, event.step, event.code, event.actor) == ("late_answer", "registration", "LATE", "runner")
    assert event.detail["says"] == "applied"
    assert bench.ledger.trail_problems(first.case_id) == []


@pytest.mark.parametrize("status", [S.PENDING, S.REFUSED])
def test_applied_against_a_step_that_was_settled_otherwise_needs_attention(bench: Bench, status: StepStatus) -> None:
    first, second = overtaken(bench)
    bench.do(second, REGISTRATION, lambda s: s.absent())
    if status is S.REFUSED:
        bench.bring(second, REGISTRATION, S.REFUSED)
    answer_late(bench, first, "applied")
    content = bench.content()["step"]
    with pytest.raises(CaseContradicted, match="came late"):
        bench.bring(second, DEVICE, S.OPEN)
    assert bench.standing(first.case_id) == (CaseStatus.ATTENTION, LATE_ANSWER)
    assert bench.content()["step"] == content
    assert bench.last_event(first.case_id).kind == "case_contradicted"
    with pytest.raises(LeaseLost):
        bench.ledger.renew(second)


def test_applied_against_a_withdrawn_step_needs_attention(bench: Bench) -> None:
    first, second = overtaken(bench)
    bench.do(second, REGISTRATION, lambda s: s.absent())
    bench.park(second)
    bench.open(request(registration=LEFT_OUT))
    answer_late(bench, first, "applied")
    assert bench.take(first.case_id) == Closed(CaseStatus.ATTENTION, LATE_ANSWER)


def test_applied_against_a_step_in_doubt_waits_for_the_probe_and_agrees_with_applied(bench: Bench) -> None:
    first, second = overtaken(bench)
    answer_late(bench, first, "applied")
    bench.ledger.renew(second)
    bench.do(second, REGISTRATION, lambda s: s.applied({"probed": True}, code="PROBE_FOUND_APPLIED"))
    bench.ledger.renew(second)
    assert bench.sql("SELECT late_answers FROM onboarding_case") == [{"late_answers": None}]
    bench.finish(second)
    assert bench.standing(first.case_id) == (CaseStatus.DONE, None)


def test_applied_against_a_doubt_contradicts_a_probe_that_finds_it_absent_before_anything_is_sent(bench: Bench) -> None:
    first, second = overtaken(bench)
    answer_late(bench, first, "applied")
    bench.do(second, REGISTRATION, lambda s: s.absent())
    with pytest.raises(CaseContradicted):
        bench.bring(second, REGISTRATION, S.OPEN)
    assert bench.step(first.case_id, REGISTRATION).status is S.PENDING


def test_applied_against_an_unknown_step_is_left_to_the_person(bench: Bench) -> None:
    first, second = overtaken(bench)
    bench.do(second, REGISTRATION, lambda s: s.inconclusive("MASKED"))
    answer_late(bench, first, "applied")
    bench.ledger.renew(second)
    assert bench.standing(first.case_id) == (CaseStatus.READY, None)


def test_not_applied_against_a_step_done_by_that_attempt_needs_attention(bench: Bench) -> None:
    first, second = overtaken(bench)
    bench.do(second, REGISTRATION, lambda s: s.applied({}, code="PROBE_FOUND_APPLIED"))
    answer_late(bench, first, "not_applied")
    with pytest.raises(CaseContradicted):
        bench.ledger.renew(second)
    assert bench.standing(first.case_id) == (CaseStatus.ATTENTION, LATE_ANSWER)


def test_not_applied_of_an_earlier_attempt_agrees_with_done_by_a_later_one(bench: Bench) -> None:
    first, second = overtaken(bench)
    bench.do(second, REGISTRATION, lambda s: s.absent())
    bench.do(second, REGISTRATION, applied)
    answer_late(bench, first, "not_applied", attempt=1)
    bench.ledger.renew(second)
    assert bench.standing(first.case_id) == (CaseStatus.READY, None)


@pytest.mark.parametrize("settle", ["absent", "doubt"])
def test_not_applied_agrees_with_what_was_not_done(bench: Bench, settle: str) -> None:
    first, second = overtaken(bench)
    if settle == "absent":
        bench.do(second, REGISTRATION, lambda s: s.absent())
    answer_late(bench, first, "not_applied")
    bench.ledger.renew(second)
    assert bench.standing(first.case_id) == (CaseStatus.READY, None)


def test_a_case_that_is_done_is_opened_again_by_a_contradiction_at_once(bench: Bench) -> None:
    first, second = overtaken(bench)
    bench.do(second, REGISTRATION, lambda s: s.applied({}, code="PROBE_FOUND_APPLIED"))
    bench.finish(second)
    answer_late(bench, first, "not_applied")
    assert bench.standing(first.case_id) == (CaseStatus.ATTENTION, LATE_ANSWER)
    assert bench.kinds(first.case_id)[-2:] == ["late_answer", "case_contradicted"]
    assert bench.last_event(first.case_id).code == LATE_ANSWER
    assert bench.ledger.trail_problems(first.case_id) == []


def test_a_case_that_is_done_stays_done_when_a_late_answer_agrees(bench: Bench) -> None:
    first, second = overtaken(bench)
    bench.do(second, REGISTRATION, lambda s: s.applied({}, code="PROBE_FOUND_APPLIED"))
    bench.finish(second)
    answer_late(bench, first, "applied")
    assert bench.standing(first.case_id) == (CaseStatus.DONE, None)


def test_a_contradicted_case_is_not_worked_again_by_a_mere_retry(bench: Bench) -> None:
    first, second = overtaken(bench)
    bench.do(second, REGISTRATION, lambda s: s.absent())
    answer_late(bench, first, "applied")
    with pytest.raises(CaseContradicted):
        bench.ledger.renew(second)
    assert bench.take(first.case_id, retry=True) == Closed(CaseStatus.ATTENTION, LATE_ANSWER)
    assert bench.step(first.case_id, REGISTRATION).intent.attempts == 1


def test_answers_that_agree_are_forgotten_one_by_one(bench: Bench) -> None:
    lease = bench.open_and_lease(without_device())
    bench.do(lease, REGISTRATION, applied)
    bench.do(lease, EXCEPTION, lambda s: s.mirror_intent(1))
    bench.do(lease, EXCEPTION, lambda s: s.doubt("CUT"))
    answer_late(bench, lease, "applied")
    bench.ledger.keep_late_answer(
        lease.case_id, "r", {"step": "dnd_exception", "attempt": 1, "fence": 1, "says": "applied", "code": "LATE"}
    )
    bench.ledger.renew(lease)
    (row,) = bench.sql("SELECT late_answers FROM onboarding_case")
    assert "dnd_exception" in str(row["late_answers"])
    assert "registration" not in str(row["late_answers"])
    assert INTENT.quiet_s < LEASE_S
