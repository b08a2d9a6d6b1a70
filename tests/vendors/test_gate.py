"""The gate of a single process."""

from onboarding.errors import CLINICAL_ONE, OPENSPECIMEN
from onboarding.vendors import InMemoryGate, VendorGate


async def test_a_pause_ends_by_itself_and_is_never_cut_short() -> None:
    gate: VendorGate = InMemoryGate()
    assert await gate.not_before(CLINICAL_ONE) == 0
    await gate.remember_not_before(CLINICAL_ONE, 50)
    await gate.remember_not_before(CLINICAL_ONE, 5)
    assert 45 < await gate.not_before(CLINICAL_ONE) <= 50
    assert await gate.not_before(OPENSPECIMEN) == 0
    await gate.remember_not_before(OPENSPECIMEN, -1)
    assert await gate.not_before(OPENSPECIMEN) == 0


async def test_a_refused_log_in_is_remembered_for_its_credentials_alone() -> None:
    gate: VendorGate = InMemoryGate()
    digest = gate.credentials_digest(OPENSPECIMEN, "url", "name", "secret")
    await gate.remember_login_refused(OPENSPECIMEN, digest, "CODE")
    assert await gate.login_refused(OPENSPECIMEN, digest) == "CODE"
    assert await gate.login_refused(CLINICAL_ONE, digest) is None
    assert await gate.login_refused(OPENSPECIMEN, gate.credentials_digest(OPENSPECIMEN, "url", "name", "new")) is None


def test_a_digest_tells_its_parts_apart_and_needs_the_gates_key() -> None:
    gate = InMemoryGate()
    digests = {gate.credentials_digest(*parts) for parts in (("a", "bc"), ("ab", "c"), ("a", "b", "c"), ("abc",))}
    assert len(digests) == 4
    assert gate.credentials_digest("a", "b") == gate.credentials_digest("a", "b")
    assert gate.credentials_digest("a", "b") != InMemoryGate().credentials_digest("a", "b")
