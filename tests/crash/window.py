"""Measures the window between the last look at the lease and the write to the socket.

``python -m tests.crash.window`` sends real requests to the sandbox and prints the time from the moment at which the check has
been asked to the moment at which the socket is given the bytes. Nothing is asserted: it depends on the machine.
"""

import argparse
import asyncio
import os
import platform
import socket
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from aiohttp.connector import Connection

from onboarding.vendors.transport import VendorHttp
from onboarding.vendors.wire import Deadline, Wire
from vendor_sandbox import running_sandbox


class TimedSocket:
    """A socket that notes when it is given bytes, for whoever uses it at the time."""

    def __init__(self, plain: socket.socket) -> None:
        self._plain = plain
        self.given_at = 0

    def send(self, data: bytes) -> int:
        """Note the first moment, then send."""
        self.given_at = self.given_at or time.perf_counter_ns()
        return self._plain.send(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plain, name)


class TimedWire(Wire):
    """A wire that notes when its check was asked."""

    def __init__(self) -> None:
        super().__init__(Deadline(30), self._note)
        self.asked_at = 0
        self._timed: TimedSocket | None = None

    def _note(self) -> None:
        self.asked_at = time.perf_counter_ns()

    def hold(self, connection: Connection) -> None:
        super().hold(connection)
        transport: Any = connection.transport
        if not isinstance(transport._sock, TimedSocket):  # noqa: SLF001 - no public place shows the write itself
            transport._sock = TimedSocket(transport._sock)  # noqa: SLF001
        self._timed = transport._sock  # noqa: SLF001
        self._timed.given_at = 0

    @property
    def window_us(self) -> float:
        """The window, microseconds."""
        assert self._timed is not None
        return (self._timed.given_at - self.asked_at) / 1000


async def measure(count: int, at_once: int) -> list[float]:
    """So many requests with a body; their windows, microseconds."""
    windows: list[float] = []
    left = iter(range(count))
    body = {"participant": {"id": 2}, "ppid": "ASCI123", "registrationDate": "2014-04-21", "note": "x" * 300}
    with tempfile.TemporaryDirectory() as folder:
        async with running_sandbox(Path(folder) / "effects.jsonl") as sandbox, VendorHttp() as http:
            url = f"{sandbox.addresses['openspecimen_url']}/rest/ng/collection-protocol-registrations/1"

            async def lane() -> None:
                for _ in left:
                    wire = TimedWire()
                    await http.send("PUT", url, wire=wire, body=body)
                    windows.append(wire.window_us)

            await asyncio.gather(*(lane() for _ in range(at_once)))
    return windows


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--requests", type=int, default=5000)
    given = parser.parse_args()
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")  # noqa: T201
    for at_once in (1, 32):
        found = asyncio.run(measure(given.requests, at_once))
        cuts = statistics.quantiles(found, n=100)
        print(  # noqa: T201 - a program that prints figures
            f"{len(found)} requests, {at_once} at once: median {statistics.median(found):.0f} us, "
            f"p99 {cuts[98]:.0f} us, longest {max(found):.0f} us"
        )


if __name__ == "__main__":
    main()
