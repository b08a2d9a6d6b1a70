"""Step 2 in detail: what counts as dispensed, what is waited for and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from onboarding.endings import Ending
from onboarding.ledger.states import CaseStatus, StepName, StepStatus
from onboarding.steps.attempt import attempt_step
from onboarding.steps.case import conclude
from tests.steps.lab import MODE, STUDY, Lab, cloud_to_cloud, laboratory, leased, only
from tests.support.requests import LEFT_OUT, example
from vendor_sandbox import seed


def device(number: int = 1, **changes: Any) -> dict[str, Any]:
    """Subject and kit of one number; only the device is asked for."""
    ours = {"subject__subject_id": seed.subject_id(number), "device__inventory_id": seed.inventory_id(number)}
    return only("device", **{**ours, **changes})


@pytest.mark.parametrize("answer", ["empty", "null", "object", "no_subject", "null_subject"])
async def test_a_device_that_is_not_dispensed_yet_is_waited_for(tmp_path: Path, answer: str) -> None:
    async with laboratory(tmp_path, switches={"undispensed": answer}) as lab:
        case_id, report = await lab.onboard(device(5))
        assert (report.ending, report.code) == (Ending.AWAITING_DISPENSATION, "NOT_DISPENSED")
        assert report.due_at is not None
        assert lab.case(case_id).status is CaseStatus.READY
        assert lab.calls("register_device") == []
        lab.control.dispense(STUDY, MODE, seed.inventory_id(5), seed.subject_id(5))
        assert (await lab.work(case_id)).ending is Ending.ONBOARDED


async def test_each_look_at_a_dispensation_makes_the_next_pause_longer_up_to_a_bound(lab: Lab) -> None:
    case_id = await lab.open(device(5))
    pauses = []
    for _ in range(10):
        async with leased(lab.bench, case_id) as session:
            report = await attempt_step(session, StepName.DISPENSATION)
            pauses.append(report.wait_s)
            await conclude(session, [report])
    first = lab.bench.settings.dispensation_check_seconds
    assert pauses == [first * min(look, 8) for look in range(1, 11)]
    assert lab.case(case_id).idle_takings == 0, "waiting for a dispensation is no lack of progress"


async def test_a_device_that_is_never_dispensed_needs_attention_after_the_longest_wait(tmp_path: Path) -> None:
    async with laboratory(tmp_path, max_wait_days=1e-9) as lab:
        case_id = await lab.open(device(5))
        reports = [await lab.attempt(case_id)]
        if reports[0].ending is Ending.AWAITING_DISPENSATION:
            reports.append(await lab.attempt(case_id))
        assert (reports[-1].ending, reports[-1].code) == (Ending.NEEDS_ATTENTION, "WAITED_TOO_LONG")
        assert lab.step(case_id, StepName.DISPENSATION).status is StepStatus.REFUSED
        lab.control.dispense(STUDY, MODE, seed.inventory_id(5), seed.subject_id(5))
        assert (await lab.work(case_id, retry=True)).ending is Ending.ONBOARDED


@pytest.mark.parametrize(
    ("request_of", "code"),
    [
        (lambda: device(3), "NO_CONNECTION_DEVICE"),
        (lambda: device(4), "DEVICE_WITHOUT_CONNECTION_TYPE"),
        (lambda: device(1, device__vendor_code="V", device__subject_number=LEFT_OUT), "VENDOR_CODE_NOT_ALLOWED"),
        (lambda: device(2), "VENDOR_CODE_MISSING"),
        (lambda: device(1, subject__subject_id=seed.subject_id(5)), "DEVICE_DISPENSED_TO_DIFFERENT_SUBJECT"),
        (lambda: device(7, device__inventory_id=seed.inventory_id(8)), "INVENTORY_STATUS_13"),
    ],
    ids=["no_connection", "no_type", "vendor_code", "no_vendor_code", "different_subject", "lost"],
)
async def test_a_device_that_cannot_be_registered_is_refused_before_anything_is_sent(
    lab: Lab, request_of: Any, code: str
) -> None:
    case_id, report = await lab.onboard(request_of())
    assert (report.ending, report.step, report.code) == (Ending.NEEDS_ATTENTION, StepName.DISPENSATION, code)
    assert lab.step(case_id, StepName.DISPENSATION).status is StepStatus.REFUSED
    assert lab.calls("register_device") == []


@pytest.mark.parametrize("status", [2, 3, 13, 15, 18])
async def test_any_other_inventory_status_is_refused(lab: Lab, status: int) -> None:
    lab.control.undispense(STUDY, MODE, seed.inventory_id(1), status=status)
    _, report = await lab.onboard(device())
    assert (report.ending, report.code) == (Ending.NEEDS_ATTENTION, f"INVENTORY_STATUS_{status}")


async def test_a_kit_recorded_as_not_dispensed_to_the_subject_is_waited_for(lab: Lab) -> None:
    _, report = await lab.onboard(device(8, device__inventory_id=seed.inventory_id(9)))
    assert (report.ending, report.code) == (Ending.AWAITING_DISPENSATION, "NOT_DISPENSED")


async def test_an_answer_that_names_no_subject_proves_no_pairing(tmp_path: Path) -> None:
    async with laboratory(tmp_path, switches={"dispensation_schema": "kit_status"}) as lab:
        _, report = await lab.onboard(device())
        assert (report.ending, report.code) == (Ending.NEEDS_ATTENTION, "SUBJECT_NOT_STATED")
        assert lab.calls("register_device") == []


@pytest.mark.parametrize(
    "switches",
    [
        {"wrap_results": True},
        {"dispensation_ids": "plain"},
        {"cloud_to_cloud_answer": "id_only"},
        {"phrases": "newer", "error_details": "string"},
    ],
    ids=str,
)
async def test_every_edition_of_the_service_is_understood(tmp_path: Path, switches: dict[str, Any]) -> None:
    async with laboratory(tmp_path, switches=switches) as lab:
        _, report = await lab.onboard(example())
        assert report.ending is Ending.ONBOARDED
        _, report = await lab.onboard(cloud_to_cloud())
        assert report.ending is Ending.ONBOARDED
