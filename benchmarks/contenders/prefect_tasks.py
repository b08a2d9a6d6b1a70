"""Prefect with a task run per subject in one flow run."""

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from benchmarks.drain import Drain
from benchmarks.job import Job
from benchmarks.lanes import in_lanes
from benchmarks.plain import PlainCalls, plain_calls
from benchmarks.stopwatch import Stopwatch
from benchmarks.warm_up import warm_up

_shared: list[PlainCalls] = []


@task(retries=3, retry_delay_seconds=[1, 2, 4], cache_policy=NO_CACHE)
async def onboard(number: int) -> None:
    """Onboard one subject."""
    await _shared[0].send(_shared[0].calls.of_subject(number))
    await _shared[0].ensure_exception()


@flow(name="benchmark-site")
async def onboard_site(numbers: list[int], at_once: int) -> None:
    """Onboard these subjects."""
    await in_lanes(numbers, at_once, onboard)


async def run(job: Job, watch: Stopwatch) -> None:
    """One flow run, a task run for each of the job's subjects."""
    async with plain_calls(job.addresses) as calls:
        _shared[:] = [calls]
        drain = await Drain.before("benchmark-site", job.subjects)
        await warm_up()
        watch.begin()
        await onboard_site(list(job.numbers), job.at_once)
        watch.end()
        await drain.wait()
        watch.drained()
