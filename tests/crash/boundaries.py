"""Every boundary between a runner and the world, and a runner that kills itself at the K-th.

A boundary is: before a ledger commit and after it, before a request is sent, and after its answer (or its lack) came back but
before any of our code has seen it. The ledger's store and the vendors' HTTP are the real ones; they only announce
what they are about to do.
"""

import os
import signal
from collections.abc import Callable
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from sqlalchemy import Connection

from onboarding.ledger.store import Store
from onboarding.vendors.transport import VendorHttp
from onboarding.vendors.wire import Answer

T = TypeVar("T")
NEVER: Final = 0


class Boundaries:
    """Counts boundaries, reports each, and kills this process with SIGKILL at number ``kill_at`` (``NEVER``: not at all).

    Args:
        kill_at: from 1.
        report: a file descriptor that gets a line for each boundary, written before the kill.
    """

    def __init__(self, kill_at: int, report: int) -> None:
        self._kill_at = kill_at
        self._report = report
        self.passed = 0

    def reach(self, name: str) -> None:
        """Pass a boundary, or die at it."""
        self.passed += 1
        os.write(self._report, f"{name}\n".encode())
        if self.passed == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


class MortalStore(Store):
    """A store that tells of each commit. Reads have no boundary: nothing is different after them."""

    def __init__(self, url: str, boundaries: Boundaries) -> None:
        super().__init__(url)
        self._boundaries = boundaries

    def write(self, change: Callable[[Connection], T]) -> T:
        def about_to_commit(connection: Connection) -> T:
            result = change(connection)
            self._boundaries.reach("before commit")
            return result

        result = super().write(about_to_commit)
        self._boundaries.reach("after commit")
        return result


class MortalHttp(VendorHttp):
    """Vendors' HTTP that tells of each request."""

    def __init__(self, boundaries: Boundaries) -> None:
        super().__init__()
        self._boundaries = boundaries

    async def send(self, method: str, url: str, **options: Any) -> Answer:
        last = urlsplit(url).path.rsplit("/", 1)[-1]
        call = f"{method} {'registration' if last.isdecimal() else last}"
        self._boundaries.reach(f"before {call}")
        try:
            return await super().send(method, url, **options)
        finally:
            self._boundaries.reach(f"after {call}")
