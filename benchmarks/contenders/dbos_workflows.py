"""DBOS with a durable workflow per subject and four steps in it, over this project's HTTP stack."""

import asyncio

from dbos import DBOS, DBOSConfig

from benchmarks.job import Job
from benchmarks.lanes import in_lanes
from benchmarks.stack import Stack, opened_stack
from benchmarks.stopwatch import Stopwatch
from benchmarks.subjects import request_of

_shared: list[Stack] = []


async def registration(number: int) -> None:
    """Read and update the registration."""
    await _shared[0].registration(request_of(number))


async def dispensation(number: int) -> None:
    """Read the dispensation and its history."""
    await _shared[0].dispensation(request_of(number))


async def device(number: int) -> None:
    """Register the device."""
    await _shared[0].device(request_of(number))


async def exception(number: int) -> None:
    """List and create the exception that all subjects share."""
    await _shared[0].exception(request_of(number))


_STEPS = tuple(DBOS.step(retries_allowed=True)(step) for step in (registration, dispensation, device, exception))


async def _onboard(number: int) -> None:
    for step in _STEPS:
        await step(number)


onboard = DBOS.workflow(name="onboard")(_onboard)


async def run(job: Job, watch: Stopwatch) -> None:
    """A workflow for each of the job's subjects, many at a time."""
    config = DBOSConfig(
        name="benchmark", system_database_url=job.database_url, log_level="WARNING", application_version="benchmark"
    )
    DBOS(config=config)
    await asyncio.to_thread(DBOS.launch)
    try:
        async with opened_stack(job.addresses) as stack:
            _shared[:] = [stack]

            async def work(number: int) -> None:
                handle = await DBOS.start_workflow_async(onboard, number)
                await handle.get_result()

            watch.begin()
            await in_lanes(job.numbers, job.at_once, work)
            watch.end()
    finally:
        await asyncio.to_thread(DBOS.destroy)
