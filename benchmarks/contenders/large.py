"""One large batch of this project, without Prefect: a CSV file is taken in, then worked; memory is looked at on the way."""

import asyncio
import os
import time
from pathlib import Path
from typing import Final

from benchmarks.batches import take_in, write_csv
from benchmarks.job import Job
from benchmarks.settings import set_environment
from benchmarks.stopwatch import Stopwatch, resident_mb
from benchmarks.subjects import request_of
from onboarding.batch.engine import Here, Worked, due_cases, work_cases
from onboarding.batch.intake import Intake
from onboarding.endings import Ending
from onboarding.ledger.states import StepName
from onboarding.settings import Settings, load_connections, load_settings
from onboarding.steps.session import CaseSession
from onboarding.workbench import Workbench, open_workbench

LEASE_S: Final = 5.0
"""Short, so that a lease that is not renewed while the file is read would surely be lost."""

_LOOK_S: Final = 0.2
_SAMPLES: Final = 50
FIRST_SAMPLE: Final = 1000
_TURNS: Final = 10


async def run(job: Job, watch: Stopwatch) -> None:
    """Take the file in beside a runner that holds a case, then work the batch."""
    os.environ["ONBOARDING_LEASE_SECONDS"] = str(LEASE_S)
    set_environment(job)
    settings = load_settings()
    path = Path(job.folder) / "batch.csv"
    write_csv(path, job.numbers)
    watch.figures["csv_mb"] = path.stat().st_size / 1e6
    async with open_workbench(settings, load_connections(settings), actor="benchmark") as bench:
        intake = await _take_in(bench, settings, path, job, watch)
    async with open_workbench(settings, load_connections(settings), actor="benchmark") as bench:
        watch.begin()
        await _work(bench, intake.batch_id, job, watch)
        watch.end()


async def _take_in(bench: Workbench, settings: Settings, path: Path, job: Job, watch: Stopwatch) -> Intake:
    """Take the file in, on connections of its own, while this runner holds another case and looks at it all the time."""
    held = (await bench.open_case(request_of(job.numbers.stop))).case_id
    slowest_s = 0.0
    async with bench.session(held) as session:
        assert isinstance(session, CaseSession)
        before, began = resident_mb(), time.perf_counter()
        taking = asyncio.create_task(asyncio.to_thread(take_in, path, settings, bench.systems.addresses))
        while not taking.done():
            asked = time.perf_counter()
            await session.look(StepName.REGISTRATION)  # raises LeaseLost
            slowest_s = max(slowest_s, time.perf_counter() - asked)
            await asyncio.wait({taking}, timeout=_LOOK_S)
        watch.figures["intake_s"] = time.perf_counter() - began
        watch.figures["intake_mb"] = resident_mb() - before
        watch.figures["slowest_look_s"] = slowest_s
        intake = taking.result()
    assert intake.opened == job.subjects, intake
    return intake


async def _work(bench: Workbench, batch_id: str, job: Job, watch: Stopwatch) -> None:
    samples: list[dict[str, float]] = []
    done = 0
    every = max(1, job.subjects // _SAMPLES)
    began = time.perf_counter()

    def told(worked: Worked) -> None:
        nonlocal done
        done += worked.ending is Ending.ONBOARDED
        if done % every == 0 or done == FIRST_SAMPLE:
            sample = {"done": done, "mb": resident_mb(), "cpu_s": time.process_time(), "s": time.perf_counter() - began}
            samples.append(sample)

    for _ in range(_TURNS):
        await work_cases(Here(bench), due_cases(bench, batch_id), lanes=job.at_once, told=told, stop=asyncio.Event())
        if done == job.subjects:
            break
        await asyncio.sleep(1)
    assert done == job.subjects, f"{done} of {job.subjects} subjects were onboarded"
    watch.figures["samples"] = samples
