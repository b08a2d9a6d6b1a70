"""Step 4 in detail: one exception for all cases that need it, and how its doubt ends, whoever holds it."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from onboarding.endings import Ending
from onboarding.ledger.claims import ExceptionClaim
from onboarding.ledger.states import CaseStatus, StepName, StepStatus
from onboarding.ledger.writes import CaseWrite
from onboarding.steps.session import CaseSession
from onboarding.vendors.wire import Deadline
from tests.steps.lab import MODE, STUDY, Lab, laboratory, only
from tests.support.requests import KIT_TYPE_ID, SITE_ID, VISIT_ID
from vendor_sandbox import seed

STEP = StepName.DND_EXCEPTION
SHORT: dict[str, Any] = {"request_timeout_seconds": 0.5, "settle_seconds": 0.1}


def exception(number: int = 1, **changes: Any) -> dict[str, Any]:
    """The example's exception, needed by subject ``number``."""
    ours = {f"dnd_exception__{name}": value for name, value in changes.items()}
    return only("dnd_exception", subject__subject_id=seed.subject_id(number), **ours)


async def create_by_someone_else(lab: Lab, **changes: Any) -> str:
    body = {
        "allCountries": False,
        "countries": ["US"],
        "siteIds": [SITE_ID],
        "kitTypeSrcId": [KIT_TYPE_ID],
        "visitDND": [{"visitSrcId": VISIT_ID, "dnd": 2}],
        **changes,
    }
    async with lab.another_bench() as someone:
        made = await someone.systems.clinical_one.create_exception(STUDY, MODE, body, deadline=Deadline(5))
    assert made is not None
    return made


async def in_doubt(lab: Lab, request: dict[str, Any], *, applied: bool) -> str:
    lab.fault("create_exception", "cut", when="after" if applied else "before")
    case_id = await lab.open(request)
    assert (await lab.attempt(case_id)).code == "CUT"
    return case_id


async def test_ten_cases_at_once_need_one_exception(tmp_path: Path) -> None:
    world = seed.many(10)
    async with laboratory(tmp_path, world=world) as lab:
        subjects = [seed.SeededSubject(number) for number in range(1, 11)]
        requests = [only("dnd_exception", subject__subject_id=one.subject_id) for one in subjects]
        cases = [await lab.open(request) for request in requests]
        await asyncio.gather(*(lab.work(case_id) for case_id in cases))
        for case_id in cases:
            assert (await lab.work_to_the_end(case_id)).status is CaseStatus.DONE
        assert lab.effects() == {"dnd_exception_created": 1}
        assert len({lab.step(case_id, STEP).outcome["exception_id"] for case_id in cases}) == 1


async def test_ten_cases_of_several_runners_need_one_exception_even_if_its_creation_is_in_doubt(tmp_path: Path) -> None:
    async with laboratory(tmp_path, world=seed.many(10)) as lab, lab.another_bench() as other:
        lab.fault("create_exception", "cut", when="after")
        subjects = [seed.SeededSubject(number) for number in range(1, 11)]
        cases = [await lab.open(only("dnd_exception", subject__subject_id=one.subject_id)) for one in subjects]
        benches = [lab.bench, other] * 5
        await asyncio.gather(*(lab.work(case_id, bench=bench) for case_id, bench in zip(cases, benches, strict=True)))
        for case_id in cases:
            assert (await lab.work_to_the_end(case_id)).status is CaseStatus.DONE
        assert lab.effects() == {"dnd_exception_created": 1}


async def test_a_case_that_finds_the_content_held_looks_again_soon_not_when_the_lease_would_end(tmp_path: Path) -> None:
    async with laboratory(tmp_path, lease_seconds=90, request_timeout_seconds=30) as lab:
        held = lab.fault("list_exceptions", "hold")
        first, second = await lab.open(exception(1)), await lab.open(exception(2))
        work = asyncio.create_task(lab.attempt(first))
        await lab.control.wait_held(fault_id=held)
        report = await lab.attempt(second)
        assert (report.ending, report.code) == (Ending.RETRY_SCHEDULED, "HELD_BY_ANOTHER_CASE")
        assert report.steps[-1].wait_s < 10
        lab.control.remove_faults()
        await work


async def test_equal_entries_are_adopted_by_the_lowest_id_and_the_others_are_flagged(lab: Lab) -> None:
    ids = sorted([await create_by_someone_else(lab) for _ in range(3)])
    case_id, report = await lab.onboard(exception())
    assert (report.ending, report.steps[-1].code) == (Ending.ONBOARDED, "ALREADY_SO")
    assert lab.step(case_id, STEP).outcome == {"exception_id": ids[0], "duplicates": ids[1:]}
    assert lab.calls("create_exception")[3:] == []


@pytest.mark.parametrize(
    "spelling",
    [
        {"siteIds": [f"{SITE_ID[:8]}-{SITE_ID[8:12]}-{SITE_ID[12:16]}-{SITE_ID[16:20]}-{SITE_ID[20:]}".lower()]},
        {"visitDND": [{"visitSrcId": VISIT_ID.lower(), "dnd": 2.0}]},
    ],
    ids=["dashed_ids", "decimal_days"],
)
async def test_order_spelling_and_kind_of_number_make_no_difference(lab: Lab, spelling: dict[str, Any]) -> None:
    made = await create_by_someone_else(lab, **spelling)
    case_id, _ = await lab.onboard(exception())
    assert lab.step(case_id, STEP).outcome["exception_id"] == made
    assert len(lab.calls("create_exception")) == 1


async def test_another_content_is_another_exception(lab: Lab) -> None:
    await lab.onboard(exception(1))
    await lab.onboard(exception(2, visit_dnd=[{"visit_src_id": VISIT_ID, "dnd": 3}]))
    assert lab.effects() == {"dnd_exception_created": 2}


# A success without an id


async def test_a_success_without_an_id_is_applied_and_the_id_comes_from_the_list(tmp_path: Path) -> None:
    async with laboratory(tmp_path, switches={"create_answer": "empty"}) as lab:
        case_id, report = await lab.onboard(exception())
        assert report.ending is Ending.ONBOARDED
        (listed,) = lab.control.state()["clinical_one"]["studies"][STUDY][MODE]["exceptions"]
        assert lab.step(case_id, STEP).outcome["exception_id"] == listed["dndExceptionId"]
        assert len(lab.calls("create_exception")) == 1


async def test_a_success_without_an_id_that_is_listed_late_is_waited_for(tmp_path: Path) -> None:
    async with laboratory(tmp_path, switches={"create_answer": "empty"}) as lab:
        lab.fault("list_exceptions", "stale_list", nth=2)
        _, report = await lab.onboard(exception())
        assert report.ending is Ending.ONBOARDED
        assert len(lab.calls("create_exception")) == 1


async def test_a_success_without_an_id_that_is_never_listed_needs_attention(lab: Lab) -> None:
    lab.fault("create_exception", "empty", when="before")
    case_id, report = await lab.onboard(exception())
    assert (report.ending, report.code) == (Ending.NEEDS_ATTENTION, "EXCEPTION_NOT_LISTED")
    assert lab.step(case_id, STEP).status is StepStatus.UNKNOWN
    assert len(lab.calls("create_exception")) == 1


# Doubt


async def test_an_equal_entry_ends_the_doubt_as_applied_at_once(lab: Lab) -> None:
    case_id = await in_doubt(lab, exception(), applied=True)
    report = await lab.attempt(case_id)
    assert report.steps[-1].code == "PROBE_FOUND_APPLIED"
    assert len(lab.calls("create_exception")) == 1


async def test_an_exception_is_not_created_again_before_the_quiet_time_is_over(lab: Lab) -> None:
    case_id = await in_doubt(lab, exception(), applied=False)
    assert (await lab.attempt(case_id)).ending is Ending.RETRY_SCHEDULED
    assert (await lab.work_to_the_end(case_id)).status is CaseStatus.DONE
    first, second = lab.calls("create_exception")
    assert second["monotonic"] - first["monotonic"] >= lab.bench.settings.quiet_seconds
    assert lab.effects() == {"dnd_exception_created": 1}


async def test_a_new_but_unequal_entry_leaves_it_unknown(lab: Lab) -> None:
    case_id = await in_doubt(lab, exception(), applied=False)
    await create_by_someone_else(lab, countries=["DE"])
    case = await lab.work_to_the_end(case_id)
    assert (case.status, case.reason) == (CaseStatus.ATTENTION, "UNEXPECTED_EXCEPTION")
    assert case.steps[STEP].status is StepStatus.UNKNOWN
    assert len(lab.calls("create_exception")) == 2  # ours, and someone else's


async def test_a_new_entry_with_the_content_of_another_claim_is_not_ours(lab: Lab) -> None:
    case_id = await in_doubt(lab, exception(1), applied=False)
    _, report = await lab.onboard(exception(2, countries=["DE"]))
    assert report.ending is Ending.ONBOARDED
    assert (await lab.work_to_the_end(case_id)).status is CaseStatus.DONE
    assert lab.effects() == {"dnd_exception_created": 2}


async def test_an_unequal_entry_that_was_listed_before_is_of_no_account(lab: Lab) -> None:
    await create_by_someone_else(lab, countries=["DE"])
    case_id = await in_doubt_after(lab, exception())
    assert (await lab.work_to_the_end(case_id)).status is CaseStatus.DONE


async def in_doubt_after(lab: Lab, request: dict[str, Any]) -> str:
    lab.fault("create_exception", "cut", when="before")
    case_id = await lab.open(request)
    assert (await lab.attempt(case_id)).code == "CUT"
    return case_id


@pytest.mark.parametrize("applied", [True, False])
async def test_the_next_holder_inherits_the_doubt_and_one_settlement_serves_both(lab: Lab, applied: bool) -> None:
    first = await in_doubt(lab, exception(1), applied=applied)
    second, report = await lab.onboard(exception(2))
    assert report.ending is Ending.ONBOARDED
    assert lab.effects() == {"dnd_exception_created": 1}
    assert lab.step(first, STEP).status is StepStatus.OPEN
    assert (await lab.attempt(first)).ending is Ending.ONBOARDED
    assert lab.effects() == {"dnd_exception_created": 1}
    assert lab.step(first, STEP).outcome["exception_id"] == lab.step(second, STEP).outcome["exception_id"]


async def test_while_one_case_is_unknown_the_others_wait_and_send_nothing(lab: Lab) -> None:
    first = await in_doubt(lab, exception(1), applied=False)
    await create_by_someone_else(lab, countries=["DE"])
    await lab.work_to_the_end(first)
    sent = len(lab.calls("create_exception"))
    second, report = await lab.onboard(exception(2))
    assert (report.ending, report.code) == (Ending.RETRY_SCHEDULED, "EXCEPTION_UNKNOWN_IN_ANOTHER_CASE")
    assert lab.case(second).status is CaseStatus.READY
    assert lab.case(second).idle_takings == 0, "it may wait for a person as long as it takes"
    assert len(lab.calls("create_exception")) == sent


async def test_sends_used_up_after_proven_absence_need_attention(tmp_path: Path) -> None:
    async with laboratory(tmp_path, max_sends=2, **SHORT) as lab:
        lab.fault("create_exception", "cut", when="before", nth="every")
        case_id = await lab.open(exception())
        report = await lab.work(case_id)
        assert (report.ending, report.code) == (Ending.NEEDS_ATTENTION, "SENDS_USED_UP")
        assert len(lab.calls("create_exception")) == 2
        lab.control.remove_faults()
        assert (await lab.work_to_the_end(case_id)).status is CaseStatus.DONE


async def test_a_case_whose_doubt_another_one_ended_asks_for_a_person_when_the_sends_are_used_up(
    tmp_path: Path,
) -> None:
    async with laboratory(tmp_path, max_sends=1, **SHORT) as lab:
        first = await in_doubt(lab, exception(1), applied=False)
        second = await lab.open(exception(2))
        async with lab.bench.session(second) as session:
            assert isinstance(session, CaseSession)
            assert session.request.dnd_exception is not None
            key = session.exception_key(session.request.dnd_exception.normalised())

            def prove_absent(write: CaseWrite) -> None:
                claim = ExceptionClaim.take(write, key)
                assert isinstance(claim, ExceptionClaim)
                claim.absent()
                claim.give_back()

            await session.commit(prove_absent)
            await session.abandon()
        report = await lab.attempt(first)
        assert (report.ending, report.code) == (Ending.NEEDS_ATTENTION, "SENDS_USED_UP")
        assert lab.step(first, STEP).status is StepStatus.REFUSED
        assert (await lab.work_to_the_end(first)).status is CaseStatus.DONE
        assert lab.effects() == {"dnd_exception_created": 1}


async def test_a_creation_that_is_applied_after_the_quiet_time_is_flagged_as_a_duplicate(lab: Lab) -> None:
    held = lab.fault("create_exception", "hold", when="before")
    first = await lab.open(exception(1))
    assert (await lab.attempt(first)).code == "DEADLINE_PASSED"
    assert (await lab.work_to_the_end(first)).status is CaseStatus.DONE
    lab.control.release(held)
    await lab.control.wait_effects(2)
    second, _ = await lab.onboard(exception(2))
    assert lab.step(second, STEP).outcome["exception_id"] == lab.step(first, STEP).outcome["exception_id"]
    assert len(lab.step(second, STEP).outcome["duplicates"]) == 1


# An id that is known


async def test_an_id_that_is_not_listed_yet_is_waited_for(tmp_path: Path) -> None:
    async with laboratory(tmp_path, settle_seconds=3) as lab:
        await lab.onboard(exception(1))
        lab.fault("list_exceptions", "stale_list")
        second = await lab.open(exception(2))
        report = await lab.attempt(second)
        assert (report.ending, report.code) == (Ending.RETRY_SCHEDULED, "EXCEPTION_NOT_LISTED_YET")
        assert (await lab.attempt(second)).ending is Ending.ONBOARDED
        assert lab.effects() == {"dnd_exception_created": 1}


async def test_an_id_that_is_missing_after_the_settle_time_is_never_created_again(lab: Lab) -> None:
    await lab.onboard(exception(1))
    lab.fault("list_exceptions", "stale_list", nth="every")
    second, report = await lab.onboard(exception(2))
    assert (report.ending, report.code) == (Ending.NEEDS_ATTENTION, "EXCEPTION_MISSING")
    again = await lab.work(second, retry=True)
    assert (again.ending, again.code) == (Ending.NEEDS_ATTENTION, "EXCEPTION_MISSING")
    assert len(lab.calls("create_exception")) == 1
    lab.control.remove_faults()
    assert (await lab.work(second, retry=True)).ending is Ending.ONBOARDED


async def test_the_path_can_be_the_other_edition_of_the_documentation(tmp_path: Path) -> None:
    names: dict[str, Any] = {"clinical_one_dnd_path": "DND Exception"}
    async with laboratory(tmp_path, switches={"dnd_path": "DND Exception"}, **names) as lab:
        _, report = await lab.onboard(exception())
        assert report.ending is Ending.ONBOARDED
