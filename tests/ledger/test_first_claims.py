"""What a case claims first is taken with its lease, in the same transaction, if nobody else has it."""

from collections.abc import Callable, Sequence

import pytest

from onboarding.errors import LedgerError
from onboarding.intake import IntakeRequest
from onboarding.ledger.claims import ClaimKey, take_claims
from onboarding.ledger.leasing import Closed, Runner
from onboarding.ledger.states import CaseStatus, StepStatus
from onboarding.ledger.together import WORTH_PREPARING, Taking
from onboarding.ledger.writes import Lease
from tests.ledger.bench import ADDRESSES, LEASE_S, REGISTRATION, Bench, other_subject, registration_claim
from tests.support.commits import commits

RUNNER = Runner("runner", LEASE_S)


def bound(request: IntakeRequest) -> list[ClaimKey]:
    """The one registration, for the request's subject."""
    return [registration_claim(request.subject.subject_id)]


def wish(
    case_id: str, claims: Callable[[IntakeRequest], Sequence[ClaimKey]] | None = bound, *, retry: bool = False
) -> Taking:
    return Taking(case_id, RUNNER, ADDRESSES, retry, claims)


def taken(bench: Bench, *wishes: Taking) -> list[Lease]:
    found = bench.together(wishes)
    assert all(isinstance(one, Lease) for one in found), found
    return found


def holder(bench: Bench) -> str | None:
    found: str | None = bench.claim("registration 1")["holder_case"]
    return found


def test_the_first_claims_are_taken_with_the_lease(bench: Bench) -> None:
    case_id = bench.open()
    with commits() as seen:
        (lease,) = taken(bench, wish(case_id))
    assert len(seen) == 1
    assert holder(bench) == case_id
    assert lease.request == bench.ledger.request(case_id)
    assert lease.first_claims == tuple(bound(bench.ledger.request(case_id)))


def test_a_lease_without_such_a_wish_claims_nothing(bench: Bench) -> None:
    case_id = bench.open()
    (lease,) = taken(bench, wish(case_id, None))
    assert (lease.first_claims, lease.request) == ((), None)
    assert bench.sql("SELECT * FROM onboarding_claim") == []


def test_of_two_cases_of_one_subject_the_other_gets_its_lease_and_no_claim(bench: Bench) -> None:
    first, second = bench.open(), bench.open(other_subject(device__inventory_id="F" * 32))

    def same(_request: IntakeRequest) -> list[ClaimKey]:
        return [registration_claim("S1")]

    leases = taken(bench, wish(first, same), wish(second, same))
    assert [len(lease.first_claims) for lease in leases] == [1, 0]
    assert holder(bench) == first


def test_a_claim_of_another_subject_keeps_nobody_from_the_lease(bench: Bench) -> None:
    first, second = bench.open(), bench.open(other_subject())
    leases = taken(bench, wish(first), wish(second))
    assert [len(lease.first_claims) for lease in leases] == [1, 0]
    assert holder(bench) == first
    assert bench.ledger.trail_problems(second) == []


def test_a_case_whose_first_step_is_done_claims_nothing(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.bring(lease, REGISTRATION, StepStatus.DONE)
    bench.park(lease)
    (again,) = taken(bench, wish(lease.case_id))
    assert again.first_claims == ()
    assert bench.sql("SELECT * FROM onboarding_claim") == []


@pytest.mark.parametrize("status", [StepStatus.PENDING, StepStatus.OPEN])
def test_a_case_that_goes_on_with_its_first_step_has_its_claims_again(bench: Bench, status: StepStatus) -> None:
    (lease,) = taken(bench, wish(bench.open()))
    bench.bring(lease, REGISTRATION, status)
    bench.park(lease)
    (again,) = taken(bench, wish(lease.case_id))
    assert len(again.first_claims) == 1
    assert bench.claim("registration 1")["holder_fence"] == again.fence


def test_a_case_that_cannot_be_worked_claims_nothing(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.need_attention(lease)
    assert bench.together([wish(lease.case_id)]) == [Closed(CaseStatus.ATTENTION, "LOOK")]
    assert bench.sql("SELECT * FROM onboarding_claim") == []


def test_a_request_that_cannot_be_read_keeps_nobody_from_the_lease(bench: Bench) -> None:
    good, bad = bench.open(), bench.open(other_subject())
    bench.sql("UPDATE onboarding_case SET request_sealed = :sealed WHERE id = :id", sealed=b"\1" + bytes(40), id=bad)
    leases = taken(bench, wish(bad), wish(good))
    assert [lease.request is None for lease in leases] == [True, False]
    assert holder(bench) == good
    with pytest.raises(LedgerError, match="cannot be decrypted"):
        bench.ledger.request_of(leases[0])


def test_nobody_is_asked_what_a_case_that_is_not_there_claims(bench: Bench) -> None:
    good = bench.open()
    missing, lease = bench.together([wish("NOBODY"), wish(good)])
    assert isinstance(missing, LedgerError)
    assert isinstance(lease, Lease)


def test_many_are_taken_with_their_claims_by_one_commit(bench: Bench) -> None:
    numbers = [f"{number:032X}" for number in range(2 * WORTH_PREPARING)]
    opened = [bench.open(other_subject(number, device__inventory_id=number)) for number in numbers]

    def own(request: IntakeRequest) -> list[ClaimKey]:
        return [registration_claim(request.subject.subject_id, key=f"of {request.subject.subject_id}")]

    with commits() as seen:
        leases = taken(bench, *(wish(case_id, own) for case_id in opened))
    assert len(seen) == 1
    assert [lease.first_claims for lease in leases] == [
        (registration_claim(number, key=f"of {number}"),) for number in numbers
    ]
    assert {row["holder_case"] for row in bench.sql("SELECT holder_case FROM onboarding_claim")} == set(opened)


def test_what_was_claimed_with_the_lease_is_as_if_it_were_claimed_later(bench: Bench) -> None:
    (lease,) = taken(bench, wish(bench.open()))
    before = bench.claim("registration 1")
    bench.ledger.fenced(lease, lambda write: take_claims(write, lease.first_claims))
    assert bench.claim("registration 1") | {"updated_at": None} == before | {"updated_at": None}
