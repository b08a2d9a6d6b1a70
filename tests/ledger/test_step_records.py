"""What each move of a step says about itself: in the step's row, and once more in the trail."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from onboarding.ledger.states import StepStatus
from onboarding.ledger.step_writes import StepWrite
from tests.ledger.bench import DEVICE, INTENT, QUIET_S, REGISTRATION, Bench

S = StepStatus
SAID: dict[str, Any] = {"http_status": 409, "vendor_text": "Miller"}


@dataclass(frozen=True)
class Move:
    """A move from a status, and what it leaves: kind and code of its entry, the entry's facts, what the vendor said."""

    before: StepStatus
    move: Callable[[StepWrite], Any]
    kind: str
    code: str | None
    facts: dict[str, Any]
    said: bool = False


MOVES = [
    Move(S.PENDING, lambda s: s.found({"a": 1}), "step_found", "ALREADY_SO", {"a": 1}),
    Move(S.PENDING, lambda s: s.found({}, code="DISPENSED"), "step_found", "DISPENSED", {}),
    Move(S.OPEN, lambda s: s.applied({"a": 1}, code="UPDATED"), "step_applied", "UPDATED", {"a": 1, "attempt": 1}),
    Move(S.PENDING, lambda s: s.intend(INTENT), "step_intent", None, {"attempt": 1, "quiet_s": QUIET_S}),
    Move(S.PENDING, lambda s: s.mirror_intent(7), "step_intent", None, {"attempt": 1, "claim_attempt": 7}),
    Move(S.OPEN, lambda s: s.doubt("CUT", **SAID), "step_in_doubt", "CUT", {}, said=True),
    Move(S.OPEN, lambda s: s.doubt("CUT"), "step_in_doubt", "CUT", {}),
    Move(S.OPEN, lambda s: s.not_applied("BUSY", **SAID), "step_not_applied", "BUSY", {}, said=True),
    Move(S.OPEN, lambda s: s.absent(), "step_probed_absent", "PROVEN_NOT_APPLIED", {}),
    Move(S.OPEN, lambda s: s.absent("NOT_LISTED"), "step_probed_absent", "NOT_LISTED", {}),
    Move(S.OPEN, lambda s: s.inconclusive("MASKED", **SAID), "step_inconclusive", "MASKED", {}, said=True),
    Move(S.OPEN, lambda s: s.refuse("NO", **SAID), "step_refused", "NO", {}, said=True),
    Move(S.PENDING, lambda s: s.refuse("NO", detail={"id": "X1"}), "step_refused", "NO", {"id": "X1"}),
    Move(S.PENDING, lambda s: s.wait("LATER", **SAID), "step_waiting", "LATER", {}, said=True),
    Move(S.DONE, lambda s: s.roll_back("GONE"), "step_rolled_back", "GONE", {}),
    Move(S.OPEN, lambda s: s.probed("ASKING", quiet_s=7), "step_waiting", "ASKING", {"probe": 1}),
    Move(S.REFUSED, lambda s: s.retry(), "step_retried", None, {}),
]


@pytest.mark.parametrize("wanted", MOVES, ids=lambda one: f"{one.kind} from {one.before} {one.facts or ''}")
def test_a_move_says_what_happened_in_the_row_and_in_the_trail(bench: Bench, wanted: Move) -> None:
    lease = bench.open_and_lease()
    bench.bring(lease, REGISTRATION, wanted.before)
    bench.do(lease, REGISTRATION, wanted.move)
    step, entry = bench.step(lease.case_id, REGISTRATION), bench.last_event(lease.case_id)
    status = {"http_status": 409} if wanted.said else {}
    assert (entry.kind, entry.step, entry.code) == (wanted.kind, "registration", wanted.code)
    assert entry.detail == {**wanted.facts, "fence": lease.fence, **status}
    assert (step.code, step.http_status) == (wanted.code, status.get("http_status"))
    assert bench.ledger.vendor_texts(lease.case_id) == ({"registration": "Miller"} if wanted.said else {})
    (row,) = bench.sql("SELECT updated_at FROM onboarding_step WHERE name = 'registration'")
    (case,) = bench.sql("SELECT updated_at FROM onboarding_case")
    assert row["updated_at"] == case["updated_at"]
    assert step.updated_at is not None


def test_what_the_vendor_said_before_is_forgotten_by_the_next_word(bench: Bench) -> None:
    lease = bench.open_and_lease()
    for move in (lambda s: s.wait("LATER", **SAID), lambda s: s.wait("LATER")):
        bench.do(lease, REGISTRATION, move)
    assert (bench.step(lease.case_id, REGISTRATION).http_status, bench.ledger.vendor_texts(lease.case_id)) == (None, {})
    assert "http_status" not in bench.last_event(lease.case_id).detail


def test_a_refusal_leaves_no_intent_and_a_retry_counts_anew(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.do(lease, DEVICE, lambda s: s.wait("LATER"))
    assert bench.step(lease.case_id, DEVICE).waiting_since is None
    bench.do(lease, DEVICE, lambda s: s.intend(INTENT))
    bench.do(lease, DEVICE, lambda s: s.absent())
    bench.do(lease, DEVICE, lambda s: s.intend(INTENT))
    bench.do(lease, DEVICE, lambda s: s.doubt("CUT"))
    bench.do(lease, DEVICE, lambda s: s.intend(INTENT, probe=True))
    bench.do(lease, DEVICE, lambda s: s.absent())
    bench.do(lease, DEVICE, lambda s: s.refuse("NO", detail={"id": "X1"}))
    step = bench.step(lease.case_id, DEVICE)
    assert (step.waits, step.intent.probes, step.intent.absences, step.intent.attempts) == (1, 1, 2, 3)
    assert (step.intent.facts, step.intent.quiet_left_s, step.outcome) == ({}, 0, {"id": "X1"})
    assert not step.met_already_registered
    bench.do(lease, DEVICE, lambda s: s.retry())
    step = bench.step(lease.case_id, DEVICE)
    assert (step.waits, step.intent.probes, step.intent.absences, step.intent.attempts) == (0, 0, 0, 3)
    assert (step.status, step.outcome, step.waiting_since) == (S.PENDING, {}, None)


def test_a_step_that_is_tried_again_begins_to_wait_anew(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.do(lease, DEVICE, lambda s: s.wait("NOT_DISPENSED", awaited=True))
    bench.do(lease, DEVICE, lambda s: s.refuse("WAITED_TOO_LONG"))
    assert bench.step(lease.case_id, DEVICE).waiting_since is not None
    bench.do(lease, DEVICE, lambda s: s.retry())
    assert bench.step(lease.case_id, DEVICE).waiting_since is None


def test_probes_and_shared_intents_are_counted_one_by_one(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.bring(lease, DEVICE, S.OPEN)
    for number in (1, 2):
        assert bench.do(lease, REGISTRATION, lambda s: s.mirror_intent(9)) == number
        bench.do(lease, DEVICE, lambda s: s.probed("ASKING", quiet_s=7))
        assert bench.step(lease.case_id, DEVICE).intent.probes == number


def test_intents_that_end_a_doubt_are_counted_as_probes_and_others_are_not(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.bring(lease, DEVICE, S.OPEN)
    bench.do(lease, DEVICE, lambda s: s.doubt("CUT"))
    for probes in (1, 2):
        bench.do(lease, DEVICE, lambda s: s.intend(INTENT, probe=True))
        assert bench.step(lease.case_id, DEVICE).intent.probes == probes
    bench.do(lease, DEVICE, lambda s: s.absent())
    bench.bring(lease, DEVICE, S.OPEN)
    intent = bench.step(lease.case_id, DEVICE).intent
    assert (intent.probes, intent.attempts) == (2, 4)


def test_a_decision_leaves_no_intent_and_no_count(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.do(lease, DEVICE, lambda s: s.intend(INTENT))
    bench.do(lease, DEVICE, lambda s: s.absent())
    bench.do(lease, DEVICE, lambda s: s.intend(INTENT))
    bench.do(lease, DEVICE, lambda s: s.probed("ASKING", quiet_s=7))
    bench.do(lease, DEVICE, lambda s: s.inconclusive("MASKED"))
    step = bench.step(lease.case_id, DEVICE)
    assert (step.intent.probes, step.intent.absences, step.intent.quiet_left_s) == (1, 1, 7)
    bench.do(lease, DEVICE, lambda s: s.decide(applied=True, outcome={}))
    step = bench.step(lease.case_id, DEVICE)
    assert (step.intent.probes, step.intent.absences, step.intent.quiet_left_s) == (0, 0, 0)
    assert (step.intent.facts, step.intent.attempts) == ({}, 2)


def test_nothing_applied_while_in_doubt_is_one_more_wait_and_the_intent_stays(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.bring(lease, REGISTRATION, S.OPEN)
    bench.do(lease, REGISTRATION, lambda s: s.doubt("CUT"))
    for waits in (1, 2):
        bench.do(lease, REGISTRATION, lambda s: s.not_applied("BUSY", **SAID))
        step, entry = bench.step(lease.case_id, REGISTRATION), bench.last_event(lease.case_id)
        assert (step.status, step.waits, step.intent.in_doubt, step.code) == (S.OPEN, waits, True, "BUSY")
        assert (entry.kind, entry.code) == ("step_waiting", "BUSY")
        assert step.intent.facts == {**INTENT.facts, "quiet_s": QUIET_S}


def test_a_decision_counts_anew_and_says_what_was_decided(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.do(lease, DEVICE, lambda s: s.wait("LATER", awaited=True))
    bench.do(lease, DEVICE, lambda s: s.refuse("DEVICE_ALREADY_REGISTERED", already_registered=True, **SAID))
    bench.do(lease, DEVICE, lambda s: s.decide(applied=True, outcome={"decided": "applied"}))
    step, entry = bench.step(lease.case_id, DEVICE), bench.last_event(lease.case_id)
    assert (entry.kind, entry.code, entry.detail["decided"]) == ("step_decided_applied", "DECIDED_APPLIED", "applied")
    assert (step.status, step.outcome, step.waits, step.waiting_since) == (S.DONE, {"decided": "applied"}, 0, None)
    assert (step.met_already_registered, step.http_status, step.done_at is None) == (False, None, False)
    assert bench.ledger.vendor_texts(lease.case_id) == {}
    bench.do(lease, DEVICE, lambda s: s.decide(applied=False, outcome={}))
    step, entry = bench.step(lease.case_id, DEVICE), bench.last_event(lease.case_id)
    assert (entry.kind, entry.code, entry.detail) == ("step_decided_absent", "DECIDED_ABSENT", {"fence": lease.fence})
    assert (step.status, step.outcome, step.done_at) == (S.PENDING, {}, None)
