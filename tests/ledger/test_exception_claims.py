"""The shared claim on an exception's content: cases take turns, and the next one inherits intent, doubt and id."""

from collections.abc import Callable
from typing import Any

import pytest

from onboarding.errors import LeaseLost
from onboarding.ledger.claims import ClaimKind, ExceptionClaim, take_claims
from onboarding.ledger.states import StepStatus
from onboarding.ledger.views import ClaimView, Held, Intent
from onboarding.ledger.writes import CaseWrite, Lease
from tests.ledger.bench import EXCEPTION, INTENT, LEASE_S, QUIET_S, Bench, other_subject, registration_claim

KEY = "content"


def take(bench: Bench, lease: Lease) -> ClaimView | Held:
    def change(write: CaseWrite) -> ClaimView | Held:
        claim = ExceptionClaim.take(write, KEY)
        return claim if isinstance(claim, Held) else claim.view()

    return bench.ledger.fenced(lease, change)


def taken(bench: Bench, lease: Lease) -> ClaimView:
    view = take(bench, lease)
    assert isinstance(view, ClaimView), view
    return view


def do(bench: Bench, lease: Lease, move: Callable[[ExceptionClaim], Any]) -> Any:
    return bench.ledger.fenced(lease, lambda write: move(ExceptionClaim.held(write, KEY)))


def two_cases(bench: Bench) -> tuple[Lease, Lease]:
    return bench.open_and_lease(), bench.open_and_lease(other_subject())


def test_it_is_bound_to_nobody_and_begins_without_an_intent(bench: Bench) -> None:
    lease = bench.open_and_lease()
    view = taken(bench, lease)
    assert (view.key, view.open, view.unknown, view.effect_id, view.effect_age_s) == (KEY, False, False, None, None)
    assert (view.intent.attempts, view.intent.in_doubt, view.intent.quiet_left_s) == (0, False, 0)
    assert bench.claim(KEY)["bound_to"] == ""


def test_others_wait_while_the_holder_s_lease_lives(bench: Bench) -> None:
    first, second = two_cases(bench)
    taken(bench, first)
    bench.clock.advance(10)
    assert take(bench, second) == Held(first.case_id, LEASE_S - 10)


def test_a_holder_keeps_it_until_the_last_moment_of_its_lease(bench: Bench) -> None:
    first, second = two_cases(bench)
    taken(bench, first)
    bench.clock.advance(LEASE_S - 0.5)
    assert take(bench, second) == Held(first.case_id, 0.5)
    bench.clock.advance(0.5)
    bench.ledger.renew(second)
    taken(bench, second)
    assert bench.claim(KEY)["holder_case"] == second.case_id


@pytest.mark.parametrize("how", ["given back", "lease over", "parked", "reboot", "taken anew"])
def test_the_next_case_takes_it_over_and_inherits_the_open_intent(bench: Bench, how: str) -> None:
    first, second = two_cases(bench)
    taken(bench, first)
    do(bench, first, lambda c: c.intend(INTENT))
    do(bench, first, lambda c: c.doubt())
    if how == "given back":
        do(bench, first, lambda c: c.give_back())
    elif how == "lease over":
        bench.clock.advance(LEASE_S)
        bench.ledger.renew(second)
    elif how == "parked":
        bench.park(first)
    elif how == "taken anew":
        bench.clock.advance(LEASE_S)
        bench.lease(first.case_id)
    else:
        bench.clock.reboot()
    view = taken(bench, second)
    assert (view.open, view.intent.in_doubt, view.intent.attempts) == (True, True, 1)
    assert view.intent.facts["before"] == {"ppid": "digest"}
    assert view.intent.quiet_left_s == (QUIET_S if how in ("given back", "parked", "reboot") else 0)
    assert bench.claim(KEY)["holder_case"] == second.case_id


@pytest.mark.parametrize(
    "move",
    [
        lambda c: c.intend(INTENT),
        lambda c: c.doubt(),
        lambda c: c.note(applied=True),
        lambda c: c.clear(),
        lambda c: c.absent(),
        lambda c: c.adopt("X", []),
        lambda c: c.call_unknown(),
        lambda c: c.give_back(),
    ],
)
def test_a_holder_that_was_overtaken_has_lost_it_for_every_move(bench: Bench, move: Callable[..., Any]) -> None:
    first, second = two_cases(bench)
    taken(bench, first)
    bench.clock.advance(LEASE_S)
    taken(bench, second)
    before = bench.content()
    with pytest.raises(LeaseLost, match="was taken over by another case"):
        do(bench, first, move)
    assert bench.content() == before


def test_a_claim_of_an_earlier_lease_of_the_same_case_must_be_taken_again(bench: Bench) -> None:
    first = bench.open_and_lease()
    taken(bench, first)
    bench.park(first)
    again = bench.lease(first.case_id)
    with pytest.raises(LeaseLost):
        do(bench, again, lambda c: c.doubt())
    taken(bench, again)
    do(bench, again, lambda c: c.give_back())
    assert bench.claim(KEY)["holder_case"] is None


def test_an_intent_is_kept_encrypted_and_counted(bench: Bench) -> None:
    lease = bench.open_and_lease()
    taken(bench, lease)
    assert do(bench, lease, lambda c: c.intend(INTENT)) == 1
    sealed = bytes(bench.claim(KEY)["intent_sealed"])
    assert bench.ledger.key.decrypt(sealed, f"claim/{KEY}") == INTENT.body
    do(bench, lease, lambda c: c.clear())
    view = taken(bench, lease)
    assert (view.open, view.intent.attempts) == (False, 1)
    assert bench.claim(KEY)["intent_sealed"] is None
    assert do(bench, lease, lambda c: c.intend(INTENT)) == 2


def test_an_open_intent_is_settled_before_the_next_one(bench: Bench) -> None:
    lease = bench.open_and_lease()
    taken(bench, lease)
    do(bench, lease, lambda c: c.intend(INTENT))
    with pytest.raises(AssertionError, match="settled before"):
        do(bench, lease, lambda c: c.intend(INTENT))


def test_a_doubt_is_ended_by_a_proof_and_not_by_a_later_answer(bench: Bench) -> None:
    lease = bench.open_and_lease()
    taken(bench, lease)
    do(bench, lease, lambda c: c.intend(INTENT))
    do(bench, lease, lambda c: c.doubt())
    with pytest.raises(AssertionError, match="never by the class of a later answer"):
        do(bench, lease, lambda c: c.clear())
    do(bench, lease, lambda c: c.absent())
    view = taken(bench, lease)
    assert (view.open, view.intent.in_doubt, view.intent.absences) == (False, False, 1)


def test_absences_can_be_counted_anew_and_attempts_go_on(bench: Bench) -> None:
    lease = bench.open_and_lease()
    taken(bench, lease)
    do(bench, lease, lambda c: c.intend(INTENT))
    do(bench, lease, lambda c: c.absent())
    do(bench, lease, lambda c: c.count_absences_anew())
    intent = taken(bench, lease).intent
    assert (intent.absences, intent.attempts) == (0, 1)


def test_what_is_learned_is_added_to_the_intent(bench: Bench) -> None:
    lease = bench.open_and_lease()
    taken(bench, lease)
    do(bench, lease, lambda c: c.intend(INTENT))
    do(bench, lease, lambda c: c.note(applied=True))
    assert taken(bench, lease).intent.facts == {**INTENT.facts, "quiet_s": QUIET_S, "applied": True}


def test_an_adopted_exception_is_inherited_with_its_age_and_duplicates(bench: Bench) -> None:
    first, second = two_cases(bench)
    taken(bench, first)
    do(bench, first, lambda c: c.intend(INTENT))
    do(bench, first, lambda c: c.adopt("X1", ["X2", "X3"]))
    do(bench, first, lambda c: c.give_back())
    bench.clock.advance(7)
    view = taken(bench, second)
    assert (view.effect_id, view.effect_age_s, view.open) == ("X1", 7, False)
    bench.clock.reboot()
    assert taken(bench, second).effect_age_s is None
    (row,) = bench.sql("SELECT duplicates FROM onboarding_claim")
    assert "X3" in str(row["duplicates"])


def test_while_it_is_unknown_nobody_holds_it_and_the_others_see_that(bench: Bench) -> None:
    first, second = two_cases(bench)
    taken(bench, first)
    do(bench, first, lambda c: c.intend(INTENT))
    do(bench, first, lambda c: c.call_unknown())
    for lease in (second, first):
        assert taken(bench, lease).unknown
        with pytest.raises(LeaseLost):
            do(bench, lease, lambda c: c.adopt("X", []))
    assert bench.claim(KEY)["holder_case"] is None


def test_giving_back_what_it_does_not_hold_any_more_changes_nothing(bench: Bench) -> None:
    def change(write: CaseWrite) -> None:
        claim = ExceptionClaim.take(write, KEY)
        assert isinstance(claim, ExceptionClaim)
        claim.call_unknown()
        claim.give_back()

    bench.ledger.fenced(bench.open_and_lease(), change)
    assert (bench.claim(KEY)["state"], bench.claim(KEY)["holder_case"]) == ("unknown", None)


def test_the_step_shows_the_shared_intent_and_counts_for_itself(bench: Bench) -> None:
    lease = bench.open_and_lease()

    def intend(write: CaseWrite) -> int:
        claim = ExceptionClaim.take(write, KEY)
        assert isinstance(claim, ExceptionClaim)
        claim.intend(INTENT)
        claim.clear()
        return write.step(EXCEPTION).mirror_intent(claim.intend(INTENT))

    assert bench.ledger.fenced(lease, intend) == 1
    assert bench.step(lease.case_id, EXCEPTION).status is StepStatus.OPEN
    assert bench.last_event(lease.case_id).detail == {"attempt": 1, "claim_attempt": 2, "fence": 1}


def test_contents_that_cases_claimed_are_told_from_others(bench: Bench) -> None:
    lease = bench.open_and_lease()
    taken(bench, lease)
    assert bench.ledger.other_claims_with([KEY, "never seen"]) == {KEY}
    assert bench.ledger.other_claims_with([]) == set()
    assert bench.sql("SELECT kind FROM onboarding_claim") == [{"kind": ClaimKind.EXCEPTION.value}]


def test_a_claim_that_is_held_says_so_and_a_settled_one_stays_settled(bench: Bench) -> None:
    lease = bench.open_and_lease()
    taken(bench, lease)
    assert bench.claim(KEY)["state"] == "held"
    do(bench, lease, lambda claim: claim.adopt("E1", []))
    taken(bench, lease)
    assert bench.claim(KEY)["state"] == "done"


def test_the_lease_reaches_past_the_quiet_time_of_a_shared_intent(bench: Bench) -> None:
    lease = bench.open_and_lease()
    taken(bench, lease)
    long = Intent(b"{}", LEASE_S + QUIET_S, {})
    do(bench, lease, lambda claim: claim.intend(long))
    assert bench.case(lease.case_id).lease_left_s >= LEASE_S + QUIET_S + 1.0


def test_what_else_is_claimed_under_the_same_words_is_no_exception(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.ledger.fenced(lease, lambda write: take_claims(write, [registration_claim("A", key=KEY)]))
    assert bench.ledger.other_claims_with([KEY]) == set()


@pytest.mark.parametrize("exception_id", ["E2", None])
def test_a_decision_leaves_nothing_open_and_nobody_holding(bench: Bench, exception_id: str | None) -> None:
    lease = bench.open_and_lease()
    taken(bench, lease)

    def before(claim: ExceptionClaim) -> None:
        claim.intend(INTENT)
        claim.absent()
        claim.adopt("E1", ["E9"])

    do(bench, lease, before)
    do(bench, lease, lambda claim: claim.settle_by_decision(exception_id))
    row = bench.claim(KEY)
    assert (row["holder_case"], row["absences"], row["duplicates"], row["intent"]) == (None, 0, None, None)
    known = exception_id is not None
    assert (row["state"], row["effect_id"]) == ("done" if known else "free", exception_id)
    assert (row["effect_seen_at"], row["effect_epoch"]) == (
        (bench.clock.seconds, bench.clock.epoch) if known else (None, None)
    )
