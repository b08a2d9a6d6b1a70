"""This project: the flow ``onboard_batch`` on a batch that was taken in before, observed by a running Prefect server."""

import asyncio
import time
from importlib import import_module
from pathlib import Path

from benchmarks.batches import take_in, write_csv
from benchmarks.drain import Drain
from benchmarks.job import Job
from benchmarks.settings import set_environment
from benchmarks.stopwatch import Stopwatch
from benchmarks.warm_up import warm_up
from onboarding.ledger import batches
from onboarding.ledger.ledger import open_ledger
from onboarding.ledger.states import CaseStatus
from onboarding.settings import Settings, load_connections, load_settings
from onboarding.workbench import open_workbench

FLOW = "flows.onboard_batch:onboard_batch"
FLOW_NAME = "onboard-batch"


async def run(job: Job, watch: Stopwatch) -> None:
    """Take the job's subjects in as a batch, which is told apart, then run the flow once."""
    set_environment(job)
    settings = load_settings()
    path = Path(job.folder) / "batch.csv"
    write_csv(path, job.numbers)
    async with open_workbench(settings, load_connections(settings), actor="benchmark") as bench:
        addresses = bench.systems.addresses
    began = time.perf_counter()
    intake = await asyncio.to_thread(take_in, path, settings, addresses)
    watch.figures["open_s"] = time.perf_counter() - began
    module, _, name = FLOW.partition(":")
    flow = getattr(import_module(module), name)
    await warm_up()
    watch.begin()
    state = await flow(batch_id=intake.batch_id, return_state=True)
    watch.end()
    await Drain(FLOW_NAME, 0).settle()
    watch.drained()
    done = await asyncio.to_thread(_done, settings, intake.batch_id)
    assert done == job.subjects, f"the flow ended {state.name!r} with {done} of {job.subjects} subjects onboarded"


def _done(settings: Settings, batch_id: str) -> int:
    ledger = open_ledger(settings)
    try:
        return batches.counts(ledger, batch_id).of(CaseStatus.DONE)
    finally:
        ledger.close()
