"""One contender's process: ``python -m benchmarks.worker FILE``. Started by ``benchmarks.rounds``."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from importlib import import_module
from pathlib import Path

from benchmarks.job import Job
from benchmarks.stopwatch import Stopwatch
from benchmarks.table import CONTENDERS, LARGE


def main() -> int:
    """Do the job."""
    job = Job.load(Path(sys.argv[1]))
    (contender,) = (one for one in (*CONTENDERS, LARGE) if one.name == job.contender)
    run: Callable[[Job, Stopwatch], Awaitable[None]] = import_module(f"benchmarks.contenders.{contender.module}").run
    watch = Stopwatch(Path(job.profile) if job.profile else None)
    asyncio.run(_run(run(job, watch)))
    watch.tell()
    return 0


async def _run(work: Awaitable[None]) -> None:
    await work


if __name__ == "__main__":
    sys.exit(main())
