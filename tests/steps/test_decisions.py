"""Every outcome that cannot be known here is decided by a person, either way, and the case ends with each effect once."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from onboarding.ledger.deciding import Decided, Decision, DecisionRefused, offered
from onboarding.ledger.states import CaseStatus, StepName, StepStatus
from onboarding.vendors.wire import Deadline
from tests.steps.lab import MODE, STUDY, Lab, cloud_to_cloud, laboratory, only
from tests.support.requests import KIT_TYPE_ID, SITE_ID, VISIT_ID
from vendor_sandbox import clinical_one_errors as phrases
from vendor_sandbox import seed

MASKED: Final = {"openspecimen_username": "masked", "openspecimen_password": "masked-password"}
TWO_PROBES: Final = {"max_probes": 2}
EFFECTS: Final = {
    StepName.REGISTRATION: ("update_registration", "registration_updated"),
    StepName.DEVICE: ("register_device", "device_registered"),
    StepName.DND_EXCEPTION: ("create_exception", "dnd_exception_created"),
}


async def cut(lab: Lab, step: StepName, *, applied: bool) -> None:
    lab.fault(EFFECTS[step][0], "cut", when="after" if applied else "before")


def edited(lab: Lab, **values: Any) -> None:
    """Someone edits registration 1."""
    plain = {"id": 1, "participant_id": 2, "cp_id": seed.CP_ID, "ppid": "ASCI000", "registration_date": "2014-01-15"}
    lab.control.seed({"openspecimen": {"registrations": [{**plain, **values}]}}, add=True)


# Ways to an unknown outcome: a fault that hides it, then something that keeps it from being found out


async def changed_by_someone(lab: Lab) -> None:
    edited(lab, ppid="ASCI777")


async def nothing_more(_lab: Lab) -> None: ...


async def reading_is_refused(lab: Lab) -> None:
    lab.fault("read_registration", "refuse", status=400, code="CPR_M_NOT_FOUND")


async def access_codes_fail(lab: Lab) -> None:
    lab.fault("access_code", "server_error", status=500, shape="html", times=2)


async def access_codes_are_refused(lab: Lab) -> None:
    lab.fault("access_code", "refuse", phrase=phrases.INVALID_SUBJECT)


async def resends_are_refused(lab: Lab) -> None:
    lab.fault("register_device", "refuse", phrase=phrases.INVALID_SUBJECT)


async def the_list_is_refused(lab: Lab) -> None:
    lab.fault("list_exceptions", "refuse", phrase=phrases.STUDY_OR_VERSION)


async def another_exception_appears(lab: Lab) -> None:
    body = {
        "allCountries": False,
        "countries": ["DE"],
        "siteIds": [SITE_ID],
        "kitTypeSrcId": [KIT_TYPE_ID],
        "visitDND": [{"visitSrcId": VISIT_ID, "dnd": 2}],
    }
    async with lab.another_bench() as someone:
        await someone.systems.clinical_one.create_exception(STUDY, MODE, body, deadline=Deadline(5))


@dataclass(frozen=True)
class Way:
    """How an outcome comes to be unknown."""

    code: str
    step: StepName
    request: Callable[[], dict[str, Any]]
    then: Callable[[Lab], Awaitable[None]]
    settings: dict[str, Any] | None = None
    either: bool = True
    """Whether the code can be met when it was applied as well as when it was not."""


def registration(**participant: Any) -> dict[str, Any]:
    return only("registration", registration__participant={"id": 2, **participant})


def device() -> dict[str, Any]:
    return only("device")


def cloud_device() -> dict[str, Any]:
    content = cloud_to_cloud()
    return {"subject": content["subject"], "device": content["device"]}


def exception() -> dict[str, Any]:
    return only("dnd_exception")


R, DEV, EXC = StepName.REGISTRATION, StepName.DEVICE, StepName.DND_EXCEPTION
WAYS: Final = [
    Way("CHANGED_BY_SOMEONE_ELSE", R, registration, changed_by_someone),
    Way("CPR_M_NOT_FOUND", R, registration, reading_is_refused),
    Way("CANNOT_READ_BACK", R, lambda: registration(firstName="Ada"), nothing_more, MASKED),
    Way("MERGE_IN_DOUBT", R, lambda: registration(uid="UID-NEW"), nothing_more, either=False),
    Way("PROBES_USED_UP", DEV, device, access_codes_fail, TWO_PROBES),
    Way("INVALID_SUBJECT_ID", DEV, device, access_codes_are_refused),
    Way("INVALID_SUBJECT_ID", DEV, cloud_device, resends_are_refused),
    Way("INVALID_STUDY_OR_VERSION", EXC, exception, the_list_is_refused),
    Way("UNEXPECTED_EXCEPTION", EXC, exception, another_exception_appears, either=False),
]
CASES: Final = [
    pytest.param(way, applied, id=f"{way.code}-{way.request.__name__.strip('<>')}-{'applied' if applied else 'absent'}")
    for way in WAYS
    for applied in (True, False)
    if way.either or not applied
]


async def unknown(lab: Lab, way: Way, *, applied: bool) -> str:
    await cut(lab, way.step, applied=applied)
    case_id = await lab.open(way.request())
    assert (await lab.attempt(case_id)).code == "CUT"
    await way.then(lab)
    case = await lab.work_to_the_end(case_id)
    assert (case.status, case.reason) == (CaseStatus.ATTENTION, way.code)
    assert case.steps[way.step].status is StepStatus.UNKNOWN
    lab.control.remove_faults()
    return case_id


async def decide(lab: Lab, case_id: str, decision: Decision, exception_id: str | None = None) -> None:
    decided = Decided(decision, "person", "looked at the other side", exception_id=exception_id)
    await lab.bench.decide(case_id, decided)


async def quiet(lab: Lab, case_id: str, step: StepName) -> None:
    """Nothing that was sent can still be applied."""
    await asyncio.sleep(lab.step(case_id, step).intent.quiet_left_s)  # nobody signals its end
    if step is EXC:
        await asyncio.sleep(lab.bench.settings.quiet_seconds)


def listed_id(lab: Lab) -> str:
    (entry,) = lab.control.state()["clinical_one"]["studies"][STUDY][MODE]["exceptions"]
    return str(entry["dndExceptionId"])


@pytest.mark.parametrize(("way", "applied"), CASES)
async def test_an_unknown_outcome_that_is_decided_as_it_is_ends_done_with_one_effect(
    tmp_path: Path, way: Way, applied: bool
) -> None:
    async with laboratory(tmp_path, **(way.settings or {})) as lab:
        case_id = await unknown(lab, way, applied=applied)
        sent = len(lab.calls(EFFECTS[way.step][0]))
        assert offered(lab.case(case_id)) == (Decision.APPLIED, Decision.ABSENT)
        if applied:
            await decide(lab, case_id, Decision.APPLIED, listed_id(lab) if way.step is EXC else None)
            assert lab.case(case_id).status is CaseStatus.DONE
            assert len(lab.calls(EFFECTS[way.step][0])) == sent
        else:
            await quiet(lab, case_id, way.step)
            await decide(lab, case_id, Decision.ABSENT)
            assert lab.bench.ledger.find_due(limit=10) == [case_id]
            assert (await lab.work_to_the_end(case_id)).status is CaseStatus.DONE
            assert len(lab.calls(EFFECTS[way.step][0])) == sent + 1
        by_others = way.then is another_exception_appears
        assert lab.changes()[EFFECTS[way.step][1]] == 1 + by_others
        assert lab.bench.ledger.trail_problems(case_id) == []


async def test_absent_is_not_taken_while_the_request_may_still_be_applied(lab: Lab) -> None:
    held = lab.fault("update_registration", "hold", when="before")
    case_id = await lab.open(registration())
    assert (await lab.attempt(case_id)).code == "DEADLINE_PASSED"
    edited(lab, ppid="ASCI777")
    assert (await lab.attempt(case_id)).code == "CHANGED_BY_SOMEONE_ELSE"
    with pytest.raises(DecisionRefused, match="may still be applied"):
        await decide(lab, case_id, Decision.ABSENT)
    lab.control.release(held)
    await lab.control.wait_effects(1)
    await decide(lab, case_id, Decision.APPLIED)
    assert lab.case(case_id).status is CaseStatus.DONE
    assert lab.changes() == {"registration_updated": 1}


async def test_a_wrong_absent_sends_a_device_again_and_the_vendor_s_refusal_brings_it_back_to_the_person(
    lab: Lab,
) -> None:
    way = Way("INVALID_SUBJECT_ID", DEV, cloud_device, resends_are_refused)
    case_id = await unknown(lab, way, applied=True)
    await quiet(lab, case_id, DEV)
    await decide(lab, case_id, Decision.ABSENT)
    case = await lab.work_to_the_end(case_id)
    assert (case.status, case.reason) == (CaseStatus.ATTENTION, "DEVICE_ALREADY_REGISTERED")
    await decide(lab, case_id, Decision.APPLIED)
    assert lab.case(case_id).status is CaseStatus.DONE
    assert lab.effects() == {"device_registered": 1}


async def test_a_wrong_absent_about_an_exception_finds_it_in_the_list(lab: Lab) -> None:
    way = Way("INVALID_STUDY_OR_VERSION", EXC, exception, the_list_is_refused)
    case_id = await unknown(lab, way, applied=True)
    await quiet(lab, case_id, EXC)
    await decide(lab, case_id, Decision.ABSENT)
    assert (await lab.work_to_the_end(case_id)).status is CaseStatus.DONE
    assert lab.effects() == {"dnd_exception_created": 1}


async def test_a_success_that_is_never_listed_is_made_again_once_a_person_says_that_it_is_absent(lab: Lab) -> None:
    lab.fault("create_exception", "empty", when="before")
    case_id, report = await lab.onboard(exception())
    assert report.code == "EXCEPTION_NOT_LISTED"
    await decide(lab, case_id, Decision.ABSENT)
    assert (await lab.work_to_the_end(case_id)).status is CaseStatus.DONE
    assert lab.effects() == {"dnd_exception_created": 1}


@pytest.mark.parametrize("applied", [True, False])
async def test_one_decision_about_an_exception_lets_every_case_that_waits_for_it_end(
    tmp_path: Path, applied: bool
) -> None:
    async with laboratory(tmp_path) as lab:
        way = Way("INVALID_STUDY_OR_VERSION", EXC, exception, the_list_is_refused)
        case_id = await unknown(lab, way, applied=applied)
        others = [only("dnd_exception", subject__subject_id=seed.subject_id(number)) for number in (2, 3)]
        waiting = [await lab.open(other) for other in others]
        for other in waiting:
            assert (await lab.attempt(other)).code == "EXCEPTION_UNKNOWN_IN_ANOTHER_CASE"
        await quiet(lab, case_id, EXC)
        await decide(lab, case_id, *((Decision.APPLIED, listed_id(lab)) if applied else (Decision.ABSENT,)))
        for other in (case_id, *waiting):
            assert (await lab.work_to_the_end(other)).status is CaseStatus.DONE
        assert lab.effects() == {"dnd_exception_created": 1}
        assert len({lab.step(other, EXC).outcome["exception_id"] for other in (case_id, *waiting)}) == 1


async def test_an_exception_that_somebody_deleted_is_made_again_once_a_person_says_so(lab: Lab) -> None:
    await lab.onboard(exception())
    lab.control.seed({"clinical_one": seed.default()["clinical_one"]})
    second, report = await lab.onboard(only("dnd_exception", subject__subject_id=seed.subject_id(2)))
    assert report.code == "EXCEPTION_MISSING"
    await decide(lab, second, Decision.ABSENT)
    assert (await lab.work_to_the_end(second)).status is CaseStatus.DONE
    assert lab.effects() == {"dnd_exception_created": 2}


async def test_a_cancelled_case_makes_room_for_a_new_one_of_the_same_subject(lab: Lab) -> None:
    lab.fault("update_registration", "refuse", code="CPR_DUP_PPID", when="before")
    case_id, _ = await lab.onboard(registration())
    await decide(lab, case_id, Decision.CANCEL)
    assert await lab.bench.find_due(10) == []
    again = await lab.open(registration())
    assert again != case_id
    assert (await lab.work_to_the_end(again)).status is CaseStatus.DONE
    assert lab.effects() == {"registration_updated": 1}
