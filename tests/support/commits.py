"""Counting the commits of this process, but for those of what only looked."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, event


@contextmanager
def commits(told: threading.Event | None = None) -> Iterator[list[None]]:
    """Counts commits of ledgers' writes, of whatever database."""
    seen: list[None] = []

    def count(connection: Connection) -> None:
        if not connection.get_execution_options().get("onboarding_writes", False):
            return
        seen.append(None)
        if told is not None:
            told.set()

    event.listen(Engine, "commit", count)
    try:
        yield seen
    finally:
        event.remove(Engine, "commit", count)
