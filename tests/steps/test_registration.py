"""Step 1 in detail: what is compared, what may merge, and how a doubt ends."""

from pathlib import Path
from typing import Any

import pytest

from onboarding.endings import Ending
from onboarding.ledger.leasing import Closed
from onboarding.ledger.states import CaseStatus, StepName, StepStatus
from onboarding.vendors.wire import Deadline
from tests.steps.lab import Lab, due, laboratory, only
from tests.support.requests import example
from vendor_sandbox import seed

STEP = StepName.REGISTRATION
SHORT: dict[str, Any] = {"request_timeout_seconds": 0.5, "settle_seconds": 0.1}


def registration(**changes: Any) -> dict[str, Any]:
    return only("registration", **{f"registration__{name}": value for name, value in changes.items()})


def stands(lab: Lab, **values: Any) -> None:
    """Someone edits registration 1 in the meantime."""
    plain = {"id": 1, "participant_id": 2, "cp_id": seed.CP_ID, "ppid": "ASCI000", "registration_date": "2014-01-15"}
    lab.control.seed({"openspecimen": {"registrations": [{**plain, **values}]}}, add=True)


async def in_doubt(lab: Lab, request: dict[str, Any], *, applied: bool) -> str:
    """A case whose update was cut."""
    lab.fault("update_registration", "cut", when="after" if applied else "before")
    case_id = await lab.open(request)
    assert (await lab.attempt(case_id)).code == "CUT"
    assert lab.step(case_id, STEP).intent.in_doubt
    return case_id


async def cannot_be_worked(lab: Lab, case_id: str) -> None:
    async with lab.bench.session(case_id, retry=True) as session:
        assert isinstance(session, Closed)


async def test_a_doubt_ends_as_applied_at_once_when_all_reads_as_sent(lab: Lab) -> None:
    case_id = await in_doubt(lab, registration(), applied=True)
    assert lab.step(case_id, STEP).intent.quiet_left_s > 0
    report = await lab.attempt(case_id)
    assert report.steps[0].code == "PROBE_FOUND_APPLIED"
    assert len(lab.calls("update_registration")) == 1


async def test_absence_is_not_believed_before_the_quiet_time_is_over(lab: Lab) -> None:
    case_id = await in_doubt(lab, registration(), applied=False)
    report = await lab.attempt(case_id)
    assert report.ending is Ending.RETRY_SCHEDULED
    assert lab.step(case_id, STEP).intent.in_doubt
    assert (await lab.work_to_the_end(case_id)).status is CaseStatus.DONE
    first, second = lab.calls("update_registration")
    assert second["monotonic"] - first["monotonic"] >= lab.bench.settings.quiet_seconds
    assert lab.step(case_id, STEP).intent.absences == 1


async def test_a_request_that_is_applied_late_within_the_quiet_time_is_found(lab: Lab) -> None:
    held = lab.fault("update_registration", "hold", when="before")
    case_id = await lab.open(registration())
    assert (await lab.attempt(case_id)).code == "DEADLINE_PASSED"
    lab.control.release(held)
    await lab.control.wait_effects(1)
    assert (await lab.attempt(case_id)).steps[0].code == "PROBE_FOUND_APPLIED"
    assert len(lab.calls("update_registration")) == 1


async def test_a_request_that_is_applied_after_the_quiet_time_changes_nothing_twice(lab: Lab) -> None:
    held = lab.fault("update_registration", "hold", when="before")
    case_id = await lab.open(registration())
    assert (await lab.attempt(case_id)).code == "DEADLINE_PASSED"
    assert (await lab.work_to_the_end(case_id)).status is CaseStatus.DONE
    lab.control.release(held)
    await lab.control.wait_effects(2)
    assert lab.changes() == {"registration_updated": 1}


async def test_an_edit_by_someone_else_while_in_doubt_is_unknown(lab: Lab) -> None:
    case_id = await in_doubt(lab, registration(), applied=False)
    stands(lab, ppid="ASCI777")
    report = await lab.attempt(case_id)
    assert (report.ending, report.code) == (Ending.NEEDS_ATTENTION, "CHANGED_BY_SOMEONE_ELSE")
    assert lab.step(case_id, STEP).status is StepStatus.UNKNOWN
    await cannot_be_worked(lab, case_id)
    assert len(lab.calls("update_registration")) == 1


async def test_an_edit_of_what_the_request_does_not_give_is_none_of_our_business(lab: Lab) -> None:
    case_id = await in_doubt(lab, registration(), applied=False)
    stands(lab, barcode="B-1")
    assert (await lab.work_to_the_end(case_id)).status is CaseStatus.DONE


async def test_a_registration_that_is_gone_while_in_doubt_is_unknown(lab: Lab) -> None:
    case_id = await in_doubt(lab, registration(), applied=False)
    async with lab.another_bench() as someone:
        client = someone.systems.openspecimen
        await client.update_registration(1, {"activityStatus": "Disabled"}, deadline=Deadline(5))
    report = await lab.attempt(case_id)
    assert (report.ending, report.code) == (Ending.NEEDS_ATTENTION, "CPR_M_NOT_FOUND")
    assert lab.step(case_id, STEP).status is StepStatus.UNKNOWN


async def test_a_probe_that_fails_leaves_the_doubt_and_is_tried_again(lab: Lab) -> None:
    case_id = await in_doubt(lab, registration(), applied=True)
    lab.fault("read_registration", "server_error", status=503, shape="html")
    report = await lab.attempt(case_id)
    assert (report.ending, report.code) == (Ending.RETRY_SCHEDULED, "SERVICE_UNAVAILABLE")
    assert lab.step(case_id, STEP).intent.in_doubt
    assert (await lab.attempt(case_id)).ending is Ending.ONBOARDED
    assert len(lab.calls("update_registration")) == 1


@pytest.fixture
async def masked(tmp_path: Path) -> Any:
    """An installation whose reader may not see personal data."""
    names: dict[str, Any] = {"openspecimen_username": "masked", "openspecimen_password": "masked-password"}
    async with laboratory(tmp_path, **names) as running:
        yield running


async def test_what_is_masked_cannot_be_read_back_so_a_doubt_about_it_is_unknown(masked: Lab) -> None:
    case_id = await in_doubt(masked, registration(participant={"id": 2, "firstName": "Ada"}), applied=True)
    report = await masked.attempt(case_id)
    assert (report.ending, report.code) == (Ending.NEEDS_ATTENTION, "CANNOT_READ_BACK")
    assert masked.step(case_id, STEP).status is StepStatus.UNKNOWN
    assert masked.effects()["registration_updated"] == 1


async def test_what_is_masked_is_updated_when_nothing_fails(masked: Lab) -> None:
    _, report = await masked.onboard(registration(participant={"id": 2, "firstName": "Ada"}))
    assert report.ending is Ending.ONBOARDED
    assert "participant.firstName" in masked.control.effects()[0]["changed"]


async def test_another_participant_is_refused_without_leave_to_merge(lab: Lab) -> None:
    case_id, report = await lab.onboard(registration(participant={"id": 4}))
    assert (report.ending, report.code) == (Ending.NEEDS_ATTENTION, "PARTICIPANT_DIFFERS")
    assert lab.step(case_id, STEP).status is StepStatus.REFUSED
    assert lab.calls("update_registration") == []


@pytest.mark.parametrize("protocol", [{"cp_id": 4}, {"cp_title": "Another"}, {"cp_short_title": "OTHER"}], ids=str)
async def test_a_registration_of_another_protocol_is_not_touched(lab: Lab, protocol: dict[str, Any]) -> None:
    request = registration()
    request["registration"].pop("cp_id")
    request["registration"].update(protocol)
    _, report = await lab.onboard(request)
    assert (report.ending, report.code) == (Ending.NEEDS_ATTENTION, "PROTOCOL_DIFFERS")
    assert lab.calls("update_registration") == []


def merging() -> dict[str, Any]:
    return registration(participant={"id": 900}, allow_merge=True)


async def test_a_merge_with_leave_is_sent_once(lab: Lab) -> None:
    lab.control.seed({"openspecimen": {"participants": [{"id": 900, "vitalStatus": "Alive"}]}}, add=True)
    _, report = await lab.onboard(merging())
    assert report.ending is Ending.ONBOARDED
    assert lab.effects()["participants_merged"] == 1


async def test_a_merge_in_doubt_that_took_place_is_found(lab: Lab) -> None:
    lab.control.seed({"openspecimen": {"participants": [{"id": 900, "vitalStatus": "Alive"}]}}, add=True)
    case_id = await in_doubt(lab, merging(), applied=True)
    assert (await lab.work_to_the_end(case_id)).status is CaseStatus.DONE
    assert lab.effects()["participants_merged"] == 1


@pytest.mark.parametrize(
    "person",
    [
        pytest.param({"id": 900}, id="another_participant"),
        pytest.param({"id": 2, "uid": "UID-NEW"}, id="uid"),
        pytest.param({"id": 2, "empi": "EMPI-NEW"}, id="empi"),
        pytest.param({"id": 2, "pmis": [{"mrn": "MRN-NEW", "siteName": "Site A"}]}, id="pmis"),
    ],
)
async def test_an_update_that_may_merge_is_never_sent_again(lab: Lab, person: dict[str, Any]) -> None:
    lab.control.seed({"openspecimen": {"participants": [{"id": 900, "vitalStatus": "Alive"}]}}, add=True)
    case_id = await in_doubt(lab, registration(participant=person, allow_merge=True), applied=False)
    assert (await lab.attempt(case_id)).ending is Ending.RETRY_SCHEDULED, "not before the quiet time is over"
    await due(lab.case(case_id))
    report = await lab.attempt(case_id)
    assert (report.ending, report.code) == (Ending.NEEDS_ATTENTION, "MERGE_IN_DOUBT")
    assert lab.step(case_id, STEP).status is StepStatus.UNKNOWN
    assert len(lab.calls("update_registration")) == 1


async def test_identifiers_that_stand_already_do_not_make_it_a_merge(lab: Lab) -> None:
    person = {"id": 2, "uid": "UID-0001", "pmis": [{"mrn": "MRN-0001", "siteName": "Site A"}]}
    case_id = await in_doubt(lab, registration(participant=person), applied=False)
    assert (await lab.work_to_the_end(case_id)).status is CaseStatus.DONE
    assert lab.changes() == {"registration_updated": 1}


async def test_sends_used_up_after_proven_absence_need_attention(tmp_path: Path) -> None:
    async with laboratory(tmp_path, max_sends=2, **SHORT) as lab:
        lab.fault("update_registration", "cut", when="before", nth="every")
        case_id = await lab.open(registration())
        report = await lab.work(case_id)
        assert (report.ending, report.code) == (Ending.NEEDS_ATTENTION, "SENDS_USED_UP")
        assert len(lab.calls("update_registration")) == 2
        assert lab.step(case_id, STEP).status is StepStatus.REFUSED
        lab.control.remove_faults()
        assert (await lab.work_to_the_end(case_id)).status is CaseStatus.DONE


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/Los_Angeles", "Pacific/Auckland"])
@pytest.mark.parametrize("nulls", ["omit", "show"])
async def test_dates_are_compared_in_the_servers_zone_and_blank_is_null(tmp_path: Path, zone: str, nulls: str) -> None:
    switches = {"time_zone": zone, "openspecimen_nulls": nulls}
    async with laboratory(tmp_path, switches=switches, openspecimen_time_zone=zone) as lab:
        person: dict[str, Any] = {"id": 2, "birthDate": "1961-07-03", "middleName": None, "races": ["White", "Asian"]}
        wanted = registration(participant=person, external_subject_id=None)
        case_id = await in_doubt(lab, wanted, applied=True)
        assert (await lab.attempt(case_id)).steps[0].code == "PROBE_FOUND_APPLIED"
        person["races"].reverse()
        again = registration(participant=person, external_subject_id=None)
        again["device"] = example()["device"]  # another case of the same subject
        _, report = await lab.onboard(again)
        assert (report.steps[0].ending, report.steps[0].code) == (Ending.ALREADY_DONE, "ALREADY_SO")
        assert len(lab.calls("update_registration")) == 1
