"""Prefect with a flow run per subject and four tasks in it, as one writes it after reading Prefect's documentation."""

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from benchmarks.drain import Drain
from benchmarks.job import Job
from benchmarks.lanes import in_lanes
from benchmarks.plain import PlainCalls, plain_calls
from benchmarks.stopwatch import Stopwatch
from benchmarks.warm_up import warm_up

AT_ONCE = 8
"""More at a time makes it no faster, and the server answer 503."""
TASKS = 4
_shared: list[PlainCalls] = []


@task(retries=3, retry_delay_seconds=[1, 2, 4], cache_policy=NO_CACHE)
async def update_registration(number: int) -> None:
    """Read and update the registration."""
    await _shared[0].send(_shared[0].calls.of_subject(number)[:2])


@task(retries=3, retry_delay_seconds=[1, 2, 4], cache_policy=NO_CACHE)
async def check_dispensation(number: int) -> None:
    """Read the dispensation and its history."""
    await _shared[0].send(_shared[0].calls.of_subject(number)[2:4])


@task(retries=3, retry_delay_seconds=[1, 2, 4], cache_policy=NO_CACHE)
async def register_device(number: int) -> None:
    """Register the device."""
    await _shared[0].send(_shared[0].calls.of_subject(number)[4:])


@task(retries=3, retry_delay_seconds=[1, 2, 4], cache_policy=NO_CACHE)
async def ensure_exception() -> None:
    """List and create the exception that all subjects share."""
    await _shared[0].ensure_exception()


@flow(name="benchmark-subject")
async def onboard(number: int) -> None:
    """Onboard one subject."""
    await update_registration(number)
    await check_dispensation(number)
    await register_device(number)
    await ensure_exception()


async def run(job: Job, watch: Stopwatch) -> None:
    """A flow run for each of the job's subjects, some at a time."""
    async with plain_calls(job.addresses) as calls:
        _shared[:] = [calls]
        drain = await Drain.before("benchmark-subject", TASKS * job.subjects)
        await warm_up()
        watch.begin()
        await in_lanes(job.numbers, AT_ONCE, onboard)
        watch.end()
        await drain.wait()
        watch.drained()
