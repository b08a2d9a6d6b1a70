"""SQLite's one write lock, shared fairly between processes.

SQLite lets whoever waits for it sleep and try again, longer and longer, so a process that writes one transaction after another
keeps all others away for seconds. Here whoever waits tries again soon and says so, by a shared lock on a file beside the
database; and whoever has just written looks at that file and steps back for a moment. All of this is courtesy: what
keeps transactions apart is SQLite's lock, and no process waits for another one's lock on that file.
"""

import fcntl
import os
import sqlite3
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

_POLL_S: Final = 0.001
_STEP_BACK_S: Final = 0.002  # longer than a poll, so that who waits is surely next


class WriteTurns:
    """Belongs to one database file. Threads may share it."""

    def __init__(self, database: Path, busy_seconds: float) -> None:
        self._file = f"{database}-waiting"
        self._busy_seconds = busy_seconds
        self._opening = threading.Lock()
        self._descriptor: int | None = None
        self._waiting: set[int] = set()  # threads of this process

    def begin(self, connection: Any) -> None:
        """Begin a write transaction on a connection of ``sqlite3``; raises its ``OperationalError`` if that takes too long."""
        self._once_free(connection, "BEGIN IMMEDIATE")

    def begin_at_once(self, connection: Any) -> bool:
        """As ``begin``, if nobody is in the way; whether it did."""
        connection.execute("PRAGMA busy_timeout=0")
        try:
            return _done(connection, "BEGIN IMMEDIATE", last=False)
        finally:
            self._wait_as_usual(connection)

    def prepare(self, connection: Any) -> None:
        """Let a connection keep a write-ahead log; for that change SQLite itself waits for nobody."""
        self._once_free(connection, "PRAGMA journal_mode=WAL")

    def step_back(self) -> None:
        """Let a process go first that waits, if one does. Raises nothing: what was written stands."""
        # The lock tells of other processes alone: all threads of one share it.
        if self._waiting or self._lock(fcntl.LOCK_EX | fcntl.LOCK_NB) is None:
            time.sleep(_STEP_BACK_S)
        else:
            self._lock(fcntl.LOCK_UN)

    def close(self) -> None:
        """Give the file back."""
        with self._opening:
            descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _once_free(self, connection: Any, statement: str) -> None:
        gives_up_at, waited = time.monotonic() + self._busy_seconds, False
        connection.execute("PRAGMA busy_timeout=0")
        try:
            while not _done(connection, statement, last=time.monotonic() >= gives_up_at):
                self._waiting.add(threading.get_ident())
                self._lock(fcntl.LOCK_SH | fcntl.LOCK_NB)
                waited = True
                time.sleep(_POLL_S)
        finally:
            self._wait_as_usual(connection)
            if waited:
                self._waiting.discard(threading.get_ident())
                self._lock(fcntl.LOCK_UN)

    def _wait_as_usual(self, connection: Any) -> None:
        connection.execute(f"PRAGMA busy_timeout={int(self._busy_seconds * 1000)}")

    def _lock(self, how: int) -> bool | None:
        """Lock or unlock the file: whether that could be done at all, or None if somebody else's lock is in the way."""
        descriptor = self._opened()
        try:
            if descriptor is not None:
                fcntl.flock(descriptor, how)
        except BlockingIOError:
            return None
        except OSError:  # a file system without such locks, say: then nobody is courteous
            return False
        return descriptor is not None

    def _opened(self) -> int | None:
        with self._opening:
            if self._descriptor is None:
                with suppress(OSError):  # a full disk, say: then nobody is courteous
                    self._descriptor = os.open(self._file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            return self._descriptor


def _done(connection: Any, statement: str, *, last: bool) -> bool:
    try:
        connection.execute(statement)
    except sqlite3.OperationalError as error:
        # The code may be an extended one, such as that of a log that another connection recovers after a crash.
        if last or error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise
        return False
    return True
