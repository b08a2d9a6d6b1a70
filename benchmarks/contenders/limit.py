"""The limit: the calls over this project's HTTP stack, nothing stored, many at a time."""

from benchmarks.job import Job
from benchmarks.lanes import in_lanes
from benchmarks.stack import opened_stack
from benchmarks.stopwatch import Stopwatch
from benchmarks.subjects import request_of
from onboarding.batch.child import seldom_collecting


async def run(job: Job, watch: Stopwatch) -> None:
    """Onboard the job's subjects."""
    requests = [request_of(number) for number in job.numbers]
    async with opened_stack(job.addresses) as stack:
        with seldom_collecting():  # as the processes of a batch do
            watch.begin()
            await in_lanes(requests, job.at_once, stack.onboard)
            watch.end()
