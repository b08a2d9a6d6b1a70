"""A runner that is killed at any request neither loses an effect nor repeats one, and a second one takes over."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from onboarding.endings import Ending
from onboarding.errors import LeaseLost
from onboarding.intake import parse_request
from onboarding.ledger.async_ledger import AsyncLedger
from onboarding.ledger.leasing import Closed
from onboarding.ledger.states import CaseStatus, StepName, StepStatus
from onboarding.ledger.views import Held
from onboarding.ledger.writes import Lease
from onboarding.steps.case import work_case
from onboarding.steps.session import CaseSession
from onboarding.workbench import Workbench
from tests.steps.lab import Lab, attempt_once, cloud_to_cloud, laboratory, only
from tests.support.requests import example
from vendor_sandbox import clinical_one_errors as phrases

ROOT: Final = Path(__file__).parents[2]
EFFECTS: Final = {
    "update_registration": StepName.REGISTRATION,
    "register_device": StepName.DEVICE,
    "create_exception": StepName.DND_EXCEPTION,
}
BRIEF: Final[dict[str, Any]] = {"lease_seconds": 0.8, "request_timeout_seconds": 0.8, "settle_seconds": 0.2}


SLOW_START: Final[dict[str, Any]] = {"lease_seconds": 2, "request_timeout_seconds": 1.5, "settle_seconds": 0.1}
"""For runners in processes of their own, which share the machine while they start."""


@asynccontextmanager
async def runner(lab: Lab, case_id: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that works the case; it is dead at the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.steps.killed_runner",
        case_id,
        cwd=ROOT,
        env={**os.environ, **lab.environment, "PYTHONPATH": str(ROOT)},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def killed_at(lab: Lab, case_id: str, call: str, when: str) -> None:
    """Kill a runner with SIGKILL while the sandbox holds its request, before or after applying it."""
    held = lab.fault(call, "hold", when=when)
    async with runner(lab, case_id) as process:
        assert await lab.control.wait_held(fault_id=held, timeout_s=60), "the runner did not come so far"
        process.send_signal(signal.SIGKILL)
        assert await process.wait() == -signal.SIGKILL
    lab.control.remove_faults()
    await lab.control.wait_idle()


async def lease_over(lab: Lab, case_id: str) -> None:
    """Wait until the dead runner's lease has ended by itself."""
    await asyncio.sleep(lab.case(case_id).lease_left_s)  # nobody is left to signal its end
    assert lab.case(case_id).lease_left_s == 0


POINTS: Final = [
    *((call, "before", example()) for call in ("login", "list_exceptions")),
    *((call, when, example()) for call in EFFECTS for when in ("before", "after")),
    *(("register_device", when, cloud_to_cloud()) for when in ("before", "after")),
]


async def test_a_runner_killed_at_any_request_neither_loses_nor_repeats_an_effect(tmp_path: Path) -> None:
    async def one(call: str, when: str, request: dict[str, Any]) -> None:
        folder = tmp_path / f"{call}-{when}-{request['registration']['id']}"
        folder.mkdir()
        async with lanes, laboratory(folder, **SLOW_START) as lab:
            case_id = await lab.open(request)
            await killed_at(lab, case_id, call, when)
            if call in EFFECTS:
                view = lab.step(case_id, EFFECTS[call])
                assert (view.status, view.intent.in_doubt) == (StepStatus.OPEN, False)
            await lease_over(lab, case_id)
            assert case_id in await lab.bench.find_due(10), "whatever was killed is due"
            assert (await lab.work_to_the_end(case_id)).status is CaseStatus.DONE, (call, when)
            if call in EFFECTS:
                assert lab.trail(case_id, "step_in_doubt")[0].code == "RUNNER_STOPPED"
            assert lab.changes()["registration_updated"] == 1, (call, when)
            assert lab.effects()["device_registered"] == 1, (call, when)
            assert lab.effects()["dnd_exception_created"] == 1, (call, when)
            assert lab.bench.ledger.trail_problems(case_id) == []

    lanes = asyncio.Semaphore(3)
    async with asyncio.TaskGroup() as group:
        for point in POINTS:
            group.create_task(one(*point))


async def test_a_live_lease_keeps_other_runners_out(lab: Lab) -> None:
    held = lab.fault("read_registration", "hold")
    case_id = await lab.open(example())
    work = asyncio.create_task(lab.work(case_id))
    await lab.control.wait_held(fault_id=held)
    async with lab.another_bench() as other, other.session(case_id) as session:
        assert isinstance(session, Held)
    assert await lab.bench.find_due(10) == []
    lab.control.remove_faults()
    assert (await work).ending is Ending.ONBOARDED


async def test_a_lease_is_renewed_for_as_long_as_the_work_lasts(tmp_path: Path) -> None:
    async with laboratory(tmp_path, lease_seconds=1, request_timeout_seconds=10) as lab:
        held = lab.fault("read_registration", "hold")
        case_id = await lab.open(example())
        fence = lab.case(case_id).fence
        work = asyncio.create_task(lab.work(case_id))
        await lab.control.wait_held(fault_id=held)
        async with lab.another_bench() as other:
            for _ in range(3):
                await asyncio.sleep(0.6)  # well past the lease's first end
                async with other.session(case_id) as session:
                    assert isinstance(session, Held)
        lab.control.remove_faults()
        assert (await work).ending is Ending.ONBOARDED
        assert lab.case(case_id).fence == fence + 1


class Suspended:
    """A runner that stands still, as if its machine had been suspended: nobody renews its lease, its writes wait."""

    def __init__(self, bench: Workbench, case_id: str) -> None:
        self.may_write = asyncio.Event()
        self.may_write.set()
        self._bench = bench
        lease = bench.ledger.take(case_id, bench.runner, bench.systems.addresses)
        assert isinstance(lease, Lease)
        ledger = AsyncLedger(bench.ledger, self._in_thread, self._in_thread)
        session = CaseSession(ledger, lease, bench.ledger.request_of(lease), bench.systems, bench.settings)
        self.work = asyncio.create_task(attempt_once(session))

    async def _in_thread(self, *work: Any) -> Any:
        await self.may_write.wait()
        return await self._bench.in_thread(*work)


@asynccontextmanager
async def suspended(lab: Lab, case_id: str, call: str, when: str) -> AsyncIterator[Suspended]:
    """A runner that stands still with its request held."""
    held = lab.fault(call, "hold", when=when)
    async with lab.another_bench("suspended", request_timeout_seconds=2) as bench:
        runner = Suspended(bench, case_id)
        await lab.control.wait_held(fault_id=held)
        yield runner
        assert runner.work.done()


async def answered_late(lab: Lab, runner: Suspended, case_id: str) -> None:
    """Let the answer arrive, but keep the runner from writing it down until its lease is over."""
    runner.may_write.clear()
    lab.control.remove_faults()
    await lab.control.wait_idle()
    await lease_over(lab, case_id)


async def test_a_runner_whose_lease_ended_untaken_takes_it_up_again_before_it_sends(tmp_path: Path) -> None:
    async with laboratory(tmp_path, **BRIEF) as lab:
        case_id = await lab.open(only("device"))
        async with suspended(lab, case_id, "dispensation", "before") as runner:
            await lease_over(lab, case_id)
            lab.control.remove_faults()
            assert (await runner.work).ending is Ending.ONBOARDED
        assert lab.case(case_id).takings == 1


@pytest.mark.parametrize("request_of", [example, cloud_to_cloud], ids=["device_to_cloud", "cloud_to_cloud"])
async def test_a_runner_that_was_overtaken_sends_nothing_more_and_stops(tmp_path: Path, request_of: Any) -> None:
    async with laboratory(tmp_path, **BRIEF) as lab:
        content = request_of()
        case_id = await lab.open({name: content[name] for name in ("subject", "device")})
        async with suspended(lab, case_id, "dispensation", "before") as runner:
            await lease_over(lab, case_id)
            assert (await lab.work(case_id)).ending is Ending.ONBOARDED
            lab.control.remove_faults()
            with pytest.raises(LeaseLost):
                await runner.work
        assert len(lab.calls("register_device")) == 1
        assert lab.case(case_id).status is CaseStatus.DONE


async def test_a_late_answer_that_agrees_with_the_ledger_is_kept_and_changes_nothing(tmp_path: Path) -> None:
    async with laboratory(tmp_path, **BRIEF) as lab:
        case_id = await lab.open(only("registration"))
        async with suspended(lab, case_id, "update_registration", "after") as runner:
            await answered_late(lab, runner, case_id)
            assert (await lab.work(case_id)).ending is Ending.ONBOARDED
            runner.may_write.set()
            with pytest.raises(LeaseLost):
                await runner.work
        (late,) = lab.trail(case_id, "late_answer")
        assert late.detail["says"] == "applied"
        assert lab.case(case_id).status is CaseStatus.DONE
        assert lab.changes() == {"registration_updated": 1}


async def test_a_late_answer_to_the_probe_of_a_device_is_kept_too(tmp_path: Path) -> None:
    async with laboratory(tmp_path, **BRIEF) as lab:
        case_id = await lab.open(only("device"))
        lab.fault("register_device", "cut", when="after")
        assert (await lab.attempt(case_id)).code == "CUT"
        await asyncio.sleep(lab.step(case_id, StepName.DEVICE).intent.quiet_left_s)  # a vendor's clock, so to say
        async with suspended(lab, case_id, "access_code", "after") as runner:
            await answered_late(lab, runner, case_id)
            assert (await lab.work_to_the_end(case_id)).status is CaseStatus.DONE
            runner.may_write.set()
            with pytest.raises(LeaseLost):
                await runner.work
        (late,) = lab.trail(case_id, "late_answer")
        assert late.detail["says"] == "applied"
        assert lab.case(case_id).status is CaseStatus.DONE


async def test_a_late_answer_that_says_otherwise_than_the_ledger_needs_attention(tmp_path: Path) -> None:
    async with laboratory(tmp_path, **BRIEF) as lab:
        case_id = await lab.open(only("device"))
        async with suspended(lab, case_id, "register_device", "after") as runner:
            await answered_late(lab, runner, case_id)
            lab.fault("access_code", "refuse", phrase=phrases.NOT_REGISTERED)  # a vendor that forgot
            lab.fault("register_device", "refuse", phrase=phrases.INVALID_SUBJECT)
            assert (await lab.work(case_id)).code == "INVALID_SUBJECT_ID"
            runner.may_write.set()
            with pytest.raises(LeaseLost):
                await runner.work
        sent = len(lab.calls("register_device"))
        async with lab.bench.session(case_id, retry=True) as session:
            assert isinstance(session, Closed)
        case = lab.case(case_id)
        assert (case.status, case.reason) == (CaseStatus.ATTENTION, "LATE_ANSWER_CONTRADICTS")
        assert len(lab.calls("register_device")) == sent
        assert lab.effects() == {"device_registered": 1}


async def test_two_doors_at_the_same_time_give_one_case_and_each_effect_once(lab: Lab) -> None:
    async with lab.another_bench() as other:
        opened = await asyncio.gather(*(bench.open_case(_parsed()) for bench in (lab.bench, other) * 3))
        assert len({one.case_id for one in opened}) == 1
        assert sum(one.created for one in opened) == 1
        case_id = opened[0].case_id

        async def door(bench: Any) -> Any:
            async with bench.session(case_id) as session:
                if isinstance(session, Held | Closed):
                    return session
                return await work_case(session)

        ended = await asyncio.gather(*(door(bench) for bench in (lab.bench, other, lab.bench, other)))
        assert sum(not isinstance(one, Held | Closed) for one in ended) == 1
        assert lab.effects() == {"registration_updated": 1, "device_registered": 1, "dnd_exception_created": 1}


def _parsed() -> Any:
    return parse_request(example())


async def test_a_cancelled_runner_leaves_an_intent_that_the_next_one_settles(lab: Lab) -> None:
    held = lab.fault("register_device", "hold", when="after")
    case_id = await lab.open(example())
    work = asyncio.create_task(lab.work(case_id))
    await lab.control.wait_held(fault_id=held)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    lab.control.remove_faults()
    view = lab.step(case_id, StepName.DEVICE)
    assert (view.status, view.intent.in_doubt) == (StepStatus.OPEN, False)
    assert view.intent.quiet_left_s > 0
    assert (await lab.work_to_the_end(case_id)).status is CaseStatus.DONE
    assert lab.effects()["device_registered"] == 1
