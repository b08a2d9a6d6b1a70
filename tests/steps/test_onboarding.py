"""The way things go when nothing fails."""

import asyncio

from onboarding.endings import Ending
from onboarding.ledger.states import CaseStatus, StepName, StepStatus
from tests.steps.lab import Lab, cloud_to_cloud, only
from tests.support.requests import example


async def test_the_documented_example_goes_through_all_four_steps_in_order(lab: Lab) -> None:
    case_id, report = await lab.onboard(example())
    assert report.ending is Ending.ONBOARDED
    assert [(done.step, done.code) for done in report.steps] == [
        (StepName.REGISTRATION, "UPDATED"),
        (StepName.DISPENSATION, "DISPENSED"),
        (StepName.DEVICE, "REGISTERED"),
        (StepName.DND_EXCEPTION, "CREATED"),
    ]
    assert lab.case(case_id).status is CaseStatus.DONE
    assert [entry["call"] for entry in lab.calls()] == [
        "login",
        "read_registration",
        "update_registration",
        "token",
        "dispensation",
        "dispensation_history",
        "register_device",
        "list_exceptions",
        "create_exception",
    ]
    assert lab.effects() == {"registration_updated": 1, "device_registered": 1, "dnd_exception_created": 1}
    assert lab.bench.ledger.trail_problems(case_id) == []


async def test_a_cloud_to_cloud_device_is_registered_with_its_vendor_code(lab: Lab) -> None:
    case_id, report = await lab.onboard(cloud_to_cloud())
    assert report.ending is Ending.ONBOARDED
    assert lab.step(case_id, StepName.DEVICE).outcome["attempt"] == 1
    (entry,) = lab.control.effects(effect="device_registered")
    assert entry["key"]["connection"] == "CloudtoCloud"


async def test_the_intent_is_committed_before_anything_is_sent(lab: Lab) -> None:
    case_id = await lab.open(example())
    held = lab.fault("update_registration", "hold", when="before")
    async with lab.another_bench() as other:
        work = asyncio.create_task(lab.attempt(case_id))
        await lab.control.wait_held(fault_id=held)
        step = other.ledger.case(case_id).steps[StepName.REGISTRATION]  # type: ignore[union-attr]
        assert (step.status, step.intent.attempts, step.intent.in_doubt) == (StepStatus.OPEN, 1, False)
        assert step.intent.quiet_left_s > 0
        assert lab.case(case_id).lease_left_s > step.intent.quiet_left_s
        lab.control.remove_faults()
        assert (await work).ending is Ending.ONBOARDED


async def test_what_stands_already_is_found_and_nothing_is_sent(lab: Lab) -> None:
    await lab.onboard(only("registration", "dnd_exception"))
    case_id, report = await lab.onboard(example())
    assert [done.ending for done in report.steps] == [
        Ending.ALREADY_DONE,
        Ending.DONE,
        Ending.DONE,
        Ending.ALREADY_DONE,
    ]
    assert lab.effects() == {"registration_updated": 1, "device_registered": 1, "dnd_exception_created": 1}
    assert lab.case(case_id).steps[StepName.DND_EXCEPTION].code == "ALREADY_SO"


async def test_sections_that_are_absent_are_not_requested(lab: Lab) -> None:
    case_id, report = await lab.onboard(only("registration"))
    assert report.ending is Ending.ONBOARDED
    statuses = {name: step.status for name, step in lab.case(case_id).steps.items()}
    assert statuses == {
        StepName.REGISTRATION: StepStatus.DONE,
        StepName.DISPENSATION: StepStatus.NOT_REQUESTED,
        StepName.DEVICE: StepStatus.NOT_REQUESTED,
        StepName.DND_EXCEPTION: StepStatus.NOT_REQUESTED,
    }
    assert {entry["system"] for entry in lab.calls()} == {"openspecimen"}
