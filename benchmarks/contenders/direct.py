"""This project without Prefect: its step code on a ledger of its own, many cases at a time in one process."""

import asyncio
import time
from collections import Counter

from benchmarks.job import Job
from benchmarks.lanes import in_lanes
from benchmarks.settings import set_environment
from benchmarks.stopwatch import Stopwatch
from benchmarks.subjects import request_of
from onboarding.clocks import utc_now
from onboarding.endings import Ending
from onboarding.settings import load_connections, load_settings
from onboarding.steps.case import work_case
from onboarding.steps.session import CaseSession
from onboarding.workbench import Workbench, open_workbench

_TURNS = 40


async def run(job: Job, watch: Stopwatch) -> None:
    """Open a case for each of the job's subjects, which is told apart, then work them all."""
    set_environment(job)
    settings = load_settings()
    parked: Counter[str] = Counter()
    async with open_workbench(settings, load_connections(settings), actor="benchmark") as bench:
        requests = [request_of(number) for number in job.numbers]
        began = time.perf_counter()
        cases = [(await bench.open_case(request)).case_id for request in requests]
        watch.figures["open_s"] = time.perf_counter() - began

        async def work(case_id: str) -> None:
            parked.update(await _work_to_the_end(bench, case_id))

        watch.begin()
        await in_lanes(cases, job.at_once, work)
        watch.end()
    watch.figures["parked"] = dict(parked)


async def _work_to_the_end(bench: Workbench, case_id: str) -> Counter[str]:
    """Work a case until it is onboarded; gives the codes with which it was parked on the way."""
    parked: Counter[str] = Counter()
    for _ in range(_TURNS):
        async with bench.session(case_id) as session:
            assert isinstance(session, CaseSession), session
            report = await work_case(session)
        if report.ending is Ending.ONBOARDED:
            return parked
        assert report.due_at is not None, f"case {case_id} ended with {report.ending} ({report.code})"
        parked[str(report.code)] += 1
        await asyncio.sleep(max(0.0, (report.due_at - utc_now()).total_seconds()))
    raise RuntimeError(f"case {case_id} was parked {_TURNS} times: {dict(parked)}")
