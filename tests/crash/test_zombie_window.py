"""The one window that cannot be closed, between the last look at the lease and the socket: everything before it is closed.

How wide it is, ``python -m tests.crash.window`` measures. Here runners stop themselves on the way to the socket: when a request
is handed over, when it has its connection, and right before the lease is looked at; each comes back after its lease.
"""

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

from onboarding.ledger.states import CaseStatus
from tests.crash.auditor import audit
from tests.crash.points import judged, quick_folder, settle
from tests.crash.runners import ROOT
from tests.crash.stopping_runner import POINTS
from tests.crash.subjects import alone
from tests.steps.lab import Lab, laboratory
from vendor_sandbox import seed as seeds

UNHURRIED: Final[dict[str, Any]] = {"lease_seconds": 4, "request_timeout_seconds": 2.5, "settle_seconds": 0.3}
CALLS: Final = ("update_registration", "register_device", "create_exception")


def chosen(call: str, number: int) -> tuple[str, str]:
    """Method and last path segment of a subject's request."""
    registration = str(seeds.SeededSubject(number).registration_id)
    return {
        "update_registration": ("PUT", registration),
        "register_device": ("POST", "register-device"),
        "create_exception": ("POST", "dndexception"),
    }[call]


def is_stopped(pid: int) -> bool:
    """Whether a process has been stopped and not gone on, or is over."""
    return Path(f"/proc/{pid}/stat").read_text("ascii", errors="replace").rpartition(")")[2].split()[0] in "TZ"


class Zombies:
    """Runners that have stopped themselves, and the process that started them."""

    def __init__(self, parent: asyncio.subprocess.Process, pids: list[int]) -> None:
        self._parent = parent
        self._pids = pids

    async def all_stopped(self) -> None:
        """Wait until every one has stopped."""
        running = set(self._pids)
        while running:
            await asyncio.sleep(0.01)  # nobody is told of a grandchild's stop
            running = {pid for pid in running if not is_stopped(pid)}

    async def go_on(self) -> list[str]:
        """Let them all go on to their ends; their last words."""
        assert self._parent.stdout is not None
        for pid in self._pids:
            os.kill(pid, signal.SIGCONT)
        said = dict([json.loads(await self._parent.stdout.readline()) for _ in self._pids])
        return [said[number] for number in range(len(self._pids))]


@asynccontextmanager
async def zombies(jobs: list[dict[str, Any]]) -> AsyncIterator[Zombies]:
    """A runner for each job; none is left at the end."""
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.crash.stopping_runner",
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    parent.stdin.write(json.dumps(jobs).encode())
    parent.stdin.close()
    pids = json.loads(await parent.stdout.readline())
    try:
        yield Zombies(parent, pids)
    finally:
        if parent.returncode is None:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        await parent.wait()


def sent(lab: Lab) -> Counter[str]:
    """How often each request with an effect has arrived."""
    return Counter({call: len(lab.calls(call)) for call in CALLS})


async def test_a_runner_stopped_anywhere_before_it_looks_at_its_lease_sends_nothing_after_it() -> None:
    with quick_folder() as folder:
        async with laboratory(folder, world=seeds.many(20), **UNHURRIED) as lab:
            jobs = []
            for number, (call, point) in enumerate([(call, point) for call in CALLS for point in POINTS], start=1):
                method, last = chosen(call, number)
                case_id = await lab.open(alone(number))
                job = {"case_id": case_id, "method": method, "last": last, "point": point}
                jobs.append({**job, "environment": lab.environment})
            async with zombies(jobs) as stopped:
                await stopped.all_stopped()
                await settle(lab)  # others take all of them over and end them
                assert {case.status for case in lab.bench.ledger.cases()} == {CaseStatus.DONE}
                before = sent(lab)
                assert await stopped.go_on() == ["LeaseLost"] * len(jobs)
                assert sent(lab) == before
            assert audit(await judged(lab)) == []
