"""Every boundary between a runner and the world, and a runner that dies, or meets other trouble, at the K-th.

A boundary is: before a ledger commit and after it, before a request is sent, and after its answer (or its lack) came back but
before any of our code has seen it. The ledger's store and the vendors' HTTP are the real ones; they only announce
what they are about to do.
"""

import os
import signal
import socket
import threading
from collections.abc import Callable
from enum import StrEnum
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from sqlalchemy import Connection

from onboarding.ledger.store import Store
from onboarding.vendors.transport import VendorHttp
from onboarding.vendors.wire import Answer

T = TypeVar("T")
NEVER: Final = 0


class Trouble(StrEnum):
    """What can happen to a runner at a boundary.

    ``kill``: SIGKILL. ``stop``: SIGSTOP, as if its machine were suspended. ``full``: its SQLite file cannot grow from now on.
    ``cut``: its connection to PostgreSQL breaks just before the COMMIT goes out, so that it cannot know what came of it.
    """

    KILL = "kill"
    STOP = "stop"
    FULL = "full"
    CUT = "cut"


class Boundaries:
    """Counts boundaries, reports each, and makes trouble at number ``at`` (``NEVER``: not at all).

    Args:
        at: from 1.
        trouble: what happens there; the last two only happen before a commit, else nothing does.
        report: a file descriptor that gets a line for each boundary, written before the trouble.
    """

    def __init__(self, at: int, trouble: Trouble, report: int) -> None:
        self._at = at
        self._trouble = trouble
        self._report = report
        self.passed = 0

    def reach(self, name: str, connection: Connection | None = None) -> None:
        """Pass a boundary, or meet the trouble there. ``connection``: what is about to be committed."""
        self.passed += 1
        os.write(self._report, f"{name}\n".encode())
        if self.passed != self._at:
            return
        if self._trouble is Trouble.KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        elif self._trouble is Trouble.STOP:
            # To this very thread: sent to the process, another one may take it while this one goes on for a while.
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
        elif connection is not None and self._trouble is Trouble.FULL:
            connection.exec_driver_sql("PRAGMA max_page_count = 1")  # as few as there are
        elif connection is not None:
            driver: Any = connection.connection.driver_connection
            with socket.socket(fileno=os.dup(driver.fileno())) as wire:
                wire.shutdown(socket.SHUT_RDWR)


class MortalStore(Store):
    """A store that tells of each commit. Reads have no boundary: nothing is different after them."""

    def __init__(self, url: str, boundaries: Boundaries) -> None:
        super().__init__(url)
        self._boundaries = boundaries

    def write(self, change: Callable[[Connection], T]) -> T:
        def about_to_commit(connection: Connection) -> T:
            result = change(connection)
            self._boundaries.reach("before commit", connection)
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
