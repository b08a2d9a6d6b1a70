"""Device credentials leave the ledger in one way only, and the trail says who saw them."""

from onboarding.ledger.states import StepStatus
from tests.ledger.bench import DEVICE, INTENT, Bench

SEALED = b'{"accessId": "ABC123", "otp": "ABCD1234"}'


def test_credentials_are_shown_and_the_trail_says_to_whom(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.do(lease, DEVICE, lambda step: step.intend(INTENT))
    bench.do(lease, DEVICE, lambda step: step.applied({"device_id": "D1"}, code="REGISTERED", credentials=SEALED))
    assert bench.ledger.reveal_credentials(lease.case_id, "nurse@site") == {"accessId": "ABC123", "otp": "ABCD1234"}
    last = bench.ledger.events(lease.case_id)[-1]
    assert (last.kind, last.actor, last.step) == ("credentials_shown", "nurse@site", "device")
    assert bench.ledger.trail_problems(lease.case_id) == []


def test_showing_them_takes_no_lease_from_a_runner(bench: Bench) -> None:
    lease = bench.open_and_lease()
    bench.do(lease, DEVICE, lambda step: step.intend(INTENT))
    bench.do(lease, DEVICE, lambda step: step.applied({}, code="REGISTERED", credentials=SEALED))
    bench.ledger.reveal_credentials(lease.case_id, "nurse@site")
    bench.ledger.renew(lease)
    assert bench.ledger.trail_problems(lease.case_id) == []


def test_where_there_are_none_nothing_is_noted(bench: Bench) -> None:
    lease = bench.open_and_lease()
    before = len(bench.ledger.events(lease.case_id))
    assert bench.ledger.reveal_credentials(lease.case_id, "nurse@site") == {}
    assert len(bench.ledger.events(lease.case_id)) == before
    case = bench.ledger.case(lease.case_id)
    assert case is not None
    assert case.steps[DEVICE].status is StepStatus.PENDING
