"""What becomes of claims when a person decides: who may have the registration, the device or the exception afterwards."""

from collections.abc import Callable
from typing import Any

import pytest

from onboarding.errors import IdentityConflict
from onboarding.ledger.claims import UNKNOWN_ELSEWHERE, ClaimKey, ClaimKind, ExceptionClaim, take_claims
from onboarding.ledger.deciding import Decided, Decision, DecisionRefused, Holds
from onboarding.ledger.opening import Addresses
from onboarding.ledger.states import CaseStatus, StepStatus
from onboarding.ledger.views import ClaimView, Held
from onboarding.ledger.writes import CaseWrite, Lease
from tests.ledger.bench import (
    ADDRESSES,
    DEVICE,
    EXCEPTION,
    INTENT,
    LEASE_S,
    OTHER_ADDRESSES,
    OTHER_INVENTORY,
    OTHER_SUBJECT,
    QUIET_S,
    REGISTRATION,
    THIRD_SUBJECT,
    Bench,
    applied,
    other_subject,
    registration_claim,
)
from tests.support.requests import LEFT_OUT, request

C, S, D = CaseStatus, StepStatus, Decision
DEVICE_KEYS = [ClaimKey(ClaimKind.INVENTORY, "kit", "A"), ClaimKey(ClaimKind.DEVICE_TO_CLOUD_SUBJECT, "A", "kit")]
HOLDS = Holds([registration_claim("A")], DEVICE_KEYS, "content")


def decide(bench: Bench, case_id: str, decision: Decision, exception_id: str | None = None) -> None:
    bench.ledger.decide(case_id, Decided(decision, "person", "looked", exception_id=exception_id), HOLDS)


def claim(bench: Bench, lease: Lease, *keys: ClaimKey) -> Held | None:
    return bench.ledger.fenced(lease, lambda write: take_claims(write, keys))


def unknown_registration(bench: Bench) -> str:
    lease = bench.open_and_lease()
    claim(bench, lease, registration_claim("A"))
    bench.bring(lease, REGISTRATION, S.OPEN)
    bench.do(lease, REGISTRATION, lambda s: s.doubt("CUT"))
    bench.clock.advance(QUIET_S)
    bench.bring(lease, REGISTRATION, S.UNKNOWN)
    bench.need_attention(lease)
    return lease.case_id


def test_what_was_applied_after_all_is_bound_to_the_subject_for_good(bench: Bench) -> None:
    case_id = unknown_registration(bench)
    decide(bench, case_id, D.APPLIED)
    row = bench.claim("registration 1")
    assert (row["state"], row["holder_case"], row["bound_to"]) == ("done", None, "A")
    other = bench.open_and_lease(other_subject())
    with pytest.raises(IdentityConflict, match=f"case {case_id}"):
        claim(bench, other, registration_claim("B"))


def test_what_was_refused_and_applied_after_all_is_bound_though_it_had_been_given_back(bench: Bench) -> None:
    lease = bench.open_and_lease()
    claim(bench, lease, registration_claim("A"))
    bench.bring(lease, REGISTRATION, S.REFUSED)
    bench.need_attention(lease)
    assert bench.claim("registration 1")["state"] == "free"
    answer = {"step": "registration", "attempt": 0, "fence": lease.fence, "says": "applied", "code": "LATE"}
    bench.ledger.keep_late_answer(lease.case_id, "runner", answer)
    decide(bench, lease.case_id, D.APPLIED)
    assert (bench.claim("registration 1")["state"], bench.claim("registration 1")["bound_to"]) == ("done", "A")


def test_what_is_absent_stays_held_by_its_case_until_that_is_cancelled(bench: Bench) -> None:
    case_id = unknown_registration(bench)
    decide(bench, case_id, D.ABSENT)
    other = bench.open_and_lease(other_subject())
    with pytest.raises(IdentityConflict):
        claim(bench, other, registration_claim("B"))
    decide(bench, case_id, D.CANCEL)
    assert claim(bench, other, registration_claim("B")) is None


def test_a_cancelled_case_frees_its_business_key_and_what_it_did_stays_bound(bench: Bench) -> None:
    lease = bench.open_and_lease()
    claim(bench, lease, registration_claim("A"))
    bench.do(lease, REGISTRATION, applied)
    claim(bench, lease, *DEVICE_KEYS)
    bench.park(lease)
    decide(bench, lease.case_id, D.CANCEL)
    assert [bench.claim(key)["state"] for key in ("registration 1", "kit")] == ["done", "free"]
    again = bench.opened()
    assert again.created
    assert again.case_id != lease.case_id
    assert claim(bench, bench.lease(again.case_id), registration_claim("A"), *DEVICE_KEYS) is None
    with pytest.raises(IdentityConflict):
        claim(bench, bench.open_and_lease(other_subject()), registration_claim("B"))


def already_registered(bench: Bench) -> str:
    lease = bench.open_and_lease()
    claim(bench, lease, *DEVICE_KEYS)
    bench.bring(lease, DEVICE, S.OPEN)
    bench.do(lease, DEVICE, lambda s: s.refuse("DEVICE_ALREADY_REGISTERED", already_registered=True))
    bench.need_attention(lease)
    return lease.case_id


def test_a_device_that_was_ours_after_all_is_bound_with_its_subject(bench: Bench) -> None:
    decide(bench, already_registered(bench), D.APPLIED)
    assert [bench.claim(key)["state"] for key in ("kit", "A")] == ["done", "done"]


def test_what_another_subject_took_meanwhile_cannot_be_decided_to_be_ours(bench: Bench) -> None:
    case_id = already_registered(bench)  # a refused step holds nothing
    claim(bench, bench.open_and_lease(other_subject()), ClaimKey(ClaimKind.INVENTORY, "kit", "B"))
    before = bench.content()
    with pytest.raises(DecisionRefused, match=r"held by another subject.*Find out who is right"):
        decide(bench, case_id, D.APPLIED)
    assert bench.content() == before


def test_what_another_case_of_the_subject_works_on_is_decided_later(bench: Bench) -> None:
    case_id = already_registered(bench)
    other = bench.open_and_lease(request(device__inventory_id=OTHER_INVENTORY))
    claim(bench, other, DEVICE_KEYS[0])
    with pytest.raises(DecisionRefused, match=f"case {other.case_id} of the same subject holds it"):
        decide(bench, case_id, D.APPLIED)


# Exceptions, which many cases share


def taken(bench: Bench, lease: Lease) -> ClaimView | Held:
    def change(write: CaseWrite) -> ClaimView | Held:
        found = ExceptionClaim.take(write, "content")
        return found if isinstance(found, Held) else found.view()

    return bench.ledger.fenced(lease, change)


def subject(bench: Bench, number: str) -> Lease:
    return bench.open_and_lease(request(subject__subject_id=number, registration=LEFT_OUT, device=LEFT_OUT))


def on_claim(bench: Bench, lease: Lease, move: Callable[[ExceptionClaim], Any]) -> None:
    bench.ledger.fenced(lease, lambda write: move(ExceptionClaim.held(write, "content")))


def intend(bench: Bench, lease: Lease) -> None:
    taken(bench, lease)

    def change(write: CaseWrite) -> None:
        write.step(EXCEPTION).mirror_intent(ExceptionClaim.held(write, "content").intend(INTENT))

    bench.ledger.fenced(lease, change)


def unknown_exception(bench: Bench, lease: Lease) -> str:
    intend(bench, lease)
    bench.clock.advance(QUIET_S)

    def change(write: CaseWrite) -> None:
        ExceptionClaim.held(write, "content").call_unknown()
        write.step(EXCEPTION).inconclusive("UNEXPECTED_EXCEPTION")

    bench.ledger.fenced(lease, change)
    bench.need_attention(lease)
    return lease.case_id


def missing_exception(bench: Bench, lease: Lease, exception_id: str = "X1") -> str:
    taken(bench, lease)

    def change(write: CaseWrite) -> None:
        found = ExceptionClaim.held(write, "content")
        if found.view().effect_id is None:
            found.adopt(exception_id, [])
        write.step(EXCEPTION).refuse("EXCEPTION_MISSING", detail={"exception_id": exception_id})
        found.give_back()

    bench.ledger.fenced(lease, change)
    bench.need_attention(lease)
    return lease.case_id


def first_second_third(bench: Bench) -> tuple[Lease, Lease, Lease]:
    return subject(bench, "D" * 32), subject(bench, OTHER_SUBJECT), subject(bench, THIRD_SUBJECT)


@pytest.mark.parametrize("exception_id", ["X1", None])
def test_one_decision_about_an_unknown_exception_settles_it_for_all(bench: Bench, exception_id: str | None) -> None:
    first, second, third = first_second_third(bench)
    case_id = unknown_exception(bench, first)
    for lease in (second, third):
        view = taken(bench, lease)
        assert isinstance(view, ClaimView)
        assert view.unknown
    decide(bench, case_id, D.ABSENT if exception_id is None else D.APPLIED, exception_id)
    assert bench.standing(case_id) == ((C.READY if exception_id is None else C.DONE), None)
    view = taken(bench, second)
    assert isinstance(view, ClaimView)
    assert (view.unknown, view.open, view.effect_id) == (False, False, exception_id)
    assert isinstance(taken(bench, third), Held), "they take it in turn"


def test_cases_that_wait_for_the_decision_are_due_at_once(bench: Bench) -> None:
    first, second, third = first_second_third(bench)
    case_id = unknown_exception(bench, first)
    for lease, why in ((second, UNKNOWN_ELSEWHERE), (third, "CLINICAL_ONE_UNAVAILABLE")):
        bench.ledger.fenced(lease, lambda write, why=why: write.park(600.0, why))  # type: ignore[misc]
    assert bench.ledger.find_due(limit=10) == []
    decide(bench, case_id, D.APPLIED, "X1")
    assert bench.ledger.find_due(limit=10) == [second.case_id]
    assert isinstance(bench.take(second.case_id), Lease)
    assert bench.ledger.trail_problems(second.case_id) == []


OTHER_STUDY = "2" * 32


@pytest.mark.parametrize(
    ("changes", "addresses"),
    [
        ({"subject__study_id": OTHER_STUDY}, ADDRESSES),
        ({"subject__mode": "training"}, ADDRESSES),
        ({}, OTHER_ADDRESSES),
    ],
    ids=["another study", "another mode", "another Clinical One"],
)
def test_cases_that_wait_for_a_decision_about_another_study_go_on_waiting(
    bench: Bench, changes: dict[str, Any], addresses: Addresses
) -> None:
    case_id = unknown_exception(bench, subject(bench, "D" * 32))
    opened = bench.ledger.open_case(other_subject(**changes), addresses, actor="tester")
    lease = bench.lease(opened.case_id, addresses=addresses)
    bench.ledger.fenced(lease, lambda write: write.park(600.0, UNKNOWN_ELSEWHERE))
    before = bench.case(opened.case_id).due_at
    decide(bench, case_id, D.APPLIED, "X1")
    assert bench.case(opened.case_id).due_at == before


def test_applied_needs_the_id_under_which_the_exception_exists(bench: Bench) -> None:
    case_id = unknown_exception(bench, subject(bench, OTHER_SUBJECT))
    with pytest.raises(DecisionRefused, match="under which id the exception exists"):
        decide(bench, case_id, D.APPLIED)
    decide(bench, case_id, D.APPLIED, "X1")
    assert bench.step(case_id, EXCEPTION).outcome == {"decided": "applied", "exception_id": "X1"}


def test_a_missing_exception_that_is_absent_is_free_to_be_made_again(bench: Bench) -> None:
    case_id = missing_exception(bench, subject(bench, OTHER_SUBJECT))
    decide(bench, case_id, D.ABSENT)
    row = bench.claim("content")
    assert (row["state"], row["effect_id"], row["holder_case"]) == ("free", None, None)
    assert (bench.step(case_id, EXCEPTION).status, bench.step(case_id, EXCEPTION).outcome) == (S.PENDING, {})


def test_a_decision_waits_for_the_runner_that_works_on_the_same_exception(bench: Bench) -> None:
    first, second, _ = first_second_third(bench)
    case_id = missing_exception(bench, first)
    taken(bench, second)
    with pytest.raises(DecisionRefused, match=f"case {second.case_id} works on the same exception; decide in 30 s"):
        decide(bench, case_id, D.ABSENT)
    bench.clock.advance(LEASE_S - 0.5)
    with pytest.raises(DecisionRefused, match="works on the same exception"):
        decide(bench, case_id, D.ABSENT)
    bench.park(second)
    decide(bench, case_id, D.ABSENT)


def test_that_one_was_missing_says_nothing_about_an_attempt_that_another_case_has_in_doubt(bench: Bench) -> None:
    first, second, third = first_second_third(bench)
    cases = [missing_exception(bench, lease) for lease in (first, second)]
    decide(bench, cases[0], D.ABSENT)
    intend(bench, third)
    on_claim(bench, third, lambda c: c.doubt())
    bench.park(third)
    decide(bench, cases[1], D.ABSENT)
    row = bench.claim("content")
    assert (row["in_doubt"], row["intent"] is not None, row["holder_case"]) == (True, True, third.case_id)


def test_that_one_was_missing_says_nothing_about_the_one_that_another_case_made_since(bench: Bench) -> None:
    first, second, third = first_second_third(bench)
    cases = [missing_exception(bench, lease) for lease in (first, second)]
    decide(bench, cases[0], D.ABSENT)
    intend(bench, third)
    on_claim(bench, third, lambda c: c.adopt("X2", []))
    bench.park(third)
    decide(bench, cases[1], D.ABSENT)
    assert (bench.claim("content")["state"], bench.claim("content")["effect_id"]) == ("done", "X2")
    assert bench.step(cases[1], EXCEPTION).status is S.PENDING


def test_absent_is_refused_while_the_creation_may_still_be_applied(bench: Bench) -> None:
    lease = subject(bench, OTHER_SUBJECT)
    intend(bench, lease)

    def change(write: CaseWrite) -> None:
        ExceptionClaim.held(write, "content").call_unknown()
        write.step(EXCEPTION).inconclusive("LIST_REFUSED")

    bench.ledger.fenced(lease, change)
    bench.need_attention(lease)
    with pytest.raises(DecisionRefused, match="may still be applied"):
        decide(bench, lease.case_id, D.ABSENT)
    bench.clock.advance(QUIET_S)
    decide(bench, lease.case_id, D.ABSENT)
    assert bench.claim("content")["state"] == "free"


def test_an_exception_that_nobody_could_tell_before_anything_was_sent_is_free_once_it_is_absent(bench: Bench) -> None:
    lease = subject(bench, OTHER_SUBJECT)
    taken(bench, lease)

    def change(write: CaseWrite) -> None:
        ExceptionClaim.held(write, "content").call_unknown()
        write.step(EXCEPTION).inconclusive("LIST_REFUSED")

    bench.ledger.fenced(lease, change)
    bench.need_attention(lease)
    decide(bench, lease.case_id, D.ABSENT)
    assert bench.claim("content")["state"] == "free"


def test_a_cancelled_case_lets_the_next_one_have_the_exception(bench: Bench) -> None:
    first, second, _ = first_second_third(bench)
    taken(bench, first)
    bench.park(first)
    decide(bench, first.case_id, D.CANCEL)
    assert bench.claim("content")["state"] == "free"
    assert isinstance(taken(bench, second), ClaimView)
