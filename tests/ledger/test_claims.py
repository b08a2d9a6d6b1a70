"""Claims that are bound to a subject: registration, device, and a device-to-cloud subject's one device."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from onboarding.errors import IdentityConflict
from onboarding.ledger.claims import HELD_RETRY_S, ClaimKey, ClaimKind, claim_key, release_all, take_claims
from onboarding.ledger.states import StepName, StepStatus
from onboarding.ledger.views import Held
from onboarding.ledger.writes import Lease
from tests.ledger.bench import (
    DEVICE,
    OTHER_INVENTORY,
    REGISTRATION,
    Bench,
    applied,
    other_subject,
    registration_claim,
)
from tests.support.requests import request

S = StepStatus
STEP_OF: Mapping[ClaimKind, StepName] = {
    ClaimKind.REGISTRATION: REGISTRATION,
    ClaimKind.INVENTORY: DEVICE,
    ClaimKind.DEVICE_TO_CLOUD_SUBJECT: DEVICE,
}
KINDS = list(STEP_OF)


def key_of(kind: ClaimKind, bound_to: str) -> ClaimKey:
    return ClaimKey(kind, "K", bound_to)


def claim(bench: Bench, lease: Lease, *keys: ClaimKey) -> Held | None:
    return bench.ledger.fenced(lease, lambda write: take_claims(write, keys))


def first_and_second(bench: Bench) -> tuple[Lease, Lease]:
    return bench.open_and_lease(), bench.open_and_lease(request(device__inventory_id=OTHER_INVENTORY))


@pytest.mark.parametrize("kind", KINDS)
def test_a_claim_is_taken_once_and_again_by_its_holder(bench: Bench, kind: ClaimKind) -> None:
    lease = bench.open_and_lease()
    assert claim(bench, lease, key_of(kind, "A")) is None
    assert claim(bench, lease, key_of(kind, "A")) is None
    row = bench.claim("K")
    assert (row["state"], row["holder_case"], row["holder_fence"], row["bound_to"]) == ("held", lease.case_id, 1, "A")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ending", ["held", "done", "unknown", "refused"])
def test_what_becomes_of_a_claim_decides_who_may_have_it_next(bench: Bench, kind: ClaimKind, ending: str) -> None:
    """Same subject: wait while it is held or unknown. Another subject: only a refused claim is free again."""
    first, second = first_and_second(bench)
    claim(bench, first, key_of(kind, "A"))
    if ending != "held":
        bench.bring(first, STEP_OF[kind], StepStatus(ending))
    same, other = key_of(kind, "A"), key_of(kind, "B")
    if ending in ("held", "unknown"):
        assert claim(bench, second, same) == Held(first.case_id, HELD_RETRY_S)
    if ending == "refused":
        assert (bench.claim("K")["state"], bench.claim("K")["holder_case"]) == ("free", None)
        assert claim(bench, second, other) is None
        assert bench.claim("K")["bound_to"] == "B"
        return
    before = bench.content()
    with pytest.raises(IdentityConflict) as refused:
        claim(bench, second, other)
    assert refused.value.code == "IDENTITY_CONFLICT"
    assert first.case_id in refused.value.what
    assert bench.content() == before
    if ending == "done":
        assert claim(bench, second, same) is None
        assert (bench.claim("K")["state"], bench.claim("K")["holder_case"]) == ("done", second.case_id)


@pytest.mark.parametrize("status", [S.REFUSED, S.UNKNOWN, S.DONE])
def test_what_was_settled_once_stays_bound_however_a_later_case_ends(bench: Bench, status: StepStatus) -> None:
    first, second = first_and_second(bench)
    claim(bench, first, registration_claim("A"))
    bench.do(first, REGISTRATION, applied)
    claim(bench, second, registration_claim("A"))
    bench.bring(second, REGISTRATION, status)
    row = bench.claim("registration 1")
    assert row["state"] == ("unknown" if status is S.UNKNOWN else "done")
    third = bench.open_and_lease(other_subject())
    with pytest.raises(IdentityConflict):
        claim(bench, third, registration_claim("B"))


def test_a_conflict_after_a_cancelled_unknown_still_stands_though_no_case_holds_it(bench: Bench) -> None:
    first, second = first_and_second(bench)
    claim(bench, first, registration_claim("A"))
    bench.bring(first, REGISTRATION, S.UNKNOWN)
    bench.ledger.store.write(lambda c: release_all(c, first.case_id))
    with pytest.raises(IdentityConflict) as caught:
        claim(bench, second, registration_claim("B"))
    assert caught.value.system == "the ledger"
    assert caught.value.what == "the registration is held by another subject.", "and no case is named"
    assert claim(bench, second, registration_claim("A")) is None
    bench.bring(second, REGISTRATION, S.REFUSED)
    assert bench.claim("registration 1")["state"] == "unknown"


@pytest.mark.parametrize("kept_by", ["waiting", "parked", "lease over"])
def test_a_claim_outlives_waits_and_leases_until_its_step_ends(bench: Bench, kept_by: str) -> None:
    first, second = first_and_second(bench)
    claim(bench, first, registration_claim("A"))
    if kept_by == "waiting":
        bench.do(first, REGISTRATION, lambda s: s.wait("UNREACHABLE"))
    elif kept_by == "parked":
        bench.park(first)
    else:
        bench.clock.advance(1000)
    assert claim(bench, second, registration_claim("A")) == Held(first.case_id, HELD_RETRY_S)
    with pytest.raises(IdentityConflict):
        claim(bench, second, registration_claim("B"))


def test_the_end_of_one_step_leaves_the_claims_of_another(bench: Bench) -> None:
    lease = bench.open_and_lease()
    claim(bench, lease, registration_claim("A"), key_of(ClaimKind.INVENTORY, "A"))
    bench.bring(lease, DEVICE, S.REFUSED)
    assert bench.claim("registration 1")["state"] == "held"
    assert bench.claim("K")["state"] == "free"


def test_a_device_to_cloud_subject_is_bound_to_one_device(bench: Bench) -> None:
    first, second = first_and_second(bench)
    claim(bench, first, ClaimKey(ClaimKind.DEVICE_TO_CLOUD_SUBJECT, "subject", "device 1"))
    with pytest.raises(IdentityConflict, match="bound to another device-to-cloud device"):
        claim(bench, second, ClaimKey(ClaimKind.DEVICE_TO_CLOUD_SUBJECT, "subject", "device 2"))


def test_several_claims_are_taken_all_or_none(bench: Bench) -> None:
    first, second = first_and_second(bench)
    claim(bench, first, registration_claim("A", "2"))
    wanted = [registration_claim("A", "1"), registration_claim("A", "2"), registration_claim("A", "3")]
    assert claim(bench, second, *wanted) == Held(first.case_id, HELD_RETRY_S)
    assert [bench.claim(key)["holder_case"] for key in "123"] == [None, first.case_id, None]


def test_claims_in_any_order_at_the_same_time_never_wait_for_each_other(bench: Bench) -> None:
    leases = [bench.open_and_lease(other_subject(f"{number:032X}")) for number in range(6)]
    wanted = [registration_claim("A", str(number)) for number in range(4)]
    start = Barrier(len(leases))

    def take(number: int) -> Held | None:
        start.wait(30)
        return claim(bench, leases[number], *(wanted if number % 2 else reversed(wanted)))

    with ThreadPoolExecutor(len(leases)) as threads:
        taken = list(threads.map(take, range(len(leases))))
    assert taken.count(None) == 1
    assert len({bench.claim(key.key)["holder_case"] for key in wanted}) == 1


def test_a_registration_and_a_device_of_the_same_number_are_different_claims(bench: Bench) -> None:
    first, second = first_and_second(bench)
    claim(bench, first, key_of(ClaimKind.REGISTRATION, "A"))
    assert claim(bench, second, key_of(ClaimKind.INVENTORY, "B")) is None


def test_a_claim_s_key_is_written_as_ledgers_hold_it_already() -> None:
    assert claim_key("study", 'a "kit"', "ä") == '["study","a \\"kit\\"","\\u00e4"]'


def test_the_parts_of_a_claim_s_key_cannot_be_confused() -> None:
    assert claim_key("ab", "c") != claim_key("a", "bc")
    assert claim_key('a","b') != claim_key("a", "b")
