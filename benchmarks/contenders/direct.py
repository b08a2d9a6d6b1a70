"""This project without Prefect: its batch engine on a ledger of its own, many cases at a time in one process."""

import asyncio
import time
from collections import Counter

from benchmarks.job import Job
from benchmarks.settings import set_environment
from benchmarks.stopwatch import Stopwatch
from benchmarks.subjects import request_of
from onboarding.batch.engine import Here, Worked, one_by_one, work_cases
from onboarding.clocks import utc_now
from onboarding.endings import Ending
from onboarding.settings import load_connections, load_settings
from onboarding.workbench import Workbench, open_workbench

_TURNS = 40


async def run(job: Job, watch: Stopwatch) -> None:
    """Open a case for each of the job's subjects, which is told apart, then work them all."""
    set_environment(job)
    settings = load_settings()
    async with open_workbench(settings, load_connections(settings), actor="benchmark") as bench:
        requests = [request_of(number) for number in job.numbers]
        began = time.perf_counter()
        cases = [(await bench.open_case(request)).case_id for request in requests]
        watch.figures["open_s"] = time.perf_counter() - began
        watch.begin()
        watch.figures["parked"] = await _work_to_the_end(bench, cases, job.at_once)
        watch.end()


async def _work_to_the_end(bench: Workbench, cases: list[str], lanes: int) -> dict[str, int]:
    """Work cases until all are onboarded; gives the codes with which some were parked on the way."""
    parked: Counter[str] = Counter()
    for _ in range(_TURNS):
        waiting: list[Worked] = []
        await work_cases(Here(bench), one_by_one(cases), lanes=lanes, told=waiting.append, stop=asyncio.Event())
        waiting = [one for one in waiting if one.ending is not Ending.ONBOARDED]
        if not waiting:
            return dict(parked)
        parked.update(str(one.code) for one in waiting)
        moments = [one.due_at for one in waiting if one.due_at is not None]
        assert len(moments) == len(waiting), f"some cannot be worked: {dict(parked)}"
        await asyncio.sleep(max(0.0, (max(moments) - utc_now()).total_seconds()))
        cases = [one.case_id for one in waiting]
    raise RuntimeError(f"{len(cases)} cases were parked {_TURNS} times: {dict(parked)}")
