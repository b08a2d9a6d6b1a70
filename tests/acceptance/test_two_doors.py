"""The same request through two doors at the same time: one case, and each effect once."""

from collections import Counter
from contextlib import ExitStack

import pytest

from tests.support.installation import Installation, variables
from tests.support.prefect_server import PrefectServer
from tests.support.requests import LEFT_OUT
from vendor_sandbox import seed

EVERY_EFFECT = {"registration_updated": 1, "device_registered": 1, "dnd_exception_created": 1}
_ENDS_S = 120

pytestmark = pytest.mark.prefect


@pytest.fixture
def observed(installation: Installation, observing_server: PrefectServer) -> dict[str, str | None]:
    """The variables that open the door of the flow."""
    return {"PREFECT_API_URL": observing_server.api_url, "PREFECT_HOME": str(installation.folder / "prefect-client")}


# Where the one that comes first is held while the other one comes; None: nowhere, they race.
@pytest.mark.parametrize(
    ("held_at", "when", "flow_first"),
    [
        (None, "before", True),
        ("login", "before", True),
        ("update_registration", "after", False),
        ("register_device", "before", True),
        ("create_exception", "after", False),
    ],
)
def test_two_doors_at_the_same_time_give_one_case_and_each_effect_once(
    installation: Installation, observed: dict[str, str | None], held_at: str | None, when: str, flow_first: bool
) -> None:
    installation.environment |= variables(request_timeout_seconds=20, lease_seconds=40)
    file = installation.request()
    rule = None
    if held_at is not None:
        system = "openspecimen" if held_at in ("login", "update_registration") else "clinical_one"
        rule = installation.fault(system, "hold", call=held_at, when=when, nth=1)
    doors: list[dict[str, str | None]] = [observed, {}] if flow_first else [{}, observed]
    with ExitStack() as stack:
        first = stack.enter_context(installation.started("subject", file, "--json", variables=doors[0]))
        if rule is not None:
            installation.control.held(fault_id=rule, timeout_s=60)
        second = stack.enter_context(installation.started("subject", file, "--json", variables=doors[1]))
        if rule is not None:
            out, err = second.communicate(timeout=_ENDS_S)
            assert second.returncode == 3, (out, err)
            assert "HeldByAnotherRun" in out
            installation.control.release(rule)
        for process in (first, second):
            process.communicate(timeout=_ENDS_S)
            assert process.returncode in (0, 3)
        assert 0 in (first.returncode, second.returncode)
    case = installation.case()
    assert case["status"] == "done"
    assert Counter(installation.effects()) == EVERY_EFFECT
    sent = Counter(entry["call"] for entry in installation.requests())
    assert (sent["update_registration"], sent["register_device"], sent["create_exception"]) == (1, 1, 1)


def test_the_same_registration_for_a_second_subject_is_refused_at_the_other_door(
    installation: Installation, observed: dict[str, str | None]
) -> None:
    assert installation.run("subject", installation.request()).status == 0
    effects = installation.effects()
    other = installation.request(
        subject__subject_id=seed.subject_id(2),
        device__inventory_id=seed.inventory_id(2),
        device__vendor_code="V-1",
        device__subject_number=LEFT_OUT,
    )
    refused = installation.run_afresh("subject", other, "--json", variables=observed)
    (said,) = refused.json_lines
    assert (refused.status, said["ending"], said["reason"]) == (4, "NeedsAttention", "IDENTITY_CONFLICT")
    assert said["observed"] is True
    assert installation.effects() == effects


def test_two_subjects_that_ask_for_one_registration_at_the_same_time_cannot_both_have_it(
    installation: Installation, observed: dict[str, str | None]
) -> None:
    mine = installation.request(device=LEFT_OUT, dnd_exception=LEFT_OUT)
    theirs = installation.request(device=LEFT_OUT, dnd_exception=LEFT_OUT, subject__subject_id=seed.subject_id(2))
    with (
        installation.started("subject", mine, variables=observed) as first,
        installation.started("subject", theirs) as second,
    ):
        first.communicate(timeout=_ENDS_S)
        second.communicate(timeout=_ENDS_S)
    assert sorted((first.returncode, second.returncode)) == [0, 4]
    assert sorted(case["reason"] or case["status"] for case in installation.cases()) == ["IDENTITY_CONFLICT", "done"]
    assert installation.effects() == ["registration_updated"]
