"""What each move of a step leaves in the ledger: status, intent, doubt, counts, outcome and an entry of the trail."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from onboarding.ledger.states import STEP_TRANSITIONS, ForbiddenTransition, StepEvent, StepStatus
from onboarding.ledger.step_writes import StepWrite
from onboarding.ledger.views import StepView
from tests.ledger.bench import (
    DEVICE,
    DISPENSATION,
    INTENT,
    QUIET_S,
    REGISTRATION,
    Bench,
    applied,
    other_subject,
    without_device,
)

S = StepStatus

MOVES: dict[StepEvent, Callable[[StepWrite], Any]] = {
    StepEvent.FOUND: lambda s: s.found({}),
    StepEvent.INTENT: lambda s: s.mirror_intent(1),
    StepEvent.APPLIED: lambda s: s.applied({}, code="UPDATED"),
    StepEvent.NOT_APPLIED: lambda s: s.not_applied("THROTTLED"),
    StepEvent.IN_DOUBT: lambda s: s.doubt("CUT"),
    StepEvent.PROBED_ABSENT: lambda s: s.absent(),
    StepEvent.INCONCLUSIVE: lambda s: s.inconclusive("MASKED"),
    StepEvent.REFUSED: lambda s: s.refuse("CPR_DUP_PPID"),
    StepEvent.WAITING: lambda s: s.wait("UNREACHABLE"),
    StepEvent.ROLLED_BACK: lambda s: s.roll_back("NOT_DISPENSED"),
    StepEvent.RETRIED: lambda s: s.retry(),
}


@pytest.mark.parametrize("event", MOVES)
def test_every_move_obeys_the_table_and_leaves_one_entry(bench: Bench, event: StepEvent) -> None:
    for number, status in enumerate(StepStatus):
        subject = f"{number:032X}"
        absent = status is S.NOT_REQUESTED
        lease = bench.open_and_lease(without_device(subject__subject_id=subject) if absent else other_subject(subject))
        step = DEVICE if absent else REGISTRATION
        if not absent:
            bench.bring(lease, step, status)
        before = bench.content()
        follows = STEP_TRANSITIONS[event].get(status)
        if follows is None:
            with pytest.raises(ForbiddenTransition):
                bench.do(lease, step, MOVES[event])
            assert bench.content() == before
            continue
        entries = len(bench.kinds(lease.case_id))
        bench.do(lease, step, MOVES[event])
        assert bench.step(lease.case_id, step).status is follows
        assert len(bench.kinds(lease.case_id)) == entries + 1
        last = bench.last_event(lease.case_id)
        assert (last.kind, last.step, last.detail["fence"]) == (f"step_{event}", step, lease.fence)


def test_an_intent_is_committed_whole(bench: Bench) -> None:
    lease = bench.open_and_lease()
    assert bench.do(lease, REGISTRATION, lambda s: s.intend(INTENT)) == 1
    step = bench.step(lease.case_id, REGISTRATION)
    assert (step.status, step.intent.attempts, step.intent.in_doubt) == (S.OPEN, 1, False)
    assert step.intent.quiet_left_s == QUIET_S
    assert step.intent.facts == {"before": {"ppid": "digest"}, "quiet_s": QUIET_S}
    (row,) = bench.sql("SELECT intent_sealed FROM onboarding_step WHERE name = 'registration'")
    place = f"step/{lease.case_id}/registration/intent"
    assert bench.ledger.key.decrypt(bytes(row["intent_sealed"]), place) == INTENT.body
    assert bench.last_event(lease.case_id).detail == {"attempt": 1, "quiet_s": QUIET_S, "fence": 1}


def test_the_quiet_time_passes_and_does_not_go_below_zero(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.bring(lease, REGISTRATION, S.OPEN)
    for passed, left in ((4, 6), (6, 0), (100, 0)):
        bench.clock.advance(passed)
        assert bench.step(lease.case_id, REGISTRATION).intent.quiet_left_s == left


def test_applied_closes_the_step_with_its_outcome_and_attempt(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.do(lease, REGISTRATION, lambda s: s.intend(INTENT))
    bench.do(lease, REGISTRATION, lambda s: s.doubt("CUT", http_status=502, vendor_text="<html>"))
    bench.do(lease, REGISTRATION, lambda s: s.applied({"changed": ["ppid"]}, code="UPDATED"))
    step = bench.step(lease.case_id, REGISTRATION)
    assert (step.status, step.code, step.intent.in_doubt, step.http_status) == (S.DONE, "UPDATED", False, None)
    assert step.outcome == {"changed": ["ppid"], "attempt": 1}
    assert step.done_at is not None
    assert bench.ledger.vendor_texts(lease.case_id) == {}


def test_credentials_are_kept_encrypted(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.bring(lease, DEVICE, S.OPEN)
    secret = json.dumps({"otp": "123456"}).encode()
    bench.do(lease, DEVICE, lambda s: s.applied({"device_id": "D"}, code="REGISTERED", credentials=secret))
    (row,) = bench.sql("SELECT credentials_sealed FROM onboarding_step WHERE name = 'device'")
    sealed = bytes(row["credentials_sealed"])
    assert b"123456" not in sealed
    assert bench.ledger.key.decrypt(sealed, f"step/{lease.case_id}/device/credentials") == secret


def test_what_the_vendor_wrote_is_kept_encrypted_even_if_it_is_no_text(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.do(lease, REGISTRATION, lambda s: s.wait("UNREACHABLE", http_status=503, vendor_text="half \ud800 \x00 Ä"))
    assert bench.ledger.vendor_texts(lease.case_id) == {"registration": "half \\ud800 \x00 Ä"}
    assert bench.step(lease.case_id, REGISTRATION).http_status == 503
    assert bench.last_event(lease.case_id).detail["http_status"] == 503


def test_not_applied_without_doubt_closes_the_intent(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.bring(lease, REGISTRATION, S.OPEN)
    bench.do(lease, REGISTRATION, lambda s: s.not_applied("THROTTLED", http_status=429))
    step = bench.step(lease.case_id, REGISTRATION)
    assert (step.status, step.waits, step.intent.attempts, step.intent.facts) == (S.PENDING, 1, 1, {})
    (row,) = bench.sql("SELECT intent, intent_sealed, quiet_until FROM onboarding_step WHERE name = 'registration'")
    assert set(row.values()) == {None}


def test_a_doubt_is_not_ended_by_a_later_answer_that_nothing_was_applied(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.bring(lease, DEVICE, S.OPEN)
    bench.do(lease, DEVICE, lambda s: s.doubt("CUT"))
    assert bench.do(lease, DEVICE, lambda s: s.intend(INTENT, probe=True)) == 2
    bench.do(lease, DEVICE, lambda s: s.not_applied("THROTTLED"))
    step = bench.step(lease.case_id, DEVICE)
    assert (step.status, step.intent.in_doubt, step.intent.probes, step.intent.attempts) == (S.OPEN, True, 1, 2)
    assert step.intent.facts["quiet_s"] == QUIET_S


def test_a_doubt_is_not_ended_by_a_later_refusal(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.bring(lease, DEVICE, S.OPEN)
    bench.do(lease, DEVICE, lambda s: s.doubt("CUT"))
    with pytest.raises(AssertionError, match="never by the class of a later answer"):
        bench.do(lease, DEVICE, lambda s: s.refuse("DEVICE_ALREADY_REGISTERED"))
    assert bench.step(lease.case_id, DEVICE).status is S.OPEN


def test_nothing_but_a_probe_is_sent_while_in_doubt_and_no_probe_without(bench: Bench) -> None:
    lease = bench.open_and_lease()
    with pytest.raises(AssertionError, match="settled by a probe"):
        bench.do(lease, DEVICE, lambda s: s.intend(INTENT, probe=True))
    bench.bring(lease, DEVICE, S.OPEN)
    bench.do(lease, DEVICE, lambda s: s.doubt("CUT"))
    with pytest.raises(AssertionError, match="settled by a probe"):
        bench.do(lease, DEVICE, lambda s: s.intend(INTENT))


def test_a_probe_that_proves_absence_ends_the_doubt_and_is_counted(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.bring(lease, REGISTRATION, S.OPEN)
    bench.do(lease, REGISTRATION, lambda s: s.doubt("CUT"))
    bench.do(lease, REGISTRATION, lambda s: s.absent())
    step = bench.step(lease.case_id, REGISTRATION)
    assert (step.status, step.intent.in_doubt, step.intent.absences) == (S.PENDING, False, 1)
    assert bench.do(lease, REGISTRATION, lambda s: s.intend(INTENT)) == 2


def test_a_probe_with_an_effect_is_counted_and_is_quiet_after_it(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.bring(lease, DEVICE, S.OPEN)
    bench.clock.advance(QUIET_S)
    bench.do(lease, DEVICE, lambda s: s.probed("ASKING_FOR_ACCESS_CODE", quiet_s=7))
    step = bench.step(lease.case_id, DEVICE)
    assert (step.status, step.intent.probes, step.intent.attempts, step.intent.quiet_left_s) == (S.OPEN, 1, 1, 7)


def test_meeting_already_registered_is_remembered(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.do(lease, DEVICE, lambda s: s.refuse("DEVICE_ALREADY_REGISTERED", already_registered=True))
    bench.need_attention(lease)
    lease = bench.lease(lease.case_id, retry=True)
    bench.do(lease, DEVICE, lambda s: s.refuse("ANOTHER"))
    assert bench.step(lease.case_id, DEVICE).met_already_registered


def test_waiting_for_a_dispensation_has_a_beginning_that_stays(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.do(lease, DISPENSATION, lambda s: s.wait("NOT_DISPENSED", awaited=True))
    first = bench.step(lease.case_id, DISPENSATION).waiting_since
    bench.do(lease, DISPENSATION, lambda s: s.wait("NOT_DISPENSED", awaited=True))
    step = bench.step(lease.case_id, DISPENSATION)
    assert step.waiting_since == first is not None
    assert step.waits == 2
    bench.do(lease, DISPENSATION, lambda s: s.found({}, code="DISPENSED"))
    step = bench.step(lease.case_id, DISPENSATION)
    assert (step.waiting_since, step.waits, step.code) == (None, 0, "DISPENSED")


def test_a_rolled_back_dispensation_is_looked_at_again(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.do(lease, DISPENSATION, lambda s: s.found({"connection": "CloudtoCloud"}))
    bench.do(lease, DISPENSATION, lambda s: s.roll_back("NOT_DISPENSED"))
    step = bench.step(lease.case_id, DISPENSATION)
    assert (step.status, dict(step.outcome), step.done_at) == (S.PENDING, {}, None)


def test_a_step_looks_in_its_own_write_as_it_will_after_it(bench: Bench) -> None:
    lease = bench.open_and_lease()

    def look(step: StepWrite) -> StepView:
        applied(step)
        return step.view()

    assert bench.do(lease, REGISTRATION, look) == bench.step(lease.case_id, REGISTRATION)
