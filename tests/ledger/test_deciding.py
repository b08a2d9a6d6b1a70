"""A person's decisions: only what makes sense as the case stands, in one transaction, with a reason and a new fence."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from onboarding.clocks import DATABASE_EPOCH
from onboarding.errors import BadInput, LeaseLost
from onboarding.ledger.claims import ExceptionClaim
from onboarding.ledger.deciding import LONGEST_REASON, Decided, Decision, DecisionRefused, Holds, offered
from onboarding.ledger.leasing import LATE_ANSWER, Closed
from onboarding.ledger.states import CaseStatus, StepName, StepStatus
from onboarding.ledger.writes import CaseWrite, Lease
from tests.ledger.bench import (
    ADDRESSES,
    DEVICE,
    EXCEPTION,
    INTENT,
    LEASE_S,
    OTHER_ADDRESSES,
    QUIET_S,
    REGISTRATION,
    Bench,
    applied,
    other_subject,
    registration_claim,
    without_device,
)
from tests.support.requests import LEFT_OUT, request

C, S, D = CaseStatus, StepStatus, Decision
HOLDS = Holds((registration_claim("A"),), (), "content", ADDRESSES)
REASON = "asked the site: Mrkr-7f3a"


def decide(bench: Bench, case_id: str, decision: Decision, holds: Holds = HOLDS, **more: Any) -> None:
    decided = Decided(decision, "person@host", more.pop("reason", REASON), **more)
    bench.ledger.decide(case_id, decided, holds)


def attention(bench: Bench, lease: Lease) -> str:
    bench.need_attention(lease)
    return lease.case_id


# Where a case can stand


def fresh(bench: Bench) -> str:
    return bench.open()


def leased(bench: Bench) -> str:
    return bench.open_and_lease().case_id


def parked(bench: Bench) -> str:
    lease = bench.open_and_lease()
    bench.park(lease, 600)
    return lease.case_id


def with_an_open_intent(bench: Bench) -> str:
    lease = bench.open_and_lease()
    bench.bring(lease, REGISTRATION, S.OPEN)
    bench.park(lease)
    return lease.case_id


def in_doubt(bench: Bench) -> str:
    lease = bench.open_and_lease()
    bench.bring(lease, REGISTRATION, S.OPEN)
    bench.do(lease, REGISTRATION, lambda s: s.doubt("CUT"))
    bench.park(lease)
    return lease.case_id


def refused(bench: Bench) -> str:
    lease = bench.open_and_lease()
    bench.bring(lease, REGISTRATION, S.REFUSED)
    return attention(bench, lease)


def unknown(bench: Bench, step: StepName = REGISTRATION) -> str:
    lease = bench.open_and_lease()
    bench.bring(lease, step, S.OPEN)
    bench.do(lease, step, lambda s: s.doubt("CUT"))
    bench.clock.advance(QUIET_S)
    bench.bring(lease, step, S.UNKNOWN)
    return attention(bench, lease)


def unknown_device(bench: Bench) -> str:
    return unknown(bench, DEVICE)


def unknown_exception(bench: Bench) -> str:
    lease = bench.open_and_lease(without_device())

    def intend(write: CaseWrite) -> None:
        write.step(EXCEPTION).mirror_intent(claim_of(write).intend(INTENT))

    def call_unknown(write: CaseWrite) -> None:
        claim_of(write).call_unknown()
        write.step(EXCEPTION).inconclusive("UNEXPECTED_EXCEPTION")

    bench.do(lease, REGISTRATION, applied)
    bench.ledger.fenced(lease, intend)
    bench.clock.advance(QUIET_S)
    bench.ledger.fenced(lease, call_unknown)
    return attention(bench, lease)


def already_registered(bench: Bench) -> str:
    lease = bench.open_and_lease()
    bench.bring(lease, DEVICE, S.OPEN)
    bench.do(lease, DEVICE, lambda s: s.refuse("DEVICE_ALREADY_REGISTERED", already_registered=True))
    return attention(bench, lease)


def missing_exception(bench: Bench) -> str:
    lease = bench.open_and_lease(without_device())
    bench.do(lease, REGISTRATION, applied)
    bench.ledger.fenced(lease, lambda w: claim_of(w).adopt("X1", []))
    bench.do(lease, EXCEPTION, lambda s: s.refuse("EXCEPTION_MISSING", detail={"exception_id": "X1"}))
    return attention(bench, lease)


def stuck(bench: Bench) -> str:
    return attention(bench, bench.open_and_lease())


def stuck_in_doubt(bench: Bench) -> str:
    lease = bench.open_and_lease()
    bench.bring(lease, REGISTRATION, S.OPEN)
    return attention(bench, lease)


def late(bench: Bench, lease: Lease, says: str, step: StepName = REGISTRATION) -> None:
    answer = {"step": step.value, "attempt": 1, "fence": lease.fence, "says": says, "code": "LATE"}
    bench.ledger.keep_late_answer(lease.case_id, lease.actor, answer)


def applied_though_proven_absent(bench: Bench) -> str:
    lease = bench.open_and_lease()
    bench.bring(lease, REGISTRATION, S.OPEN)
    bench.clock.advance(QUIET_S)
    bench.do(lease, REGISTRATION, lambda s: s.absent())
    bench.park(lease)
    late(bench, lease, "applied")
    assert bench.take(lease.case_id) == Closed(C.ATTENTION, LATE_ANSWER)
    return lease.case_id


def applied_though_refused(bench: Bench) -> str:
    lease = bench.open_and_lease()
    bench.bring(lease, REGISTRATION, S.REFUSED)
    bench.need_attention(lease)
    late(bench, lease, "applied")
    assert bench.standing(lease.case_id) == (C.ATTENTION, LATE_ANSWER), "nobody would work it, and find out"
    return lease.case_id


def not_applied_though_done(bench: Bench) -> str:
    lease = bench.open_and_lease()
    bench.do(lease, REGISTRATION, applied)
    bench.clock.advance(QUIET_S)
    bench.finish(lease)
    late(bench, lease, "not_applied")
    return lease.case_id


def applied_though_withdrawn(bench: Bench) -> str:
    lease = bench.open_and_lease()
    bench.bring(lease, REGISTRATION, S.OPEN)
    bench.do(lease, REGISTRATION, lambda s: s.absent())
    bench.park(lease)
    bench.open(request(registration=LEFT_OUT))
    late(bench, lease, "applied")
    assert bench.take(lease.case_id) == Closed(C.ATTENTION, LATE_ANSWER)
    return lease.case_id


def done(bench: Bench) -> str:
    lease = bench.open_and_lease()
    bench.finish(lease)
    return lease.case_id


def cancelled(bench: Bench) -> str:
    case_id = bench.open()
    decide(bench, case_id, D.CANCEL)
    return case_id


def claim_of(write: CaseWrite) -> Any:
    return ExceptionClaim.take(write, "content")


# What each decision leads to there: the case's status, and that of the step it is about

ENDED = (C.CANCELLED, None)
AGAIN = (C.READY, S.PENDING)
STANDINGS: Mapping[Callable[[Bench], str], Mapping[Decision, tuple[CaseStatus, StepStatus | None]]] = {
    fresh: {D.RETRY: AGAIN, D.CANCEL: ENDED},
    leased: {},
    parked: {D.RETRY: AGAIN, D.CANCEL: ENDED},
    with_an_open_intent: {D.RETRY: (C.READY, S.OPEN)},
    in_doubt: {D.RETRY: (C.READY, S.OPEN)},
    refused: {D.RETRY: AGAIN, D.CANCEL: ENDED},
    unknown: {D.APPLIED: (C.READY, S.DONE), D.ABSENT: AGAIN},
    unknown_device: {D.APPLIED: (C.READY, S.DONE), D.ABSENT: AGAIN},
    unknown_exception: {D.APPLIED: (C.DONE, S.DONE), D.ABSENT: AGAIN},
    already_registered: {D.RETRY: AGAIN, D.APPLIED: (C.READY, S.DONE), D.CANCEL: ENDED},
    missing_exception: {D.RETRY: AGAIN, D.ABSENT: AGAIN, D.CANCEL: ENDED},
    stuck: {D.RETRY: AGAIN, D.CANCEL: ENDED},
    stuck_in_doubt: {D.RETRY: (C.READY, S.OPEN)},
    applied_though_proven_absent: {D.APPLIED: (C.READY, S.DONE), D.ABSENT: AGAIN},
    applied_though_refused: {D.APPLIED: (C.READY, S.DONE), D.ABSENT: AGAIN},
    not_applied_though_done: {D.APPLIED: (C.DONE, S.DONE), D.ABSENT: AGAIN},
    applied_though_withdrawn: {D.APPLIED: (C.READY, S.NOT_REQUESTED), D.ABSENT: (C.READY, S.NOT_REQUESTED)},
    done: {},
    cancelled: {},
}
STEP_OF: Mapping[Callable[[Bench], str], StepName] = {
    unknown_device: DEVICE,
    already_registered: DEVICE,
    unknown_exception: EXCEPTION,
    missing_exception: EXCEPTION,
}


OFFERED = [(standing, decision) for standing, wanted in STANDINGS.items() for decision in wanted]


@pytest.mark.parametrize("standing", STANDINGS, ids=lambda one: one.__name__)
def test_what_makes_no_sense_is_neither_offered_nor_taken_and_changes_nothing(
    bench: Bench, standing: Callable[[Bench], str]
) -> None:
    case_id = standing(bench)
    assert set(offered(bench.case(case_id))) == set(STANDINGS[standing])
    before = bench.content()
    for decision in set(Decision) - set(STANDINGS[standing]):
        with pytest.raises(DecisionRefused):
            decide(bench, case_id, decision)
    assert bench.content() == before


@pytest.mark.parametrize(("standing", "decision"), OFFERED, ids=[f"{one.__name__}-{two}" for one, two in OFFERED])
def test_what_is_offered_can_be_decided_and_the_case_goes_on(
    bench: Bench, standing: Callable[[Bench], str], decision: Decision
) -> None:
    case_id = standing(bench)
    wanted = STANDINGS[standing]
    fence = bench.case(case_id).fence
    exception_id = "X9" if decision is D.APPLIED and STEP_OF.get(standing) is EXCEPTION else None
    decide(bench, case_id, decision, exception_id=exception_id)
    case_status, step_status = wanted[decision]
    case = bench.case(case_id)
    assert (case.status, case.reason) == (case_status, None)
    assert (case.fence, case.lease_left_s) == (fence + 1, 0)
    if step_status is not None:
        step = case.steps[STEP_OF.get(standing, REGISTRATION)]
        assert step.status is step_status
        assert step_status is S.OPEN or not step.intent.in_doubt
    assert bench.ledger.trail_problems(case_id) == []
    if case.status is C.READY:
        assert bench.ledger.find_due(limit=10) == [case_id]
        assert isinstance(bench.take(case_id), Lease)


# The trail, and what a decision is refused for


def test_a_decision_is_in_the_trail_with_its_person_attempt_and_encrypted_reason(bench: Bench) -> None:
    case_id = unknown(bench)
    decide(bench, case_id, D.ABSENT, attempt=1)
    (event,) = [event for event in bench.ledger.events(case_id) if event.kind == "decided"]
    assert (event.actor, event.step, event.code, event.reason) == ("person@host", "registration", "absent", REASON)
    assert event.detail == {"step": "registration", "attempt": 1}
    assert "Mrkr" not in str(bench.content())


@pytest.mark.parametrize("reason", ["half \udc80 a character", "nul \0 and \n line", "ß" * LONGEST_REASON])
def test_any_reason_that_a_command_line_can_give_is_kept(bench: Bench, reason: str) -> None:
    case_id = refused(bench)
    decide(bench, case_id, D.RETRY, reason=reason)
    (event,) = [event for event in bench.ledger.events(case_id) if event.kind == "decided"]
    assert event.reason == reason.replace("\udc80", "\\udc80")
    assert bench.ledger.trail_problems(case_id) == []


@pytest.mark.parametrize("reason", ["", " \n\t", "x" * (LONGEST_REASON + 1)])
def test_a_decision_without_a_usable_reason_is_refused(bench: Bench, reason: str) -> None:
    case_id = refused(bench)
    with pytest.raises(DecisionRefused, match="reason"):
        decide(bench, case_id, D.RETRY, reason=reason)


def test_a_decision_about_an_attempt_that_is_not_the_last_is_refused(bench: Bench) -> None:
    case_id = unknown(bench)
    for attempt in (0, 2):
        with pytest.raises(DecisionRefused, match="has had attempt 1 since"):
            decide(bench, case_id, D.ABSENT, attempt=attempt)


def test_a_case_that_does_not_exist_is_bad_input(bench: Bench) -> None:
    with pytest.raises(BadInput, match="there is no case NOSUCHCASE00"):
        bench.ledger.decide("NOSUCHCASE00", Decided(D.RETRY, "p", REASON), HOLDS)


def test_a_refusal_says_what_makes_sense_or_when(bench: Bench) -> None:
    with pytest.raises(DecisionRefused, match="what makes sense is: applied, absent"):
        decide(bench, unknown(bench), D.RETRY)
    other = bench.open_and_lease(other_subject())
    with pytest.raises(DecisionRefused, match=f"its lease ends in {LEASE_S:.0f} s"):
        decide(bench, other.case_id, D.CANCEL)
    bench.finish(other)
    with pytest.raises(DecisionRefused, match="it is done, so nothing is"):
        decide(bench, other.case_id, D.CANCEL)


def test_nothing_can_be_decided_until_the_last_moment_of_a_lease(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.clock.advance(LEASE_S - 0.5)
    assert offered(bench.case(lease.case_id)) == ()
    with pytest.raises(DecisionRefused, match="a runner works on it"):
        decide(bench, lease.case_id, D.CANCEL)
    bench.clock.advance(0.5)
    decide(bench, lease.case_id, D.CANCEL)


def test_absent_is_refused_until_the_last_moment_of_the_quiet_time(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.bring(lease, REGISTRATION, S.OPEN)
    bench.bring(lease, REGISTRATION, S.UNKNOWN)
    bench.need_attention(lease)
    bench.clock.advance(QUIET_S - 0.5)
    with pytest.raises(DecisionRefused, match="may still be applied"):
        decide(bench, lease.case_id, D.ABSENT)
    bench.clock.advance(0.5)
    decide(bench, lease.case_id, D.ABSENT)


def test_absent_is_refused_while_the_request_may_still_be_applied(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.bring(lease, REGISTRATION, S.OPEN)
    bench.do(lease, REGISTRATION, lambda s: s.doubt("CUT"))
    bench.bring(lease, REGISTRATION, S.UNKNOWN)  # edited by somebody else, which is seen at once
    attention(bench, lease)
    with pytest.raises(DecisionRefused, match=f"may still be applied; look again in {QUIET_S:.0f} s"):
        decide(bench, lease.case_id, D.ABSENT)
    bench.clock.advance(QUIET_S)
    decide(bench, lease.case_id, D.ABSENT)
    assert bench.step(lease.case_id, REGISTRATION).status is S.PENDING


def test_after_a_reboot_the_quiet_time_is_counted_from_the_boot(bench: Bench) -> None:
    case_id = unknown(bench)
    bench.clock.reboot()
    with pytest.raises(DecisionRefused, match="may still be applied"):
        decide(bench, case_id, D.ABSENT)
    bench.clock.advance(QUIET_S)
    decide(bench, case_id, D.ABSENT)


def test_a_quiet_time_that_another_machine_counts_is_over_by_the_database_s_clock(bench: Bench) -> None:
    bench.clock.epoch = DATABASE_EPOCH
    lease = bench.open_and_lease()
    bench.bring(lease, REGISTRATION, S.OPEN)
    bench.bring(lease, REGISTRATION, S.UNKNOWN)
    case_id = attention(bench, lease)
    bench.sql("UPDATE onboarding_step SET quiet_epoch = 'a boot of another machine' WHERE quiet_epoch IS NOT NULL")
    with pytest.raises(DecisionRefused, match="may still be applied"):
        decide(bench, case_id, D.ABSENT)
    bench.clock.advance(QUIET_S)
    decide(bench, case_id, D.ABSENT)
    assert bench.standing(case_id) == (C.READY, None)


def test_a_decision_counts_takings_anew_and_lets_a_blocked_case_go_on(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.park(lease, 0.0, blocked_login="digest")
    decide(bench, lease.case_id, D.RETRY)
    (row,) = bench.sql("SELECT idle_takings, blocked_login FROM onboarding_case")
    assert row == {"idle_takings": 0, "blocked_login": None}


def test_a_decision_under_other_addresses_than_the_case_s_is_refused(bench: Bench) -> None:
    case_id = unknown(bench)
    elsewhere = replace(HOLDS, addresses=OTHER_ADDRESSES)
    for decision in (D.APPLIED, D.ABSENT):
        with pytest.raises(DecisionRefused, match="opened for other systems"):
            decide(bench, case_id, decision, elsewhere)
    ended = stuck_elsewhere(bench)
    decide(bench, ended, D.CANCEL, elsewhere)
    assert bench.standing(ended) == (C.CANCELLED, None)


def stuck_elsewhere(bench: Bench) -> str:
    lease = bench.open_and_lease(other_subject())
    return attention(bench, lease)


def test_an_exception_id_goes_with_an_applied_exception_and_nothing_else(bench: Bench) -> None:
    with pytest.raises(DecisionRefused, match="goes with 'applied' about a DND exception only"):
        decide(bench, unknown(bench), D.APPLIED, exception_id="X9")


def test_of_two_decisions_at_the_same_moment_one_is_carried_out(bench: Bench) -> None:
    case_id = unknown(bench)
    decide(bench, case_id, D.APPLIED)
    with pytest.raises(DecisionRefused):
        decide(bench, case_id, D.ABSENT)
    assert bench.step(case_id, REGISTRATION).status is S.DONE


# Fences


@pytest.mark.parametrize("decision", [D.RETRY, D.CANCEL])
def test_a_runner_whose_lease_ended_is_fenced_off_by_a_decision(bench: Bench, decision: Decision) -> None:
    lease = bench.open_and_lease()
    bench.clock.advance(LEASE_S)
    decide(bench, lease.case_id, decision)
    before = bench.content()
    with pytest.raises(LeaseLost):
        bench.bring(lease, REGISTRATION, S.OPEN)
    assert bench.content() == before


# Late answers


def test_each_step_that_a_late_answer_contradicts_is_decided_for_itself(bench: Bench) -> None:
    lease = bench.open_and_lease()
    for step in (REGISTRATION, DEVICE):
        bench.do(lease, step, applied)
    bench.clock.advance(QUIET_S)
    bench.finish(lease)
    late(bench, lease, "not_applied")
    late(bench, lease, "not_applied", DEVICE)
    assert bench.case(lease.case_id).contradicted is REGISTRATION
    decide(bench, lease.case_id, D.APPLIED)
    assert bench.standing(lease.case_id) == (C.ATTENTION, LATE_ANSWER)
    assert bench.case(lease.case_id).contradicted is DEVICE
    decide(bench, lease.case_id, D.APPLIED)
    assert bench.standing(lease.case_id) == (C.DONE, None)
    assert bench.case(lease.case_id).contradicted is None


def test_the_step_that_is_contradicted_is_asked_about_not_the_one_that_agreed_last(bench: Bench) -> None:
    lease = bench.open_and_lease()
    for step in (REGISTRATION, DEVICE):
        bench.do(lease, step, applied)
    bench.finish(lease)
    late(bench, lease, "not_applied")
    late(bench, lease, "applied", DEVICE)
    assert bench.case(lease.case_id).contradicted is REGISTRATION


def test_what_a_done_step_had_come_to_is_kept_when_it_is_confirmed(bench: Bench) -> None:
    case_id = not_applied_though_done(bench)
    decide(bench, case_id, D.APPLIED)
    outcome = bench.step(case_id, REGISTRATION).outcome
    assert outcome == {"changed": ["ppid"], "attempt": 1, "decided": "applied"}


def test_what_a_step_was_refused_for_is_no_part_of_what_was_applied_after_all(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.do(lease, DEVICE, lambda s: s.refuse("DEVICE_ALREADY_REGISTERED", detail={"refused": "for this"}))
    case_id = attention(bench, lease)
    assert bench.step(case_id, DEVICE).outcome == {"refused": "for this"}
    decide(bench, case_id, D.APPLIED)
    assert bench.step(case_id, DEVICE).outcome == {"decided": "applied"}


def test_a_case_that_a_late_answer_contradicts_is_not_cancelled_before_anyone_works_it(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.bring(lease, REGISTRATION, S.OPEN)
    bench.clock.advance(QUIET_S)
    bench.do(lease, REGISTRATION, lambda s: s.absent())
    bench.park(lease)
    late(bench, lease, "applied")
    with pytest.raises(DecisionRefused, match="applied, absent"):
        decide(bench, lease.case_id, D.CANCEL)
    decide(bench, lease.case_id, D.APPLIED)
    assert bench.step(lease.case_id, REGISTRATION).status is S.DONE
