"""Many cases against a vendor that is slow, throttles or is dead: nothing is begun that cannot be sent."""

import asyncio
from pathlib import Path
from typing import Any, Final

import pytest

from onboarding.clocks import boot_seconds
from onboarding.endings import Ending
from onboarding.errors import CLINICAL_ONE, OPENSPECIMEN, Unavailable
from onboarding.ledger.states import CaseStatus
from onboarding.steps.case import work_case
from onboarding.steps.dispensation import refuse_old_guard
from onboarding.steps.session import Guard
from onboarding.vendors.breaker import OPENS_AFTER
from onboarding.vendors.dispensation import ConnectionType
from tests.steps.lab import Lab, laboratory, leased, only
from vendor_sandbox import seed

CASES: Final = 24


def registration_of(one: seed.SeededSubject) -> dict[str, Any]:
    return {
        "registration": {
            "id": one.registration_id,
            "cp_id": seed.CP_ID,
            "participant": {"id": one.participant_id},
            "external_subject_id": f"MANY-{one.number}",
        },
        "subject": {"study_id": seed.STUDY_ID, "mode": "test", "subject_id": one.subject_id},
    }


async def opened(lab: Lab) -> list[str]:
    return [await lab.open(registration_of(seed.SeededSubject(number))) for number in range(1, CASES + 1)]


def intents(lab: Lab, cases: list[str]) -> int:
    return sum(len(lab.trail(case_id, "step_intent")) for case_id in cases)


async def test_a_batch_never_times_out_in_its_own_queue(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "requests_per_second": 30,
        "requests_in_flight": 4,
        "request_timeout_seconds": 1,
        "lease_seconds": 60,
    }
    async with laboratory(tmp_path, world=seed.many(CASES), **settings) as lab:
        cases = await opened(lab)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        reports = await asyncio.gather(*(lab.work(case_id) for case_id in cases))
        took_s = loop.time() - begun
        assert {report.ending for report in reports} == {Ending.ONBOARDED}
        assert took_s >= (2 * CASES - 2) / 30 - 0.1
        assert took_s > 1, "longer than a request's deadline"
        assert intents(lab, cases) == CASES
        assert [event for case_id in cases for event in lab.trail(case_id, "step_waiting")] == []


async def test_a_short_pause_is_awaited_by_all_without_a_word_in_the_ledger(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"requests_in_flight": 2, "request_timeout_seconds": 5, "lease_seconds": 60}
    async with laboratory(tmp_path, world=seed.many(CASES), **settings) as lab:
        cases = await opened(lab)
        lab.fault("read_registration", "throttle", retry_after=1)
        reports = await asyncio.gather(*(lab.work(case_id) for case_id in cases))
        assert {report.ending for report in reports} == {Ending.ONBOARDED}
        waits = [event for case_id in cases for event in lab.trail(case_id, "step_waiting")]
        assert [event.code for event in waits] == ["THROTTLED"], "only of the case whose request was turned away"


async def test_a_long_pause_parks_all_and_begins_nothing(tmp_path: Path) -> None:
    async with laboratory(tmp_path, world=seed.many(CASES), requests_in_flight=2, lease_seconds=60) as lab:
        cases = await opened(lab)
        lab.fault("read_registration", "throttle", retry_after=60)
        reports = await asyncio.gather(*(lab.work(case_id) for case_id in cases))
        assert {(report.ending, report.code) for report in reports} == {(Ending.RETRY_SCHEDULED, "THROTTLED")}
        assert all(report.due_at is not None for report in reports)
        assert intents(lab, cases) == 0
        assert len(lab.calls("read_registration")) <= 2
        assert lab.bench.systems.closed_for_s(OPENSPECIMEN) > 50
        assert lab.bench.systems.closed_for_s(CLINICAL_ONE) == 0


async def test_a_dead_vendor_is_left_alone_and_used_again_when_it_is_back(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"requests_in_flight": 4, "request_timeout_seconds": 5, "lease_seconds": 60}
    async with laboratory(tmp_path, world=seed.many(CASES), **settings) as lab:
        cases = await opened(lab)
        lab.fault("read_registration", "proxy_page", status=502, nth="every", when="before")
        reports = await asyncio.gather(*(lab.attempt(case_id) for case_id in cases))
        assert {report.ending for report in reports} == {Ending.RETRY_SCHEDULED}
        assert {report.code for report in reports} == {"SERVER_ERROR", "VENDOR_DOWN"}
        assert OPENS_AFTER <= len(lab.calls("read_registration")) < OPENS_AFTER + 4
        assert intents(lab, cases) == 0
        lab.control.remove_faults()
        for case_id in cases:
            assert (await lab.work_to_the_end(case_id)).status is CaseStatus.DONE
        assert lab.bench.systems.closed_for_s(OPENSPECIMEN) == 0


@pytest.mark.parametrize(
    ("age_s", "timeout_s", "refused"), [(29, 30, False), (31, 30, True), (14, 600, False), (16, 600, True)]
)
async def test_a_dispensation_that_grew_old_in_the_queue_is_not_relied_upon(
    tmp_path: Path, age_s: float, timeout_s: float, refused: bool
) -> None:
    async with laboratory(tmp_path, request_timeout_seconds=timeout_s, lease_seconds=60) as lab:
        case_id = await lab.open(only("device"))
        async with leased(lab.bench, case_id) as session:
            session.guard = Guard(ConnectionType.DEVICE_TO_CLOUD, "visit", boot_seconds() - age_s)
            if refused:
                with pytest.raises(Unavailable):
                    refuse_old_guard(session)
            else:
                refuse_old_guard(session)
            assert (await work_case(session)).ending is Ending.ONBOARDED
        assert lab.effects() == {"device_registered": 1}
