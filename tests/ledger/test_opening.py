"""Opening: which requests are the same case, and what a changed request may still replace."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from threading import Barrier

import pytest

from onboarding.errors import BadInput, LeaseLost, LedgerError, RequestConflict
from onboarding.intake import parse_request
from onboarding.ledger.claims import ClaimKey, ClaimKind, release_all, take_claims
from onboarding.ledger.preparing import insert_cases, new_cases, prepare, stored_request
from onboarding.ledger.states import CaseStatus, StepStatus
from onboarding.ledger.writes import CaseWrite
from onboarding.request import OnboardingRequest
from tests.ledger.bench import (
    ADDRESSES,
    DEVICE,
    EXCEPTION,
    INTENT,
    OTHER_ADDRESSES,
    OTHER_INVENTORY,
    REGISTRATION,
    Bench,
    applied,
    other_subject,
    registration_claim,
    without_device,
)
from tests.support.requests import INVENTORY_ID_DASHED, LEFT_OUT, MARKER, PARTICIPANT, example, request

S = StepStatus
CHANGED = request(registration__ppid="ASCI999")


def test_a_new_request_makes_a_case_that_is_ready_and_due_at_once(bench: Bench) -> None:
    opened = bench.opened(batch_id="batch 7")
    assert (opened.created, opened.replaced) == (True, ())
    case = bench.case(opened.case_id)
    assert (case.status, case.reason, case.batch_id, case.fence) == (CaseStatus.READY, None, "batch 7", 0)
    assert bench.ledger.find_due(limit=10) == [opened.case_id]
    assert case.steps[REGISTRATION].status is S.PENDING
    assert bench.kinds(opened.case_id) == ["case_opened"]


def test_sections_that_are_absent_are_steps_not_requested(bench: Bench) -> None:
    assert bench.statuses(bench.open(without_device())) == [S.PENDING, S.NOT_REQUESTED, S.NOT_REQUESTED, S.PENDING]
    only_device = other_subject(registration=LEFT_OUT, dnd_exception=LEFT_OUT)
    assert bench.statuses(bench.open(only_device)) == [S.NOT_REQUESTED, S.PENDING, S.PENDING, S.NOT_REQUESTED]


def test_the_same_request_finds_the_same_case(bench: Bench) -> None:
    first = bench.opened()
    before = bench.content()
    again = bench.opened(request(device__inventory_id=INVENTORY_ID_DASHED), actor="somebody else")
    assert (again.case_id, again.created, again.replaced) == (first.case_id, False, ())
    assert bench.content() == before


def test_the_same_request_through_the_intake_finds_the_same_case(bench: Bench) -> None:
    assert bench.open(parse_request(example())) == bench.open(request())


def test_the_same_request_never_retries_a_refusal_by_itself(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.bring(lease, REGISTRATION, S.REFUSED)
    bench.need_attention(lease)
    bench.open()
    assert bench.standing(lease.case_id) == (CaseStatus.ATTENTION, "LOOK")
    assert bench.statuses(lease.case_id)[0] is S.REFUSED


@pytest.mark.postgres
def test_a_case_that_another_runner_opens_at_the_same_time_is_found(postgres_bench: Bench) -> None:
    bench = postgres_bench  # SQLite lets nobody look while another one opens
    others = new_cases(
        bench.ledger.key, [prepare(bench.ledger.key, request())], ADDRESSES, actor="another", batch_id=None
    )
    with ThreadPoolExecutor(1) as thread:
        with bench.engine.begin() as another:
            assert insert_cases(another, others) == set(others.cases)
            opening = thread.submit(bench.opened)  # which sees nothing of it yet
            bench.until_it_waits(opening)
        opened = opening.result(30)
    assert ({opened.case_id}, opened.created) == (set(others.cases), False)
    assert [event.actor for event in bench.ledger.events(opened.case_id)] == ["another"]
    assert {table: len(bench.content()[table]) for table in ("case", "step")} == {"case": 1, "step": 4}


@pytest.mark.parametrize(
    "wanted",
    [
        request(device__inventory_id=OTHER_INVENTORY),
        without_device(),
        other_subject(),
        request(subject__mode="training"),
        request(subject__study_id="2BC29B36F5D64B1B95F4BDBBCEA481BE"),
    ],
)
def test_another_device_subject_mode_or_study_is_another_case(bench: Bench, wanted: object) -> None:
    assert bench.open() != bench.open(wanted)  # type: ignore[arg-type]


def test_what_was_asked_for_is_given_back_as_it_was(bench: Bench) -> None:
    wanted = parse_request(example(registration__participant=PARTICIPANT, registration__external_subject_id=None))
    assert bench.ledger.request(bench.open(wanted)) == wanted
    with pytest.raises(LedgerError, match="there is no case NOBODY"):
        bench.ledger.request("NOBODY")


def test_openings_at_the_same_time_make_one_case(bench: Bench) -> None:
    start = Barrier(8)

    def open_now(_: int) -> tuple[str, bool]:
        start.wait(30)
        opened = bench.opened()
        return opened.case_id, opened.created

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(open_now, range(8)))
    assert len({case_id for case_id, _ in found}) == 1
    assert sorted(created for _, created in found) == [False] * 7 + [True]
    assert bench.kinds(found[0][0]) == ["case_opened"]


def test_openings_of_different_subjects_at_the_same_time_make_a_case_each(bench: Bench) -> None:
    requests = [other_subject(f"{number:032X}") for number in range(12)]
    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(bench.open, requests))) == 12


def test_cancelled_cases_do_not_count(bench: Bench) -> None:
    first = bench.open()
    bench.sql("UPDATE onboarding_case SET status = 'cancelled' WHERE id = :id", id=first)
    second = bench.opened()
    assert second.created
    assert bench.opened().case_id == second.case_id != first


# A changed request


def test_a_changed_section_without_intent_is_replaced_and_audited(bench: Bench) -> None:
    case_id = bench.open()
    replaced = bench.opened(request(registration__ppid="ASCI999", dnd_exception__countries=["DE"]), actor="ann")
    assert (replaced.case_id, replaced.created) == (case_id, False)
    assert replaced.replaced == ("registration", "dnd_exception")
    event = bench.last_event(case_id)
    assert (event.kind, event.actor) == ("request_replaced", "ann")
    assert event.detail == {"sections": ["registration", "dnd_exception"]}
    section = bench.ledger.request(case_id).registration
    assert section is not None
    assert section.ppid == "ASCI999"
    assert bench.opened(CHANGED).replaced == ("dnd_exception",)
    assert bench.ledger.trail_problems(case_id) == []


def test_a_refused_section_is_replaced_and_the_case_is_ready_again(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.do(lease, REGISTRATION, lambda s: s.intend(INTENT))
    bench.do(
        lease, REGISTRATION, lambda s: s.refuse("CPR_DUP_PPID", http_status=400, vendor_text="PPID exists already")
    )
    bench.need_attention(lease)
    assert bench.opened(CHANGED).replaced == ("registration",)
    assert bench.standing(lease.case_id) == (CaseStatus.READY, None)
    step = bench.step(lease.case_id, REGISTRATION)
    assert (step.status, step.code, step.http_status, dict(step.outcome), step.waits) == (S.PENDING, None, None, {}, 0)
    assert bench.ledger.vendor_texts(lease.case_id) == {}
    assert bench.ledger.find_due(limit=1) == [lease.case_id]


def test_a_step_found_done_without_sending_is_looked_at_again_for_a_changed_request(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.finish(lease)
    assert bench.opened(CHANGED).replaced == ("registration",)
    assert bench.standing(lease.case_id) == (CaseStatus.READY, None)
    assert bench.statuses(lease.case_id) == [S.PENDING, S.DONE, S.DONE, S.DONE]


def test_a_section_can_be_withdrawn_and_asked_for_again(bench: Bench) -> None:
    case_id = bench.open()
    assert bench.opened(request(dnd_exception=LEFT_OUT)).replaced == ("dnd_exception",)
    assert bench.step(case_id, EXCEPTION).status is S.NOT_REQUESTED
    assert bench.opened().replaced == ("dnd_exception",)
    assert bench.step(case_id, EXCEPTION).status is S.PENDING


def test_a_changed_request_is_refused_while_a_runner_holds_the_lease(bench: Bench) -> None:
    lease = bench.open_and_lease()
    before = bench.content()
    with pytest.raises(
        RequestConflict,
        match=f"case {lease.case_id} .*registration.* a runner is working .*; try again",
    ) as refused:
        bench.open(CHANGED)
    assert (refused.value.case_id, refused.value.sections) == (lease.case_id, ["registration"])
    assert bench.content() == before


@pytest.mark.parametrize("again", [request(), CHANGED])
def test_a_case_that_is_done_at_other_systems_is_not_taken_for_one_at_these(
    bench: Bench, again: OnboardingRequest
) -> None:
    lease = bench.open_and_lease()
    bench.finish(lease)
    before = bench.content()
    with pytest.raises(RequestConflict, match=f"case {lease.case_id} onboarded this subject at other systems"):
        bench.ledger.open_case(again, OTHER_ADDRESSES, actor="tester")
    assert bench.content() == before
    assert bench.open() == lease.case_id


@pytest.mark.parametrize("status", [S.OPEN, S.UNKNOWN, S.DONE])
def test_a_changed_section_that_was_sent_is_refused_and_names_the_case(bench: Bench, status: StepStatus) -> None:
    lease = bench.open_and_lease()
    bench.bring(lease, REGISTRATION, status)
    bench.need_attention(lease)
    before = bench.content()
    with pytest.raises(RequestConflict, match=r"already attempted; .* in the other system itself") as refused:
        bench.open(request(registration__ppid="ASCI999", dnd_exception__countries=["DE"]))
    assert (refused.value.case_id, refused.value.sections) == (lease.case_id, ["registration"])
    assert bench.content() == before


def test_an_exception_created_under_a_shared_claim_counts_as_sent(bench: Bench) -> None:
    lease = bench.open_and_lease()

    def create(write: CaseWrite) -> None:
        write.step(EXCEPTION).mirror_intent(1)
        write.step(EXCEPTION).applied({"exception_id": "X"}, code="CREATED")

    bench.ledger.fenced(lease, create)
    bench.park(lease)
    with pytest.raises(RequestConflict, match="dnd_exception"):
        bench.open(request(dnd_exception__countries=["DE"]))


def test_an_attempt_that_was_proven_absent_does_not_keep_a_section_from_being_replaced(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.bring(lease, REGISTRATION, S.OPEN)
    bench.do(lease, REGISTRATION, lambda s: s.absent())
    bench.park(lease)
    assert bench.opened(CHANGED).replaced == ("registration",)
    assert bench.step(lease.case_id, REGISTRATION).intent.attempts == 1


def test_a_runner_that_wakes_up_after_its_request_was_replaced_has_lost_the_case(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.clock.advance(lease.seconds + 1)
    bench.open(CHANGED)
    before = bench.content()
    with pytest.raises(LeaseLost):
        bench.bring(lease, REGISTRATION, S.OPEN)
    assert bench.content() == before


def test_a_replaced_section_gives_back_what_it_claimed(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.ledger.fenced(lease, lambda w: take_claims(w, [registration_claim("subject A")]))
    bench.park(lease)
    bench.open(CHANGED)
    assert (bench.claim("registration 1")["state"], bench.claim("registration 1")["holder_case"]) == ("free", None)
    other = bench.open_and_lease(other_subject())
    assert bench.ledger.fenced(other, lambda w: take_claims(w, [registration_claim("subject B")])) is None


def test_a_replaced_section_gives_back_nothing_of_another_section_or_another_case(bench: Bench) -> None:
    lease, other = bench.open_and_lease(), bench.open_and_lease(other_subject())
    kit = ClaimKey(ClaimKind.INVENTORY, "kit", "A")
    bench.ledger.fenced(lease, lambda w: take_claims(w, [registration_claim("A"), kit]))
    bench.ledger.fenced(other, lambda w: take_claims(w, [registration_claim("B", "registration 2")]))
    bench.park(lease)
    assert bench.opened(CHANGED).replaced == ("registration",)
    assert bench.claim("registration 1")["holder_case"] is None
    for key, holder in (("kit", lease), ("registration 2", other)):
        assert (bench.claim(key)["state"], bench.claim(key)["holder_case"]) == ("held", holder.case_id)


def test_a_cancelled_case_gives_back_what_it_held_but_not_what_it_settled(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.ledger.fenced(lease, lambda w: take_claims(w, [registration_claim("A", "done before")]))
    bench.do(lease, REGISTRATION, applied)
    bench.ledger.fenced(
        lease, lambda w: take_claims(w, [registration_claim("A", "held"), registration_claim("A", "done before")])
    )
    bench.ledger.store.write(lambda c: release_all(c, lease.case_id))
    held, settled = bench.claim("held"), bench.claim("done before")
    assert (held["state"], held["holder_case"]) == ("free", None)
    assert (settled["state"], settled["holder_case"]) == ("done", None)


def test_cases_are_listed_newest_first_by_status_and_batch(bench: Bench) -> None:
    first = bench.open(batch_id="b1")
    second = bench.open(other_subject(), batch_id="b2")
    bench.need_attention(bench.lease(first))
    assert [case.id for case in bench.ledger.cases()] == [second, first]
    assert [case.id for case in bench.ledger.cases(limit=1)] == [second]
    assert [case.id for case in bench.ledger.cases(statuses=[CaseStatus.ATTENTION])] == [first]
    assert [case.id for case in bench.ledger.cases(batch_id="b2")] == [second]
    assert bench.ledger.case("NOBODY") is None
    opened_at = bench.case(first).created_at
    assert isinstance(opened_at, datetime)
    assert opened_at.utcoffset() == timedelta(0)


def test_device_steps_are_replaced_together(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.finish(lease)
    assert bench.opened(request(device__subject_number="siteB-2")).replaced == ("device",)
    assert bench.statuses(lease.case_id) == [S.DONE, S.PENDING, S.PENDING, S.DONE]
    assert bench.step(lease.case_id, DEVICE).done_at is None


def test_a_stored_request_that_this_version_does_not_allow_is_refused_without_its_values() -> None:
    content = example()
    content["subject"]["mode"] = f"mode {MARKER}"
    with pytest.raises(BadInput) as refused:
        stored_request(json.dumps(content).encode())
    assert "subject.mode" in str(refused.value)
    assert MARKER not in str(refused.value)
