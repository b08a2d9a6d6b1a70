"""Waiting for something to become true, woken by whoever changes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Changes:
    """Lets coroutines of one event loop wait for a condition; a change nobody waits for costs next to nothing."""

    def __init__(self) -> None:
        self._waiters: set[asyncio.Future[None]] = set()

    def notify(self) -> None:
        """Wake all who wait, so that they look again."""
        if self._waiters:
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(None)
            self._waiters.clear()

    async def until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until the condition holds; False if the time ran out first."""
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    waiter = asyncio.get_running_loop().create_future()
                    self._waiters.add(waiter)
                    try:
                        await waiter
                    finally:
                        self._waiters.discard(waiter)
        except TimeoutError:
            return condition()
        return True
