"""Steps 2 and 3 in detail: the dispensation as a guard, and how a doubt about a device ends."""

import asyncio
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from onboarding.endings import Ending
from onboarding.ledger.leasing import Closed
from onboarding.ledger.states import CaseStatus, StepName, StepStatus
from onboarding.steps.case import work_case
from onboarding.steps.dispensation import GUARD_LASTS_S
from onboarding.vendors.wire import Deadline
from tests.steps.lab import MODE, STUDY, Lab, cloud_to_cloud, due, laboratory, leased, only
from vendor_sandbox import clinical_one_errors as phrases
from vendor_sandbox import seed

STEP = StepName.DEVICE
SHORT: dict[str, Any] = {"request_timeout_seconds": 0.5, "settle_seconds": 0.1}


def device(number: int = 1, **changes: Any) -> dict[str, Any]:
    """Subject and kit of one number; only the device is asked for."""
    ours = {"subject__subject_id": seed.subject_id(number), "device__inventory_id": seed.inventory_id(number)}
    return only("device", **{**ours, **changes})


def cloud_device(**changes: Any) -> dict[str, Any]:
    content = cloud_to_cloud(**changes)
    return {"subject": content["subject"], "device": content["device"]}


async def register_by_someone_else(lab: Lab, number: int) -> None:
    body = {"inventoryId": seed.inventory_id(number), "mSubjectId": "THEIRS", "vendorCode": "V"}
    async with lab.another_bench() as someone:
        client = someone.systems.clinical_one
        await client.register_device(STUDY, MODE, seed.subject_id(number), body, deadline=Deadline(5))


async def in_doubt(lab: Lab, request: dict[str, Any], *, applied: bool) -> str:
    lab.fault("register_device", "cut", when="after" if applied else "before")
    case_id = await lab.open(request)
    assert (await lab.attempt(case_id)).code == "CUT"
    assert lab.step(case_id, STEP).intent.in_doubt
    return case_id


# Already registered


async def test_already_registered_without_a_doubt_of_our_own_is_attention_never_success(lab: Lab) -> None:
    await register_by_someone_else(lab, 2)
    case_id, report = await lab.onboard(cloud_device())
    assert (report.ending, report.code) == (Ending.NEEDS_ATTENTION, "DEVICE_ALREADY_REGISTERED")
    assert lab.step(case_id, STEP).status is StepStatus.REFUSED
    again = await lab.work(case_id, retry=True)
    assert (again.ending, again.code) == (Ending.NEEDS_ATTENTION, "DEVICE_ALREADY_REGISTERED")


async def test_already_registered_ends_a_doubt_of_our_own_as_applied(lab: Lab) -> None:
    case_id = await in_doubt(lab, cloud_device(), applied=True)
    await due(lab.case(case_id))
    report = await lab.attempt(case_id)
    assert report.ending is Ending.ONBOARDED
    assert report.steps[2].code == "PROBE_FOUND_APPLIED"
    assert lab.effects() == {"device_registered": 1}


async def test_already_registered_in_doubt_is_unknown_if_it_was_met_before_without_one(lab: Lab) -> None:
    await register_by_someone_else(lab, 2)
    case_id, _ = await lab.onboard(cloud_device())
    lab.fault("register_device", "cut", when="before")
    async with leased(lab.bench, case_id, retry=True) as session:
        report = await work_case(session)
    assert (report.ending, report.code) == (Ending.NEEDS_ATTENTION, "DEVICE_ALREADY_REGISTERED")
    assert lab.step(case_id, STEP).status is StepStatus.UNKNOWN
    async with lab.bench.session(case_id, retry=True) as closed:
        assert isinstance(closed, Closed)


# Quiet time


@pytest.mark.parametrize("request_of", [device, cloud_device], ids=["device_to_cloud", "cloud_to_cloud"])
async def test_no_probe_with_an_effect_is_made_before_the_quiet_time_is_over(lab: Lab, request_of: Any) -> None:
    case_id = await in_doubt(lab, request_of(), applied=True)
    report = await lab.attempt(case_id)
    assert report.ending is Ending.RETRY_SCHEDULED
    assert len(lab.calls("register_device")) == 1
    assert lab.calls("access_code") == []
    assert (await lab.work_to_the_end(case_id)).status is CaseStatus.DONE
    probes = [*lab.calls("register_device")[1:], *lab.calls("access_code")]
    (probe,) = probes
    assert probe["monotonic"] - lab.calls("register_device")[0]["monotonic"] >= lab.bench.settings.quiet_seconds


async def test_a_cloud_to_cloud_request_that_is_applied_after_the_quiet_time_registers_nothing_twice(lab: Lab) -> None:
    held = lab.fault("register_device", "hold", when="before")
    case_id = await lab.open(cloud_device())
    assert (await lab.attempt(case_id)).code == "DEADLINE_PASSED"
    assert (await lab.work_to_the_end(case_id)).status is CaseStatus.DONE
    lab.control.release(held)
    await lab.control.wait_idle()
    assert lab.effects() == {"device_registered": 1}


async def test_each_resend_has_a_quiet_time_of_its_own(lab: Lab) -> None:
    lab.fault("register_device", "cut", when="before", times=2)
    case_id = await lab.open(cloud_device())
    assert (await lab.attempt(case_id)).code == "CUT"
    assert (await lab.work_to_the_end(case_id)).status is CaseStatus.DONE
    sent = [entry["monotonic"] for entry in lab.calls("register_device")]
    assert len(sent) == 3
    assert all(later - earlier >= lab.bench.settings.quiet_seconds for earlier, later in pairwise(sent))


# Device-to-cloud: the access-code call


async def test_the_access_code_call_finds_a_registered_device_and_keeps_its_new_credentials(lab: Lab) -> None:
    case_id = await in_doubt(lab, device(), applied=True)
    assert (await lab.work_to_the_end(case_id)).status is CaseStatus.DONE
    assert lab.effects() == {"device_registered": 1, "access_code_issued": 1}
    assert lab.step(case_id, STEP).code == "PROBE_FOUND_APPLIED"


async def test_a_device_that_is_not_registered_after_the_quiet_time_is_registered_again(lab: Lab) -> None:
    case_id = await in_doubt(lab, device(), applied=False)
    assert (await lab.work_to_the_end(case_id)).status is CaseStatus.DONE
    assert lab.effects() == {"device_registered": 1}
    assert lab.step(case_id, STEP).intent.absences == 1


async def test_probes_that_are_used_up_make_it_unknown(tmp_path: Path) -> None:
    async with laboratory(tmp_path, max_probes=2, **SHORT) as lab:
        case_id = await in_doubt(lab, device(), applied=True)
        lab.fault("access_code", "server_error", status=500, shape="html", nth="every")
        case = await lab.work_to_the_end(case_id)
        assert (case.status, case.reason) == (CaseStatus.ATTENTION, "PROBES_USED_UP")
        assert case.steps[STEP].status is StepStatus.UNKNOWN
        assert len(lab.calls("access_code")) == 2


async def test_resends_that_are_used_up_make_it_unknown(tmp_path: Path) -> None:
    async with laboratory(tmp_path, max_probes=2, **SHORT) as lab:
        lab.fault("register_device", "cut", when="before", nth="every")
        case_id = await lab.open(cloud_device())
        case = await lab.work_to_the_end(case_id)
        assert (case.status, case.reason) == (CaseStatus.ATTENTION, "PROBES_USED_UP")
        assert case.steps[STEP].status is StepStatus.UNKNOWN
        assert len(lab.calls("register_device")) == 3


async def test_sends_that_are_used_up_after_proven_absence_need_attention_as_not_applied(tmp_path: Path) -> None:
    async with laboratory(tmp_path, max_sends=2, **SHORT) as lab:
        lab.fault("register_device", "cut", when="before", nth="every")
        case_id = await lab.open(device())
        report = await lab.work(case_id)
        assert (report.ending, report.code) == (Ending.NEEDS_ATTENTION, "SENDS_USED_UP")
        assert lab.step(case_id, STEP).status is StepStatus.REFUSED
        assert len(lab.calls("register_device")) == 2
        lab.control.remove_faults()
        assert (await lab.work_to_the_end(case_id)).status is CaseStatus.DONE


# Rolled back


async def test_a_dispensation_rolled_back_between_check_and_send_goes_back_to_waiting(lab: Lab) -> None:
    lab.fault("register_device", "rollback", when="before")
    case_id, report = await lab.onboard(device())
    assert (report.ending, report.step) == (Ending.AWAITING_DISPENSATION, StepName.DISPENSATION)
    steps = lab.case(case_id).steps
    assert steps[StepName.DISPENSATION].status is StepStatus.PENDING
    assert (steps[STEP].status, steps[STEP].intent.in_doubt) == (StepStatus.PENDING, False)
    lab.control.dispense(STUDY, MODE, seed.inventory_id(1), seed.subject_id(1))
    assert (await lab.work(case_id)).ending is Ending.ONBOARDED
    assert lab.effects() == {"device_registered": 1}


async def test_a_dispensation_rolled_back_for_a_moment_is_waited_for_in_the_same_run(tmp_path: Path) -> None:
    async with laboratory(tmp_path, dispensation_check_seconds=0.5) as lab:
        lab.fault("register_device", "rollback", when="before")
        case_id = await lab.open(device())
        work = asyncio.create_task(lab.work(case_id))
        await lab.control.wait_requests(1, call="register_device", finished=True)
        lab.control.dispense(STUDY, MODE, seed.inventory_id(1), seed.subject_id(1))
        assert (await work).ending is Ending.ONBOARDED
        assert lab.case(case_id).status is CaseStatus.DONE
        assert lab.effects() == {"device_registered": 1}


async def test_the_guard_is_read_again_by_a_later_run_and_nothing_is_sent_when_it_was_rolled_back(lab: Lab) -> None:
    lab.fault("register_device", "throttle", retry_after=0)
    case_id = await lab.open(device())
    assert (await lab.attempt(case_id)).code == "THROTTLED"
    lab.control.roll_back(STUDY, MODE, seed.inventory_id(1))
    await due(lab.case(case_id))
    async with lab.another_bench() as later:  # knows of no pause that is over
        report = await lab.attempt(case_id, bench=later)
    assert report.ending in (Ending.AWAITING_DISPENSATION, Ending.RETRY_SCHEDULED)
    assert len(lab.calls("register_device")) == 1
    assert lab.effects() == {}


@pytest.mark.parametrize("request_of", [device, cloud_device], ids=["device_to_cloud", "cloud_to_cloud"])
@pytest.mark.parametrize("applied", [True, False])
async def test_a_dispensation_rolled_back_while_in_doubt_waits_with_the_doubt_open(
    lab: Lab, request_of: Any, applied: bool
) -> None:
    request = request_of()
    case_id = await in_doubt(lab, request, applied=applied)
    subject, kit = request["subject"]["subject_id"], request["device"]["inventory_id"]
    lab.control.roll_back(STUDY, MODE, kit)
    await due(lab.case(case_id))
    report = await lab.attempt(case_id)
    assert (report.ending, report.step) == (Ending.AWAITING_DISPENSATION, StepName.DISPENSATION)
    assert lab.step(case_id, STEP).intent.in_doubt
    assert len(lab.calls("register_device")) == 1
    lab.control.dispense(STUDY, MODE, kit, subject)
    assert (await lab.work(case_id)).ending is Ending.ONBOARDED
    assert lab.effects()["device_registered"] == 1


@pytest.mark.parametrize("request_of", [device, cloud_device], ids=["device_to_cloud", "cloud_to_cloud"])
async def test_a_dispensation_rolled_back_between_check_and_probe_leaves_the_doubt_open(
    lab: Lab, request_of: Any
) -> None:
    request = request_of()
    case_id = await in_doubt(lab, request, applied=True)
    probe = "access_code" if request_of is device else "register_device"
    lab.fault(probe, "rollback", when="before")
    await due(lab.case(case_id))
    report = await lab.attempt(case_id)
    assert (report.ending, report.step) == (Ending.AWAITING_DISPENSATION, StepName.DISPENSATION)
    assert lab.step(case_id, STEP).intent.in_doubt
    lab.control.dispense(STUDY, MODE, request["device"]["inventory_id"], request["subject"]["subject_id"])
    assert (await lab.work(case_id)).ending is Ending.ONBOARDED
    assert lab.effects()["device_registered"] == 1


async def test_a_dispensation_rolled_back_while_the_probe_was_answered_is_seen_before_sending_again(lab: Lab) -> None:
    case_id = await in_doubt(lab, device(), applied=False)
    await due(lab.case(case_id))
    held = lab.fault("access_code", "hold", when="after")  # its answer is on the way: not registered
    # A request that may take as long as a guard lasts needs a guard that was read right before it.
    async with lab.another_bench(request_timeout_seconds=GUARD_LASTS_S) as patient:
        work = asyncio.create_task(lab.attempt(case_id, bench=patient))
        await lab.control.wait_held()
        lab.control.roll_back(STUDY, MODE, seed.inventory_id(1))
        lab.control.release(held)
        report = await work
    assert (report.ending, report.step) == (Ending.AWAITING_DISPENSATION, StepName.DISPENSATION)
    assert lab.step(case_id, STEP).intent.absences == 1, "the probe's answer stands"
    assert len(lab.calls("register_device")) == 1, "nothing was sent on a dispensation that was rolled back"


async def test_a_study_without_mhealth_settings_is_refused_though_the_answer_is_a_500(lab: Lab) -> None:
    lab.fault("register_device", "settings_missing")
    case_id, report = await lab.onboard(device())
    assert (report.ending, report.code) == (Ending.NEEDS_ATTENTION, "MHEALTH_SETTINGS_NOT_FOUND")
    assert lab.bench.ledger.vendor_texts(case_id)[STEP].endswith(f"{phrases.SETTINGS_NOT_FOUND}: " + '{"reason": ""}')
