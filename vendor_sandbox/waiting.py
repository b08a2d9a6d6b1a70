"""Waiting for something to become true, woken by whoever changes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress


class Changes:
    """Lets coroutines of one event loop wait for a condition; a change nobody waits for costs next to nothing."""

    def __init__(self) -> None:
        self._waiters: set[asyncio.Future[None]] = set()
        self._closed = asyncio.Event()

    def close(self) -> None:
        """End all waiting, now and later: the sandbox stops."""
        self._closed.set()
        self.notify()

    async def pause(self, seconds: float) -> None:
        """Sleep, unless the sandbox stops first."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closed.wait()

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
                while not condition() and not self._closed.is_set():
                    waiter = asyncio.get_running_loop().create_future()
                    self._waiters.add(waiter)
                    try:
                        await waiter
                    finally:
                        self._waiters.discard(waiter)
        except TimeoutError:
            pass
        return condition()
