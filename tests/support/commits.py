"""Counting the commits of this process."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine, event


@contextmanager
def commits(told: threading.Event | None = None) -> Iterator[list[None]]:
    """Counts commits, of whatever database."""
    seen: list[None] = []

    def count(_connection: object) -> None:
        seen.append(None)
        if told is not None:
            told.set()

    event.listen(Engine, "commit", count)
    try:
        yield seen
    finally:
        event.remove(Engine, "commit", count)
