"""Which cases are found, in which order, and what keeps a found case from being worked."""

from datetime import timedelta

import pytest

from onboarding.clocks import utc_now
from onboarding.ledger.leasing import NO_PROGRESS, SETTINGS_CHANGED, Closed
from onboarding.ledger.states import CaseStatus, StepStatus
from onboarding.ledger.writes import Lease
from tests.ledger.bench import (
    DEVICE,
    DISPENSATION,
    LEASE_S,
    OTHER_ADDRESSES,
    OTHER_SUBJECT,
    REGISTRATION,
    THIRD_SUBJECT,
    Bench,
    other_subject,
)

S = StepStatus
IN_A_DAY = timedelta(days=1)


def test_due_cases_are_found_oldest_due_first_up_to_a_limit(bench: Bench) -> None:
    first, second, third = (bench.open(other_subject(s)) for s in (OTHER_SUBJECT, THIRD_SUBJECT, "D" * 32))
    bench.park(bench.lease(second), -60)
    bench.park(bench.lease(first), 0)
    bench.park(bench.lease(third), -30)
    assert bench.ledger.find_due(limit=10) == [second, third, first]
    assert bench.ledger.find_due(limit=2) == [second, third]


def test_only_cases_of_the_modes_that_are_asked_for_are_found(bench: Bench) -> None:
    case_id = bench.open()
    assert bench.ledger.find_due(limit=1, modes=["test"]) == [case_id]
    assert bench.ledger.find_due(limit=1, modes=["training", "active"]) == []


def test_cases_of_another_batch_are_not_found(bench: Bench) -> None:
    bench.open()
    assert bench.ledger.find_due(limit=1, batch_id="NO SUCH BATCH") == []


def test_a_case_that_leaves_says_why_and_holds_no_lease(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.need_attention(lease)
    (row,) = bench.sql("SELECT lease_owner, lease_until, lease_epoch FROM onboarding_case")
    assert set(row.values()) == {None}
    assert (bench.last_event(lease.case_id).kind, bench.last_event(lease.case_id).code) == ("case_attention", "LOOK")


def test_a_parked_case_is_found_when_it_is_due_and_not_before(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.park(lease, 3600)
    case = bench.case(lease.case_id)
    assert (case.status, case.reason) == (CaseStatus.READY, "LATER")
    assert case.due_at is not None
    assert bench.ledger.find_due(limit=1) == []
    assert bench.ledger.find_due(limit=1, now=case.due_at - timedelta(seconds=1)) == []
    assert bench.ledger.find_due(limit=1, now=case.due_at) == [lease.case_id]
    assert bench.last_event(lease.case_id).detail == {"due_at": case.due_at.isoformat()}


def test_a_case_that_is_held_is_found_once_its_lease_is_over(bench: Bench) -> None:
    lease = bench.open_and_lease()
    assert bench.ledger.find_due(limit=1) == []
    bench.clock.advance(LEASE_S)
    assert bench.ledger.find_due(limit=1) == [lease.case_id]


@pytest.mark.parametrize("before", ["attention", "parked", "blocked"])
def test_a_killed_runner_leaves_a_case_that_is_found_as_soon_as_its_lease_is_over(bench: Bench, before: str) -> None:
    lease = bench.open_and_lease()
    if before == "attention":
        bench.need_attention(lease)
    else:
        bench.park(lease, 3600, blocked_login="digest" if before == "blocked" else None)
    bench.lease(lease.case_id, retry=True)  # and it is never heard of again
    bench.clock.advance(LEASE_S)
    assert bench.ledger.find_due(limit=1, logins=["digest"]) == [lease.case_id]


@pytest.mark.parametrize("ending", ["finish", "need_attention"])
def test_a_case_that_is_done_or_needs_a_person_is_never_due(bench: Bench, ending: str) -> None:
    getattr(bench, ending)(bench.open_and_lease())
    assert bench.ledger.find_due(limit=1, now=utc_now() + IN_A_DAY) == []


# Refused log-ins


def blocked_case(bench: Bench) -> str:
    lease = bench.open_and_lease()
    bench.ledger.remember_login_refused("OpenSpecimen", "old digest", "AUTH_INVALID_CREDENTIALS")
    bench.park(lease, 3600, blocked_login="old digest")
    return lease.case_id


def test_a_case_behind_a_refused_log_in_waits_until_the_settings_change(bench: Bench) -> None:
    case_id = blocked_case(bench)
    assert bench.case(case_id).blocked
    later = utc_now() + IN_A_DAY
    assert bench.ledger.find_due(limit=1, logins=["old digest", "another system's"], now=later) == []
    assert bench.ledger.find_due(limit=1, logins=["new digest", "another system's"]) == [case_id]
    assert bench.ledger.find_due(limit=1, now=later) == []
    assert not bench.case(bench.lease(case_id).case_id).blocked


def test_a_refused_log_in_keeps_no_case_waiting_that_does_not_wait_for_it(bench: Bench) -> None:
    blocked_case(bench)
    other = bench.open(other_subject())
    assert bench.ledger.find_due(limit=9, logins=["old digest"]) == [other]


def test_a_case_behind_a_refused_log_in_is_due_once_the_refusal_is_forgotten(bench: Bench) -> None:
    case_id = blocked_case(bench)
    bench.ledger.remember_login_refused("Clinical One", "another digest", "invalid_client")
    bench.ledger.forget_login_refused("Clinical One")
    assert bench.ledger.find_due(limit=1, logins=["old digest"]) == []
    bench.ledger.remember_login_refused("Clinical One", "another digest", "invalid_client")
    bench.ledger.forget_login_refused("OpenSpecimen")
    assert bench.ledger.find_due(limit=1, logins=["old digest"]) == [case_id]


def test_a_refused_log_in_is_known_to_every_process_by_its_digest(bench: Bench) -> None:
    ledger = bench.ledger
    assert ledger.login_refused("OpenSpecimen", "digest") is None
    ledger.remember_login_refused("OpenSpecimen", "digest", "AUTH_INVALID_CREDENTIALS")
    ledger.remember_login_refused("OpenSpecimen", "digest", "AUTH_USER_LOCKED")
    assert ledger.login_refused("OpenSpecimen", "digest") == "AUTH_USER_LOCKED"
    assert ledger.login_refused("OpenSpecimen", "another") is None
    assert ledger.login_refused("Clinical One", "digest") is None


def test_a_pause_holds_for_its_system_and_is_never_shortened(bench: Bench) -> None:
    ledger = bench.ledger
    assert ledger.not_before("OpenSpecimen") == 0
    ledger.remember_not_before("OpenSpecimen", -5)
    assert ledger.not_before("OpenSpecimen") == 0
    ledger.remember_not_before("OpenSpecimen", 600)
    ledger.remember_not_before("OpenSpecimen", 1)
    assert 590 < ledger.not_before("OpenSpecimen") <= 600
    ledger.remember_not_before("OpenSpecimen", 1200)
    assert 1190 < ledger.not_before("OpenSpecimen") <= 1200
    assert ledger.not_before("Clinical One") == 0
    ledger.remember_login_refused("OpenSpecimen", "digest", "AUTH_USER_LOCKED")
    assert 1190 < ledger.not_before("OpenSpecimen") <= 1200, "a refused log-in is no pause"
    ledger.forget_login_refused("OpenSpecimen")
    assert ledger.not_before("OpenSpecimen") > 0


# What keeps a case from being worked


def test_takings_without_progress_are_capped(bench: Bench) -> None:
    case_id = bench.open()
    for number in (1, 2, 3):
        bench.park(bench.lease(case_id, max_idle_takings=3))
        assert bench.case(case_id).idle_takings == number
    assert bench.take(case_id, max_idle_takings=3) == Closed(CaseStatus.ATTENTION, NO_PROGRESS)
    assert bench.standing(case_id) == (CaseStatus.ATTENTION, NO_PROGRESS)
    assert bench.case(case_id).lease_left_s == 0
    assert bench.case(bench.lease(case_id, retry=True, max_idle_takings=3).case_id).idle_takings == 1


@pytest.mark.parametrize(
    ("step", "progress"),
    [(REGISTRATION, S.DONE), (REGISTRATION, S.REFUSED), (REGISTRATION, S.UNKNOWN), (DISPENSATION, None)],
)
def test_progress_begins_the_count_anew(bench: Bench, step: object, progress: StepStatus | None) -> None:
    case_id = bench.open()
    bench.park(bench.lease(case_id))
    lease = bench.lease(case_id)
    assert bench.case(case_id).idle_takings == 2
    if progress is None:
        bench.do(lease, DISPENSATION, lambda s: s.wait("NOT_DISPENSED", awaited=True))
    else:
        bench.bring(lease, REGISTRATION, progress)
    assert bench.case(case_id).idle_takings == 0
    assert bench.case(case_id).takings == 2


@pytest.mark.parametrize("move", ["wait", "intend", "doubt"])
def test_waits_and_attempts_are_no_progress(bench: Bench, move: str) -> None:
    lease = bench.open_and_lease()
    if move == "wait":
        bench.do(lease, REGISTRATION, lambda s: s.wait("UNREACHABLE"))
    else:
        bench.bring(lease, REGISTRATION, S.OPEN)
    if move == "doubt":
        bench.do(lease, REGISTRATION, lambda s: s.doubt("CUT"))
    assert bench.case(lease.case_id).idle_takings == 1


def test_a_case_is_never_worked_against_other_systems_than_its_own(bench: Bench) -> None:
    case_id = bench.open()
    closed = Closed(CaseStatus.ATTENTION, SETTINGS_CHANGED)
    assert bench.take(case_id, addresses=OTHER_ADDRESSES) == closed
    assert bench.take(case_id, addresses=OTHER_ADDRESSES, retry=True) == closed
    assert isinstance(bench.take(case_id, retry=True), Lease)
    assert bench.ledger.trail_problems(case_id) == []


# A person's retry


def test_a_retry_tries_refused_steps_again_and_is_audited(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.bring(lease, REGISTRATION, S.REFUSED)
    bench.bring(lease, DEVICE, S.DONE)
    bench.need_attention(lease)
    again = bench.lease(lease.case_id, retry=True)
    assert bench.statuses(lease.case_id) == [S.PENDING, S.PENDING, S.DONE, S.PENDING]
    assert bench.standing(lease.case_id) == (CaseStatus.READY, None)
    assert bench.kinds(lease.case_id)[-3:] == ["step_retried", "case_resumed", "lease_taken"]
    assert again.fence == 2


def test_a_retry_of_a_case_with_an_unknown_step_sends_nothing_and_changes_nothing(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.bring(lease, REGISTRATION, S.UNKNOWN)
    bench.bring(lease, DEVICE, S.REFUSED)
    bench.need_attention(lease)
    before = bench.content()
    assert bench.take(lease.case_id, retry=True) == Closed(CaseStatus.ATTENTION, "LOOK")
    assert bench.content() == before


def test_a_retry_begins_the_counts_of_a_refused_step_anew(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.bring(lease, REGISTRATION, S.OPEN)
    bench.do(lease, REGISTRATION, lambda s: s.absent())
    bench.do(lease, REGISTRATION, lambda s: s.refuse("SENDS_USED_UP"))
    bench.need_attention(lease)
    bench.lease(lease.case_id, retry=True)
    intent = bench.step(lease.case_id, REGISTRATION).intent
    assert (intent.absences, intent.probes, intent.attempts) == (0, 0, 1)
