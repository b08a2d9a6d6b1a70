"""Leases and fences: one runner at a time, and whoever was overtaken writes nothing more."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest

from onboarding.clocks import boot_seconds
from onboarding.errors import LeaseLost, LedgerError
from onboarding.ledger.claims import ExceptionClaim, take_claims
from onboarding.ledger.leasing import Closed, Runner
from onboarding.ledger.states import CaseStatus, ForbiddenTransition, StepName, StepStatus
from onboarding.ledger.views import Held
from onboarding.ledger.writes import CaseWrite, Lease
from onboarding.request import OnboardingRequest
from tests.ledger.bench import (
    ADDRESSES,
    DEVICE,
    EXCEPTION,
    INTENT,
    LEASE_S,
    QUIET_S,
    REGISTRATION,
    Bench,
    applied,
    other_subject,
    registration_claim,
)
from tests.support.requests import LEFT_OUT, request

S = StepStatus

WRITES: dict[str, Callable[[CaseWrite], Any]] = {
    "renew": lambda w: None,
    "look": lambda w: w.step(REGISTRATION).view(),
    "found": lambda w: w.step(REGISTRATION).found({}),
    "intend": lambda w: w.step(REGISTRATION).intend(INTENT),
    "mirror_intent": lambda w: w.step(EXCEPTION).mirror_intent(1),
    "applied": lambda w: w.step(DEVICE).applied({}, code="REGISTERED", credentials=b"{}"),
    "doubt": lambda w: w.step(DEVICE).doubt("CUT"),
    "not_applied": lambda w: w.step(DEVICE).not_applied("THROTTLED"),
    "absent": lambda w: w.step(DEVICE).absent(),
    "inconclusive": lambda w: w.step(DEVICE).inconclusive("UNKNOWN"),
    "refuse": lambda w: w.step(REGISTRATION).refuse("REFUSED"),
    "wait": lambda w: w.step(REGISTRATION).wait("UNREACHABLE"),
    "probed": lambda w: w.step(DEVICE).probed("ASKING", quiet_s=1),
    "roll_back": lambda w: w.step(REGISTRATION).roll_back("NOT_DISPENSED"),
    "take_claims": lambda w: take_claims(w, [registration_claim("subject")]),
    "take_exception": lambda w: ExceptionClaim.take(w, "content"),
    "record": lambda w: w.record("note", reason="because"),
    "need_attention": lambda w: w.need_attention("LOOK"),
    "park": lambda w: w.park(1.0, "LATER"),
    "contradict": lambda w: w.contradict("LATE"),
}


def test_one_of_many_threads_gets_the_lease(bench: Bench) -> None:
    case_id = bench.open()
    start = Barrier(8)

    def take(_: int) -> Any:
        start.wait(30)
        return bench.take(case_id)

    with ThreadPoolExecutor(8) as threads:
        taken = list(threads.map(take, range(8)))
    assert sum(isinstance(each, Lease) for each in taken) == 1
    assert [each for each in taken if not isinstance(each, Lease)] == [Held(case_id, LEASE_S)] * 7
    assert (bench.case(case_id).fence, bench.case(case_id).takings) == (1, 1)


def test_a_lease_is_taken_with_a_random_owner_and_a_grown_fence(bench: Bench) -> None:
    first = bench.open_and_lease()
    bench.park(first)
    second = bench.lease(first.case_id, flow_run_id="run 2")
    assert second.owner != first.owner
    assert (first.fence, second.fence) == (1, 2)
    case = bench.case(first.case_id)
    assert (case.fence, case.takings, case.flow_run_id, case.lease_left_s) == (2, 2, "run 2", LEASE_S)
    assert bench.last_event(first.case_id).detail == {"fence": 2, "flow_run_id": "run 2"}


def test_a_held_case_says_how_long_the_lease_still_lasts(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.clock.advance(10)
    before = bench.content()
    assert bench.take(lease.case_id) == Held(lease.case_id, LEASE_S - 10)
    assert bench.content() == before


def test_a_lease_is_held_until_its_last_moment(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.clock.advance(LEASE_S - 0.25)
    assert bench.ledger.find_due(limit=1) == []
    assert bench.take(lease.case_id) == Held(lease.case_id, 0.25)


def test_an_expired_lease_is_taken_over(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.clock.advance(LEASE_S)
    assert bench.lease(lease.case_id).fence == 2


def test_an_expired_lease_that_nobody_took_can_still_be_renewed(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.clock.advance(LEASE_S + 1)
    bench.ledger.renew(lease)
    assert bench.take(lease.case_id) == Held(lease.case_id, LEASE_S)


def test_an_overtaken_runner_is_fenced_off_from_every_write(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.bring(lease, DEVICE, S.OPEN)
    bench.clock.advance(LEASE_S + QUIET_S)
    bench.lease(lease.case_id)
    before = bench.content()
    for name, write in WRITES.items():
        with pytest.raises(LeaseLost, match=f"case {lease.case_id} was taken over"):
            bench.ledger.fenced(lease, write)
        assert bench.content() == before, name


@pytest.mark.parametrize("ending", ["park", "need_attention", "finish"])
def test_a_runner_that_gave_its_lease_back_writes_nothing_more(bench: Bench, ending: str) -> None:
    lease = bench.open_and_lease()
    getattr(bench, ending)(lease)
    assert bench.case(lease.case_id).lease_left_s == 0
    before = bench.content()
    with pytest.raises(LeaseLost):
        bench.ledger.renew(lease)
    assert bench.content() == before


def test_every_fenced_write_renews_the_lease(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.clock.advance(20)
    bench.do(lease, REGISTRATION, lambda s: s.wait("UNREACHABLE"))
    assert bench.case(lease.case_id).lease_left_s == LEASE_S


def test_the_lease_reaches_past_the_quiet_time_of_an_intent(bench: Bench) -> None:
    lease = bench.lease(bench.open(), seconds=2)
    bench.bring(lease, REGISTRATION, S.OPEN)
    assert bench.case(lease.case_id).lease_left_s > QUIET_S
    assert lease.valid_until > boot_seconds() + QUIET_S
    bench.ledger.renew(lease)
    assert bench.case(lease.case_id).lease_left_s > QUIET_S


def test_the_lease_reaches_past_the_quiet_time_of_a_probe_and_of_a_shared_intent(bench: Bench) -> None:
    lease = bench.lease(bench.open(), seconds=2)
    bench.bring(lease, DEVICE, S.OPEN)
    bench.clock.advance(5)
    bench.do(lease, DEVICE, lambda s: s.probed("ASKING", quiet_s=20))
    assert bench.case(lease.case_id).lease_left_s > 20
    bench.ledger.fenced(lease, lambda w: ExceptionClaim.take(w, "content").intend(INTENT))  # type: ignore[union-attr]
    assert bench.case(lease.case_id).lease_left_s > 20


def test_the_runner_s_own_idea_of_its_lease_never_outlasts_the_ledger_s(bench: Bench) -> None:
    before = boot_seconds()
    lease = bench.open_and_lease()
    assert before + LEASE_S <= lease.valid_until <= boot_seconds() + LEASE_S
    bench.park(lease)
    assert lease.valid_until <= boot_seconds()


def test_a_runner_counts_its_lease_from_before_the_ledger_looks_at_its_clock(bench: Bench) -> None:
    lease = bench.open_and_lease()
    looked: list[float] = []
    bench.ledger.fenced(lease, lambda _write: looked.append(boot_seconds()))
    assert lease.valid_until <= looked[0] + LEASE_S


def test_the_shortest_lease_lasts_as_long_for_its_runner_as_in_the_ledger(bench: Bench) -> None:
    """Were it counted in whole seconds, it would last too long for the runner, or not at all."""
    seconds = 0.1  # the least that ONBOARDING_LEASE_SECONDS takes
    before = boot_seconds()
    lease = bench.lease(bench.open(), seconds=seconds)
    assert before + seconds <= lease.valid_until <= boot_seconds() + seconds
    before = boot_seconds()
    bench.ledger.renew(lease)
    assert before + seconds <= lease.valid_until <= boot_seconds() + seconds


def test_a_lease_taken_after_a_reboot_lasts_no_longer_than_any_other(bench: Bench) -> None:
    """The clock begins anew: by it, the lease from before the reboot would last for as long as the machine was up."""
    lease = bench.open_and_lease()
    bench.clock.reboot()
    bench.lease(lease.case_id)
    assert bench.take(lease.case_id) == Held(lease.case_id, LEASE_S)
    bench.clock.advance(LEASE_S)
    assert bench.ledger.find_due(limit=1) == [lease.case_id]


def test_a_reboot_ends_every_lease(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.clock.reboot()
    assert bench.case(lease.case_id).lease_left_s == 0
    assert bench.ledger.find_due(limit=1) == [lease.case_id]
    assert bench.lease(lease.case_id).fence == 2


def test_after_a_reboot_quiet_times_start_anew(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.bring(lease, REGISTRATION, S.OPEN)
    bench.clock.advance(QUIET_S)
    assert bench.step(lease.case_id, REGISTRATION).intent.quiet_left_s == 0
    bench.clock.reboot()
    assert bench.step(lease.case_id, REGISTRATION).intent.quiet_left_s == QUIET_S
    bench.lease(lease.case_id)
    bench.clock.advance(4)
    assert bench.step(lease.case_id, REGISTRATION).intent.quiet_left_s == QUIET_S - 4


def test_the_actor_of_a_lease_stands_in_the_trail(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.bring(lease, REGISTRATION, S.REFUSED)
    assert bench.last_event(lease.case_id).actor == "runner"


def test_a_case_that_is_not_there_cannot_be_taken(bench: Bench) -> None:
    with pytest.raises(LedgerError, match="there is no case NOBODY"):
        bench.take("NOBODY")


def test_a_case_that_needs_attention_is_taken_again_only_if_that_is_asked_for(bench: Bench) -> None:
    case_id = bench.open()
    bench.need_attention(bench.lease(case_id))
    runner = Runner("runner", LEASE_S)
    assert bench.ledger.take(case_id, runner, ADDRESSES) == Closed(CaseStatus.ATTENTION, "LOOK")
    assert isinstance(bench.ledger.take(case_id, runner, ADDRESSES, retry=True), Lease)


@pytest.mark.parametrize("status", [CaseStatus.DONE, CaseStatus.CANCELLED, CaseStatus.ATTENTION])
def test_a_closed_case_is_not_taken(bench: Bench, status: CaseStatus) -> None:
    case_id = bench.open()
    if status is CaseStatus.DONE:
        bench.finish(bench.lease(case_id))
    elif status is CaseStatus.ATTENTION:
        bench.need_attention(bench.lease(case_id))
    elif status is CaseStatus.CANCELLED:
        bench.sql("UPDATE onboarding_case SET status = 'cancelled'")
    before = bench.content()
    taken = bench.take(case_id, retry=status is not CaseStatus.ATTENTION)
    assert taken == Closed(status, "LOOK" if status is CaseStatus.ATTENTION else None)
    assert bench.content() == before


def test_a_write_that_fails_halfway_keeps_nothing(bench: Bench) -> None:
    lease = bench.open_and_lease()
    before = bench.content()

    def change(write: CaseWrite) -> None:
        take_claims(write, [registration_claim("subject")])
        applied(write.step(REGISTRATION))
        write.step(DEVICE).absent()

    with pytest.raises(ForbiddenTransition):
        bench.ledger.fenced(lease, change)
    assert bench.content() == before


@pytest.mark.parametrize("wanted", [request(), request(device=LEFT_OUT)], ids=["every step", "no device"])
def test_the_write_that_does_the_last_step_can_finish_the_case(bench: Bench, wanted: OnboardingRequest) -> None:
    lease = bench.open_and_lease(wanted)

    def do(step: StepName) -> Callable[[CaseWrite], bool]:
        def change(write: CaseWrite) -> bool:
            write.step(step).found({})
            return write.finish_if_done()

        return change

    left = [step for step in StepName if bench.step(lease.case_id, step).status is StepStatus.PENDING]
    finished = [bench.ledger.fenced(lease, do(step)) for step in left]
    assert finished == [False] * (len(left) - 1) + [True]
    assert bench.standing(lease.case_id) == (CaseStatus.DONE, None)
    assert bench.case(lease.case_id).lease_left_s == 0
    assert bench.kinds(lease.case_id)[-2:] == ["step_found", "case_finished"]


def find_all(write: CaseWrite) -> None:
    for step in StepName:
        write.step(step).found({})


def test_a_write_that_does_no_step_finishes_no_case(bench: Bench) -> None:
    lease = bench.open_and_lease()

    def look(write: CaseWrite) -> bool:
        assert write.step(EXCEPTION).status is S.DONE
        return write.finish_if_done()

    bench.ledger.fenced(lease, find_all)
    assert not bench.ledger.fenced(lease, look)
    assert bench.standing(lease.case_id) == (CaseStatus.READY, None)


def test_a_write_that_gives_the_case_to_a_person_does_not_finish_it(bench: Bench) -> None:
    lease = bench.open_and_lease()

    def change(write: CaseWrite) -> bool:
        find_all(write)
        write.need_attention("LOOK")
        return write.finish_if_done()

    assert not bench.ledger.fenced(lease, change)
    assert bench.standing(lease.case_id) == (CaseStatus.ATTENTION, "LOOK")


def test_a_case_is_not_finished_while_a_step_is_left(bench: Bench) -> None:
    lease = bench.open_and_lease()
    with pytest.raises(AssertionError, match="not finished"):
        bench.ledger.fenced(lease, lambda w: w.finish())
    assert bench.standing(lease.case_id) == (CaseStatus.READY, None)


def test_writes_of_many_cases_at_once_are_all_kept(bench: Bench) -> None:
    leases = [bench.open_and_lease(other_subject(f"{number:032X}")) for number in range(8)]

    def work(lease: Lease) -> None:
        for _ in range(3):
            bench.do(lease, REGISTRATION, lambda s: s.wait("UNREACHABLE"))
        bench.finish(lease)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, leases))
    for lease in leases:
        assert bench.standing(lease.case_id) == (CaseStatus.DONE, None)
        assert bench.ledger.trail_problems(lease.case_id) == []
        assert bench.kinds(lease.case_id).count("step_waiting") == 3
