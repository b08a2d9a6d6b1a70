"""A process that imports everything once and forks a runner for each job, so that one killed run costs milliseconds.

It opens nothing before it forks: no thread, no database, no socket. Jobs come as JSON lines on standard input, what became of
them goes as JSON lines to standard output: ``{"job": n, "pid": ...}``, ``{"job": n, "began": true}`` at its first boundary, and
``{"job": n, "status": ..., "boundaries": [...], "said": ...}``. ``status`` is negative for a signal, as in ``subprocess``.
"""

import asyncio
import json
import os
import selectors
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from onboarding.errors import OnboardingError
from onboarding.keys import LedgerKey
from onboarding.ledger.leasing import Closed
from onboarding.ledger.ledger import Ledger
from onboarding.ledger.states import CaseStatus
from onboarding.ledger.views import Held
from onboarding.settings import load_connections, load_settings
from onboarding.steps.case import work_case
from onboarding.workbench import Workbench, open_workbench
from tests.crash.boundaries import Boundaries, MortalHttp, MortalStore, Trouble

_LOOK_S: Final = 0.1


@dataclass(frozen=True)
class Job:
    """One runner's life.

    Attributes:
        job: its number.
        environment: its settings.
        case_id: the case to work once; None takes whatever is due, as ``onboard resume --all --watch`` does, until no case
            is left that could become due.
        width: how many due cases it works at a time; with more than one, their writes share transactions.
        at: the boundary at which there is trouble, 0 for none.
        trouble: which, see ``Trouble``.
    """

    job: int
    environment: Mapping[str, str]
    case_id: str | None = None
    width: int = 1
    at: int = 0
    trouble: str = Trouble.KILL


async def live(job: Job, report: int) -> str:
    """Be a runner: open, work, close. Returns the last ending."""
    settings = load_settings(job.environment)
    boundaries = Boundaries(job.at, Trouble(job.trouble), report)
    assert settings.ledger_key is not None
    key = LedgerKey.from_text(settings.ledger_key.get_secret_value())
    ledger = Ledger(MortalStore(settings.ledger_url, boundaries), key)
    connections = load_connections(settings, job.environment)
    async with open_workbench(
        settings, connections, actor=f"runner {job.job}", ledger=ledger, http=MortalHttp(boundaries)
    ) as bench:
        return await (_work(bench, job.case_id) if job.case_id is not None else _watch(bench, job.width))


async def _work(bench: Workbench, case_id: str) -> str:
    async with bench.session(case_id) as session:
        if isinstance(session, Held | Closed):
            return type(session).__name__
        return (await work_case(session)).ending.value


async def _watch(bench: Workbench, width: int) -> str:
    last = "Idle"
    while True:
        due = await bench.find_due(10)
        for first in range(0, len(due), width):
            last = (await asyncio.gather(*(_try(bench, case_id) for case_id in due[first : first + width])))[-1]
        if not due and not await bench.in_thread(lambda: bench.ledger.cases(statuses=[CaseStatus.READY], limit=1)):
            return last
        await asyncio.sleep(_LOOK_S)


async def _try(bench: Workbench, case_id: str) -> str:
    try:
        return await _work(bench, case_id)
    except OnboardingError as error:  # one case's end is not the runner's
        return type(error).__name__


def be_runner(job: Job, report: int) -> None:
    """The forked child's whole life; never returns."""
    status = 1
    try:
        said = asyncio.run(live(job, report))
        os.write(report, f"={said}\n".encode())
        status = 0
    except OnboardingError as error:
        os.write(report, f"={type(error).__name__}\n".encode())
    except BaseException:  # noqa: BLE001 - it must be seen, and the child must end here
        os.write(report, f"={json.dumps(traceback.format_exc())}\n".encode())
    finally:
        os._exit(status)


@dataclass
class Child:
    """A living runner and what it reported so far."""

    job: int
    pid: int
    received: bytearray = field(default_factory=bytearray)

    def outcome(self) -> dict[str, Any]:
        """What became of it; waits for its end."""
        _, status = os.waitpid(self.pid, 0)
        lines = self.received.decode().splitlines()
        said = [line[1:] for line in lines if line.startswith("=")]
        return {
            "job": self.job,
            "status": os.waitstatus_to_exitcode(status),
            "boundaries": [line for line in lines if not line.startswith("=")],
            "said": said[-1] if said else None,
        }


def say(**line: Any) -> None:
    """One line to whoever gave the job."""
    os.write(1, (json.dumps(line) + "\n").encode())


class ForkServer:
    """Forks children and gathers what they report. Ends, with its children, when its standard input does."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._selector.register(0, selectors.EVENT_READ)
        self._pending = bytearray()
        self._children: dict[int, Child] = {}

    def serve(self) -> None:
        """Take jobs until there are no more."""
        assert threading.active_count() == 1, "a fork of a process with threads may hang"
        say(ready=True)
        while True:
            for key, _ in self._selector.select():
                if key.fd != 0:
                    self._hear(key.fd)
                elif not self._take_jobs():
                    for child in self._children.values():
                        os.kill(child.pid, signal.SIGKILL)
                    return

    def _take_jobs(self) -> bool:
        data = os.read(0, 65536)
        self._pending += data
        *lines, rest = bytes(self._pending).split(b"\n")
        self._pending = bytearray(rest)
        for line in lines:
            self._fork(Job(**json.loads(line)))
        return bool(data)

    def _fork(self, job: Job) -> None:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(0)  # the others' pipes are left open: they only read them
            be_runner(job, writer)
        os.close(writer)
        self._children[reader] = Child(job.job, pid)
        self._selector.register(reader, selectors.EVENT_READ)
        say(job=job.job, pid=pid)

    def _hear(self, reader: int) -> None:
        data = os.read(reader, 65536)
        child = self._children[reader]
        if data:
            if not child.received:
                say(job=child.job, began=True)
            child.received += data
            return
        self._selector.unregister(reader)
        os.close(reader)
        del self._children[reader]
        say(**child.outcome())


if __name__ == "__main__":
    sys.stdout.flush()
    ForkServer().serve()
