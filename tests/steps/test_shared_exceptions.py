"""Many subjects that need the same exception: it is made once, seen by all without turns, and nobody waits for nothing."""

import asyncio
import json
import os
import sys
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from cryptography.fernet import Fernet

from onboarding.endings import Ending
from onboarding.ledger.ledger import migrate
from onboarding.ledger.states import CaseStatus, StepName, StepStatus
from onboarding.settings import load_settings
from tests.steps.lab import Lab, laboratory, only
from vendor_sandbox import seed

ROOT: Final = Path(__file__).parents[2]
STEP: Final = StepName.DND_EXCEPTION
PATIENT: Final[dict[str, Any]] = {"request_timeout_seconds": 20, "lease_seconds": 60}
"""For many cases at once on a machine that is busy."""


def needed_by(number: int, **changes: Any) -> dict[str, Any]:
    """The exception of the example, for one of many subjects."""
    ours = {f"dnd_exception__{name}": value for name, value in changes.items()}
    return only("dnd_exception", subject__subject_id=seed.SeededSubject(number).subject_id, **ours)


async def opened(lab: Lab, count: int) -> list[str]:
    return [await lab.open(needed_by(number)) for number in range(1, count + 1)]


async def onboarded(lab: Lab, cases: list[str]) -> None:
    reports = await asyncio.gather(*(lab.work(case_id) for case_id in cases))
    assert {report.ending for report in reports} == {Ending.ONBOARDED}


async def test_cases_of_one_process_make_it_once_and_are_woken_when_it_is_there(tmp_path: Path) -> None:
    async with laboratory(tmp_path, world=seed.many(40), **PATIENT) as lab:
        held = lab.fault("create_exception", "hold", when="before")
        cases = await opened(lab, 40)
        work = asyncio.create_task(onboarded(lab, cases))
        await lab.control.wait_held(fault_id=held)
        lab.control.release(held)
        await work
        assert lab.effects() == {"dnd_exception_created": 1}
        assert len({lab.step(case_id, STEP).outcome["exception_id"] for case_id in cases}) == 1
        assert len(lab.calls("list_exceptions")) <= 3
        waits = [event for case_id in cases for event in lab.trail(case_id, "step_waiting")]
        assert waits == [], "nobody was told to come back later"


async def test_an_exception_that_is_known_is_seen_by_all_in_one_list(tmp_path: Path) -> None:
    async with laboratory(tmp_path, world=seed.many(31), **PATIENT) as lab:
        first, *cases = await opened(lab, 31)
        await lab.work(first)
        listed = len(lab.calls("list_exceptions"))
        await onboarded(lab, cases)
        assert len(lab.calls("list_exceptions")) - listed <= 2
        assert {lab.step(case_id, STEP).code for case_id in cases} == {"ALREADY_SO"}


async def test_a_case_that_sees_a_known_exception_takes_no_hold(tmp_path: Path) -> None:
    async with laboratory(tmp_path, world=seed.many(3), **PATIENT) as lab:
        first, second, third = await opened(lab, 3)
        await lab.work(first)
        async with lab.another_bench() as slow, lab.another_bench() as quick:
            held = lab.fault("list_exceptions", "hold")
            work = asyncio.create_task(lab.work(second, bench=slow))
            await lab.control.wait_held(fault_id=held)
            assert (await lab.work(third, bench=quick)).ending is Ending.ONBOARDED
            assert not work.done()
            lab.control.release(held)
            assert (await work).ending is Ending.ONBOARDED


async def test_a_case_of_another_process_sees_it_soon_after_it_is_there(tmp_path: Path) -> None:
    async with laboratory(tmp_path, world=seed.many(2), **PATIENT) as lab, lab.another_bench() as other:
        held = lab.fault("create_exception", "hold", when="before")
        first, second = await opened(lab, 2)
        work = [asyncio.create_task(lab.work(first))]
        await lab.control.wait_held(fault_id=held)
        work.append(asyncio.create_task(lab.work(second, bench=other)))
        await asyncio.sleep(0.2)  # it looks at the claim by now and then
        lab.control.release(held)
        begun = perf_counter()
        assert {report.ending for report in await asyncio.gather(*work)} == {Ending.ONBOARDED}
        assert perf_counter() - begun < 3, "far less than a wait of its step"
        assert lab.trail(second, "step_waiting") == []
        assert lab.effects() == {"dnd_exception_created": 1}


async def test_a_refusal_ends_the_turn_of_one_and_each_hears_its_own(tmp_path: Path) -> None:
    async with laboratory(tmp_path, world=seed.many(5), **PATIENT) as lab:
        lab.fault("create_exception", "refuse", phrase="Invalid study ID or version", nth="every")
        cases = await opened(lab, 5)
        reports = await asyncio.gather(*(lab.work(case_id) for case_id in cases))
        assert {report.ending for report in reports} == {Ending.NEEDS_ATTENTION}
        assert {lab.step(case_id, STEP).status for case_id in cases} == {StepStatus.REFUSED}
        assert len(lab.calls("create_exception")) == 5
        assert lab.effects() == {}


async def test_a_case_in_doubt_gets_on_though_others_wait_for_it(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"request_timeout_seconds": 1.5, "settle_seconds": 0.5, "lease_seconds": 60}
    async with laboratory(tmp_path, world=seed.many(8), **settings) as lab:
        lab.fault("create_exception", "cut", when="before")
        cases = await opened(lab, 8)
        await asyncio.gather(*(lab.work(case_id) for case_id in cases))
        for case_id in cases:
            assert (await lab.work_to_the_end(case_id)).status is CaseStatus.DONE
        assert lab.effects() == {"dnd_exception_created": 1}
        first, second = lab.calls("create_exception")
        assert second["monotonic"] - first["monotonic"] >= 2.0, "not before the quiet time was over"


async def test_four_processes_make_one_exception_for_two_hundred_subjects(
    tmp_path: Path, postgres_url: str, record_property: Any
) -> None:
    key = Fernet.generate_key().decode()
    migrate(load_settings({"ONBOARDING_LEDGER_URL": postgres_url, "ONBOARDING_LEDGER_KEY": key}))
    settings = {**PATIENT, "ledger_url": postgres_url, "ledger_key": key}
    async with laboratory(tmp_path, world=seed.many(200), **settings) as lab:
        cases = await opened(lab, 200)
        runners = [await _runner(lab) for _ in range(4)]
        begun = perf_counter()
        for number, runner in enumerate(runners):
            assert runner.stdin is not None
            runner.stdin.write(json.dumps(cases[number::4]).encode() + b"\n")
        endings = [json.loads((await runner.communicate())[0]) for runner in runners]
        record_property("seconds", perf_counter() - begun)
        assert {ending for one in endings for _, ending, _ in one} == {str(Ending.ONBOARDED)}
        assert lab.effects() == {"dnd_exception_created": 1}
        assert {lab.case(case_id).status for case_id in cases} == {CaseStatus.DONE}
        assert len({lab.step(case_id, STEP).outcome["exception_id"] for case_id in cases}) == 1
        assert len(lab.calls("list_exceptions")) <= 4 * 5


async def _runner(lab: Lab) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.steps.crowd_runner",
        cwd=ROOT,
        env={**os.environ, **lab.environment, "PYTHONPATH": str(ROOT)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 20,
    )
    assert process.stdout is not None
    async with asyncio.timeout(60):
        assert await process.stdout.readline() == b"ready\n"
    return process
