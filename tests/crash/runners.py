"""Runners as processes: starts them through the fork server, and tells what became of each."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from signal import SIGCONT, SIGKILL
from typing import Any, Final

from tests.crash.boundaries import Trouble
from tests.crash.fork_server import Job
from tests.steps.lab import Lab

ROOT: Final = Path(__file__).parents[2]


@dataclass(frozen=True)
class Outcome:
    """What became of a runner: its exit status (negative for a signal), the boundaries it passed, its last words."""

    status: int
    boundaries: list[str]
    said: str | None

    @property
    def killed(self) -> bool:
        """Whether it died of SIGKILL."""
        return self.status == -SIGKILL

    def check(self) -> "Outcome":
        """Fail the test if it ended in a way that no runner should: a fault of the program."""
        assert self.killed or (self.status, (self.said or "x").startswith('"')) == (0, False), self.said
        return self


class Running:
    """A runner that lives, or has lived; its actor in the trail is ``runner <number>``."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.pid: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._began = asyncio.Event()

    async def began(self) -> None:
        """Wait until it has reached its first boundary, or is over."""
        await self._began.wait()

    def tell(self, **said: Any) -> None:
        """What the fork server says of it."""
        if "pid" in said:
            self.pid.set_result(said["pid"])
            return
        self._began.set()
        if "began" not in said:
            self.outcome.set_result(Outcome(**said))

    async def kill(self) -> None:
        """SIGKILL, now, wherever it is; nothing if it has just ended."""
        with suppress(ProcessLookupError):
            os.kill(await self.pid, SIGKILL)

    async def stopped(self) -> bool:
        """Wait until it has been stopped (True), or is over (False)."""
        stat = Path(f"/proc/{await self.pid}/stat")
        while not self.outcome.done():
            with suppress(FileNotFoundError, ProcessLookupError):  # it is just ending
                if _state(stat) == "T":
                    return True
            await asyncio.sleep(0.01)  # nobody is told of a grandchild's stop
        return False

    async def go_on(self) -> Outcome:
        """SIGCONT; what becomes of it then."""
        os.kill(await self.pid, SIGCONT)
        return await self.outcome


def _state(stat: Path) -> str:
    """A process's state, as ``/proc/<pid>/stat`` tells it."""
    return stat.read_text().rpartition(")")[2].split()[0]


class Runners:
    """The fork server's client. Build it with ``running_runners``."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._jobs: dict[int, Running] = {}
        self._count = 0

    def start(
        self,
        lab: Lab,
        case_id: str | None = None,
        *,
        width: int = 1,
        at: int = 0,
        trouble: Trouble = Trouble.KILL,
        environment: Mapping[str, str] | None = None,
    ) -> Running:
        """Fork a runner for the laboratory's ledger and sandbox, or with other settings; see ``Job``."""
        self._count += 1
        running = self._jobs[self._count] = Running(self._count)
        assert self._process.stdin is not None
        job = asdict(Job(self._count, environment or lab.environment, case_id, width, at, trouble))
        self._process.stdin.write(json.dumps(job).encode() + b"\n")
        return running

    async def run(self, lab: Lab, case_id: str | None = None, *, at: int = 0) -> Outcome:
        """Start a runner and wait for its end."""
        return (await self.start(lab, case_id, at=at).outcome).check()

    async def listen(self) -> None:
        """Hand out what the fork server says, until it ends."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            said: dict[str, Any] = json.loads(line)
            running = self._jobs.get(said.pop("job", 0))
            if running is not None:
                running.tell(**said)


@asynccontextmanager
async def running_runners() -> AsyncIterator[Runners]:
    """A fork server; it and its children are gone at the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.crash.fork_server",
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=16 * 1024 * 1024,
    )
    assert process.stdin is not None
    runners = Runners(process)
    listener = asyncio.create_task(runners.listen())
    try:
        yield runners
    finally:
        process.stdin.close()
        await process.wait()
        await listener
