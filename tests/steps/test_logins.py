"""A refused log-in is not tried again by anybody until the settings change; a throttled system is left alone by all."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from onboarding.endings import Ending
from onboarding.errors import OPENSPECIMEN
from onboarding.ledger.states import CaseStatus, StepName, StepStatus
from onboarding.workbench import LedgerGate
from tests.steps.lab import Lab, cloud_to_cloud, laboratory
from tests.support.requests import example
from vendor_sandbox import seed

WRONG_PASSWORD: dict[str, Any] = {"openspecimen_password": "wrong"}
WRONG_SECRET: dict[str, Any] = {"clinical_one_client_secret": "wrong"}
WRONG: list[tuple[str, Mapping[str, Any], StepName, str]] = [
    ("login", WRONG_PASSWORD, StepName.REGISTRATION, "AUTH_INVALID_CREDENTIALS"),
    ("token", WRONG_SECRET, StepName.DISPENSATION, "INVALID_CLIENT"),
]
RIGHT: dict[str, Any] = {"openspecimen_password": seed.PASSWORD, "clinical_one_client_secret": seed.CLIENT_SECRET}


def failures(lab: Lab) -> int:
    found: int = lab.control.state()["openspecimen"]["users"][seed.USERNAME]["failures"]
    return found


@pytest.mark.parametrize(("call", "wrong", "step", "code"), WRONG, ids=["openspecimen", "clinical_one"])
async def test_a_refused_login_sends_nothing_more_from_any_runner_until_the_settings_change(
    tmp_path: Path, call: str, wrong: Mapping[str, Any], step: StepName, code: str
) -> None:
    async with laboratory(tmp_path, **wrong) as lab:
        cases = [await lab.open(example()), await lab.open(cloud_to_cloud())]
        reports = [await lab.attempt(case_id) for case_id in cases]
        assert [(one.ending, one.code, one.step) for one in reports] == [(Ending.RETRY_SCHEDULED, code, step)] * 2
        for case_id in cases:
            assert lab.case(case_id).status is CaseStatus.READY
            assert lab.step(case_id, step).status is StepStatus.PENDING
        async with lab.another_bench() as other:
            await lab.attempt(cases[0], bench=other)
            assert await other.find_due(10) == []
        assert len(lab.calls(call)) == 1
        assert failures(lab) == (1 if call == "login" else 0)
        async with lab.another_bench("mended", **RIGHT) as mended:
            assert sorted(await mended.find_due(10)) == sorted(cases), "due again at once"
            for case_id in cases:
                assert (await lab.work(case_id, bench=mended)).ending is Ending.ONBOARDED
        assert await lab.bench.find_due(10) == []


async def test_cases_that_start_together_cost_one_refused_login(tmp_path: Path) -> None:
    async with laboratory(tmp_path, world=seed.many(10), **WRONG_PASSWORD) as lab:
        cases = [await lab.open(_of(seed.SeededSubject(number))) for number in range(1, 11)]
        await asyncio.gather(*(lab.attempt(case_id) for case_id in cases))
        assert len(lab.calls("login")) == 1
        assert failures(lab) == 1


async def test_runners_that_start_together_never_come_near_the_lock(tmp_path: Path) -> None:
    async with laboratory(tmp_path, **WRONG_PASSWORD) as lab, lab.another_bench() as other:
        cases = [await lab.open(example()), await lab.open(cloud_to_cloud())]
        await asyncio.gather(lab.attempt(cases[0]), lab.attempt(cases[1], bench=other))
        for case_id in cases:
            await lab.attempt(case_id)
            await lab.attempt(case_id, bench=other)
        assert failures(lab) <= 2
        assert not lab.control.state()["openspecimen"]["users"][seed.USERNAME]["locked"]


async def test_a_login_refused_in_the_middle_of_a_step_leaves_its_doubt_open(lab: Lab) -> None:
    lab.fault("update_registration", "cut", when="after")
    case_id = await lab.open(example())
    assert (await lab.attempt(case_id)).code == "CUT"
    async with lab.another_bench(**WRONG_PASSWORD) as other:
        report = await lab.attempt(case_id, bench=other)
    assert (report.ending, report.code) == (Ending.RETRY_SCHEDULED, "AUTH_INVALID_CREDENTIALS")
    assert lab.step(case_id, StepName.REGISTRATION).intent.in_doubt
    assert (await lab.attempt(case_id)).ending is Ending.ONBOARDED
    assert lab.changes()["registration_updated"] == 1


async def test_a_login_refused_between_a_401_and_its_replay_means_not_applied(tmp_path: Path) -> None:
    async with laboratory(tmp_path) as lab:
        lab.fault("update_registration", "expire_token")
        lab.fault("login", "refuse", code="AUTH_USER_LOCKED", nth=2)
        case_id = await lab.open(example())
        report = await lab.attempt(case_id)
        assert (report.ending, report.code) == (Ending.RETRY_SCHEDULED, "AUTH_USER_LOCKED")
        assert lab.step(case_id, StepName.REGISTRATION).status is StepStatus.PENDING
        assert lab.effects() == {}


async def test_a_pause_that_a_vendor_asked_for_is_kept_by_every_runner(lab: Lab) -> None:
    lab.fault("read_registration", "throttle", retry_after=30)
    first, second = await lab.open(example()), await lab.open(cloud_to_cloud())
    report = await lab.attempt(first)
    assert report.code == "THROTTLED"
    assert 29 <= report.steps[-1].wait_s <= 30
    before = len(lab.calls())
    async with lab.another_bench() as other:
        for bench in (lab.bench, other):
            assert (await lab.attempt(second, bench=bench)).code == "THROTTLED"
    assert len(lab.calls()) == before, "nothing is sent during the pause"
    assert lab.step(second, StepName.REGISTRATION).status is StepStatus.PENDING


async def test_a_pause_of_one_system_is_none_of_the_other(lab: Lab) -> None:
    lab.fault("read_registration", "throttle", retry_after=30)
    case_id = await lab.open(example())
    await lab.attempt(case_id)
    other = cloud_to_cloud()
    del other["registration"]
    _, report = await lab.onboard(other)
    assert report.ending is Ending.ONBOARDED


async def test_a_shorter_pause_does_not_end_a_longer_one(lab: Lab) -> None:
    gate = LedgerGate(lab.bench.ledger, lab.bench.in_thread)
    await gate.remember_not_before(OPENSPECIMEN, 30)
    await gate.remember_not_before(OPENSPECIMEN, 1)
    assert await gate.not_before(OPENSPECIMEN) > 25
    async with lab.another_bench() as other:
        another = LedgerGate(other.ledger, other.in_thread)
        await another.remember_not_before(OPENSPECIMEN, 1)
        assert await another.not_before(OPENSPECIMEN) > 25


async def test_a_vendor_cannot_ask_for_a_longer_pause_than_the_ceiling(tmp_path: Path) -> None:
    async with laboratory(tmp_path, retry_after_ceiling_seconds=7) as lab:
        lab.fault("read_registration", "throttle", retry_after=100000)
        report = await lab.attempt(await lab.open(example()))
        assert report.steps[-1].wait_s == 7


def _of(one: seed.SeededSubject) -> dict[str, Any]:
    return {
        "registration": {
            "id": one.registration_id,
            "cp_id": seed.CP_ID,
            "participant": {"id": one.participant_id},
            "external_subject_id": f"MANY-{one.number}",
        },
        "subject": {"study_id": seed.STUDY_ID, "mode": "test", "subject_id": one.subject_id},
    }
