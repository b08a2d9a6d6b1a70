"""Runners that stop themselves (SIGSTOP) on the way to the socket: started with a JSON list of jobs on standard input.

It imports once, forks a runner for each job, prints a line of their pids, then ``[number, last word]`` as each one ends.
"""

import asyncio
import json
import os
import signal
import sys
import threading
from typing import Any, Final
from urllib.parse import urlsplit

from aiohttp.connector import Connection

from onboarding.errors import OnboardingError
from onboarding.settings import load_connections, load_settings
from onboarding.steps.case import work_case
from onboarding.steps.session import CaseSession
from onboarding.vendors.transport import VendorHttp
from onboarding.vendors.wire import Answer, Wire
from onboarding.workbench import open_workbench

POINTS: Final = ("sending", "connected", "about to check")


class StoppingWire(Wire):
    """Takes a wire's place and stops the process at one point."""

    def __init__(self, first: Wire, point: str, stops: list[str]) -> None:
        super().__init__(first.deadline, first._check, first.max_bytes)  # noqa: SLF001 - to stand in for it
        self._point = point
        self._stops = stops

    def pass_by(self, point: str) -> None:
        """Stop here if this is the point, once."""
        if point == self._point and not self._stops:
            self._stops.append(point)
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)

    def hold(self, connection: Connection) -> None:
        super().hold(connection)
        self.pass_by("connected")

    def clear_to_send(self) -> None:
        self.pass_by("about to check")
        super().clear_to_send()


class StoppingHttp(VendorHttp):
    """Vendors' HTTP that stops the process on the way of the first request with this method and last path segment."""

    def __init__(self, method: str, last: str, point: str) -> None:
        super().__init__()
        self._chosen = (method, last)
        self._point = point
        self._stops: list[str] = []

    async def send(self, method: str, url: str, *, wire: Wire, **options: Any) -> Answer:
        if (method, urlsplit(url).path.rsplit("/", 1)[-1]) != self._chosen:
            return await super().send(method, url, wire=wire, **options)
        stopping = StoppingWire(wire, self._point, self._stops)
        stopping.pass_by("sending")
        return await super().send(method, url, wire=stopping, **options)


async def work(job: dict[str, Any]) -> str:
    """Work the job's case; its ending, or the name of the error."""
    settings = load_settings(job["environment"])
    connections = load_connections(settings, job["environment"])
    http = StoppingHttp(job["method"], job["last"], job["point"])
    try:
        async with (
            open_workbench(settings, connections, actor="zombie", http=http) as bench,
            bench.session(job["case_id"]) as session,
        ):
            assert isinstance(session, CaseSession), session
            return (await work_case(session)).ending.value
    except OnboardingError as error:
        return type(error).__name__


def main() -> None:
    """Fork them all, wait for them all."""
    jobs = json.load(sys.stdin)
    assert threading.active_count() == 1, "a fork of a process with threads may hang"
    children = []
    for number, job in enumerate(jobs):
        pid = os.fork()
        if pid == 0:
            os.write(1, f"{json.dumps([number, asyncio.run(work(job))])}\n".encode())
            os._exit(0)
        children.append(pid)
    os.write(1, f"{json.dumps(children)}\n".encode())
    for pid in children:
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
