"""What two cases could both touch: bound to one subject; and what keeps a case from being worked at all."""

import asyncio
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from onboarding.endings import Ending
from onboarding.errors import BadInput, RequestConflict
from onboarding.intake import parse_request
from onboarding.ledger.leasing import Closed
from onboarding.ledger.states import CaseStatus, StepName, StepStatus
from onboarding.steps.attempt import attempt_step
from onboarding.steps.case import conclude
from tests.steps.lab import MODE, STUDY, Lab, cloud_to_cloud, laboratory, leased, only
from tests.support.requests import example
from vendor_sandbox import running_sandbox, seed


def registration_of(number: int, **changes: Any) -> dict[str, Any]:
    """Registration 1, for subject ``number``."""
    return only("registration", subject__subject_id=seed.subject_id(number), **changes)


def device_of(subject: int, kit: int) -> dict[str, Any]:
    ids = {"subject__subject_id": seed.subject_id(subject), "device__inventory_id": seed.inventory_id(kit)}
    return only("device", **ids)


async def test_a_registration_that_is_done_for_one_subject_is_refused_to_another(lab: Lab) -> None:
    first, _ = await lab.onboard(registration_of(1))
    asked = len(lab.calls())
    second, report = await lab.onboard(registration_of(6))
    assert (report.ending, report.code) == (Ending.NEEDS_ATTENTION, "IDENTITY_CONFLICT")
    assert lab.step(second, StepName.REGISTRATION).status is StepStatus.REFUSED
    assert len(lab.calls()) == asked, "not even a read is sent"
    assert lab.case(first).status is CaseStatus.DONE
    assert (await lab.work(second, retry=True)).code == "IDENTITY_CONFLICT"


async def test_a_registration_in_doubt_for_one_subject_is_refused_to_another(lab: Lab) -> None:
    lab.fault("update_registration", "cut", when="after")
    first = await lab.open(registration_of(1))
    await lab.attempt(first)
    _, report = await lab.onboard(registration_of(6))
    assert report.code == "IDENTITY_CONFLICT"
    assert (await lab.work(first)).ending is Ending.ONBOARDED
    assert len(lab.calls("update_registration")) == 1


async def test_a_registration_that_is_unknown_for_one_subject_is_refused_to_another(lab: Lab) -> None:
    lab.fault("update_registration", "cut", when="after")
    first = await lab.open(registration_of(1))
    await lab.attempt(first)
    lab.fault("read_registration", "refuse", code="RBAC_ACCESS_DENIED")
    assert (await lab.attempt(first)).ending is Ending.NEEDS_ATTENTION
    assert lab.step(first, StepName.REGISTRATION).status is StepStatus.UNKNOWN
    _, report = await lab.onboard(registration_of(6))
    assert report.code == "IDENTITY_CONFLICT"


async def test_a_registration_that_was_refused_to_one_subject_is_free_for_another(lab: Lab) -> None:
    lab.fault("update_registration", "refuse", code="CPR_INVALID_PPID")
    _, report = await lab.onboard(registration_of(6))
    assert report.code == "CPR_INVALID_PPID"
    _, report = await lab.onboard(registration_of(1))
    assert report.ending is Ending.ONBOARDED


async def test_another_case_of_the_same_subject_waits_for_its_turn(lab: Lab) -> None:
    lab.fault("update_registration", "cut", when="before")
    first = await lab.open(registration_of(1))
    await lab.attempt(first)
    whole = example()
    second = await lab.open({name: whole[name] for name in ("subject", "registration", "device")})
    report = await lab.attempt(second)
    assert (report.ending, report.code) == (Ending.RETRY_SCHEDULED, "HELD_BY_ANOTHER_CASE")
    assert report.due_at is not None
    assert (await lab.work_to_the_end(first)).status is CaseStatus.DONE
    assert (await lab.work(second)).ending is Ending.ONBOARDED
    assert lab.changes()["registration_updated"] == 1


async def test_two_subjects_that_ask_for_one_registration_at_the_same_time_get_it_once(lab: Lab) -> None:
    async with lab.another_bench() as other:
        cases = [await lab.open(registration_of(1)), await lab.open(registration_of(6))]
        reports = await asyncio.gather(lab.work(cases[0]), lab.work(cases[1], bench=other))
        codes = sorted(str(report.code) for report in reports)
        assert codes == ["IDENTITY_CONFLICT", "None"]
        assert lab.effects() == {"registration_updated": 1}


async def test_a_device_that_is_registered_for_one_subject_is_refused_to_another(lab: Lab) -> None:
    await lab.onboard(device_of(1, 1))
    lab.control.dispense(STUDY, MODE, seed.inventory_id(1), seed.subject_id(6))
    second, report = await lab.onboard(device_of(6, 1))
    assert (report.ending, report.code, report.step) == (
        Ending.NEEDS_ATTENTION,
        "IDENTITY_CONFLICT",
        StepName.DEVICE,
    )
    assert lab.effects() == {"device_registered": 1}
    assert lab.step(second, StepName.DISPENSATION).status is StepStatus.DONE


async def test_a_device_to_cloud_subject_is_bound_to_one_device(lab: Lab) -> None:
    await lab.onboard(device_of(6, 6))
    _, report = await lab.onboard(device_of(6, 7))
    assert (report.ending, report.code) == (Ending.NEEDS_ATTENTION, "IDENTITY_CONFLICT")
    assert lab.effects() == {"device_registered": 1}


async def test_the_same_request_again_finds_the_case_and_retries_no_refusal(lab: Lab) -> None:
    lab.fault("update_registration", "refuse", code="CPR_INVALID_PPID")
    first, _ = await lab.onboard(registration_of(1))
    opened = await lab.bench.open_case(parse_request(registration_of(1)))
    assert (opened.case_id, opened.created) == (first, False)
    async with lab.bench.session(first) as session:
        assert isinstance(session, Closed)
    assert len(lab.calls("update_registration")) == 1


async def test_a_changed_request_replaces_what_was_refused_and_is_worked(lab: Lab) -> None:
    lab.fault("update_registration", "refuse", code="CPR_INVALID_PPID")
    first, _ = await lab.onboard(registration_of(1))
    second, report = await lab.onboard(registration_of(1, registration__ppid="ASCI124"))
    assert (second, report.ending) == (first, Ending.ONBOARDED)


async def test_a_changed_request_is_refused_once_its_effect_was_attempted(lab: Lab) -> None:
    lab.fault("update_registration", "cut", when="after")
    case_id = await lab.open(registration_of(1))
    await lab.attempt(case_id)
    with pytest.raises(RequestConflict, match=case_id):
        await lab.open(registration_of(1, registration__ppid="ASCI124"))


async def test_a_mode_that_is_not_allowed_is_refused_before_anything_is_stored(lab: Lab) -> None:
    with pytest.raises(BadInput, match="ONBOARDING_MODES"):
        await lab.open(only("registration", subject__mode="active"))
    assert lab.bench.ledger.cases() == []


async def test_a_case_is_not_worked_where_its_mode_is_not_allowed_any_more(tmp_path: Path) -> None:
    async with laboratory(tmp_path) as lab:
        case_id = await lab.open(only("registration", subject__mode="training"))
        async with lab.another_bench(modes="test") as stricter:
            with pytest.raises(BadInput, match="ONBOARDING_MODES"):
                async with stricter.session(case_id):
                    pass
        assert lab.calls() == []
        assert lab.case(case_id).status is CaseStatus.READY
        assert lab.case(case_id).lease_left_s == 0


async def test_a_case_is_not_worked_against_other_systems_than_it_was_opened_for(tmp_path: Path) -> None:
    async with laboratory(tmp_path) as lab, running_sandbox() as elsewhere:
        case_id = await lab.open(example())
        async with (
            lab.another_bench(openspecimen_url=elsewhere.addresses["openspecimen_url"]) as other,
            other.session(case_id) as session,
        ):
            assert isinstance(session, Closed)
        case = lab.case(case_id)
        assert (case.status, case.reason) == (CaseStatus.ATTENTION, "SETTINGS_CHANGED")
        assert elsewhere.control.requests() == []
        assert (await lab.work(case_id, retry=True)).ending is Ending.ONBOARDED


async def test_a_case_that_makes_no_progress_ends_with_a_person(tmp_path: Path) -> None:
    async with laboratory(tmp_path, max_idle_takings=3) as lab:
        lab.fault("read_registration", "server_error", status=502, shape="html", nth="every")
        case_id = await lab.open(example())
        for _ in range(3):
            assert (await lab.attempt(case_id)).ending is Ending.RETRY_SCHEDULED
        async with lab.bench.session(case_id) as session:
            assert isinstance(session, Closed)
        assert (lab.case(case_id).status, lab.case(case_id).reason) == (CaseStatus.ATTENTION, "NO_PROGRESS")
        lab.control.remove_faults()
        assert (await lab.work(case_id, retry=True)).ending is Ending.ONBOARDED


async def test_pauses_grow_while_a_system_is_away(lab: Lab) -> None:
    lab.control.listening("openspecimen", open=False)
    case_id = await lab.open(example())
    waits = []
    for _ in range(4):
        report = await lab.attempt(case_id)
        assert (report.ending, report.code) == (Ending.RETRY_SCHEDULED, "CONNECT_REFUSED")
        waits.append(report.steps[-1].wait_s)
    assert all(later > earlier * 1.5 for earlier, later in pairwise(waits))
    lab.control.listening("openspecimen", open=True)
    assert (await lab.work(case_id)).ending is Ending.ONBOARDED


@pytest.mark.parametrize("system", ["token", "clinical_one"])
async def test_a_refused_connection_is_no_doubt(lab: Lab, system: str) -> None:
    lab.control.listening(system, open=False)
    case_id = await lab.open(cloud_to_cloud())
    report = await lab.attempt(case_id)
    assert (report.ending, report.code) == (Ending.RETRY_SCHEDULED, "CONNECT_REFUSED")
    assert lab.step(case_id, StepName.DISPENSATION).status is StepStatus.PENDING
    lab.control.listening(system, open=True)
    assert (await lab.work(case_id)).ending is Ending.ONBOARDED


async def test_a_refused_connection_for_an_effect_is_no_doubt(lab: Lab) -> None:
    case_id = await lab.open(device_of(1, 1))
    await see_dispensation_then_close(lab, case_id)
    view = lab.step(case_id, StepName.DEVICE)
    assert (view.status, view.code, view.intent.in_doubt) == (StepStatus.PENDING, "CONNECT_REFUSED", False)
    lab.control.listening("clinical_one", open=True)
    assert (await lab.work(case_id)).ending is Ending.ONBOARDED
    assert lab.effects() == {"device_registered": 1}


async def see_dispensation_then_close(lab: Lab, case_id: str) -> None:
    async with leased(lab.bench, case_id) as session:
        await attempt_step(session, StepName.DISPENSATION)
        lab.control.listening("clinical_one", open=False)
        report = await attempt_step(session, StepName.DEVICE)
        assert (report.ending, report.code) == (Ending.RETRY_SCHEDULED, "CONNECT_REFUSED")
        await conclude(session, [report])
