"""Waiting for something to become true, woken by whoever changes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Changes:
    """Lets coroutines of one event loop wait for a condition; a change nobody waits for costs next to nothing."""

    def __init__(self) -> None:
        self._waiters: set[asyncio.Future[None]] = set()
        self._pausing: set[asyncio.Future[None]] = set()
        self._closed = False

    def close(self) -> None:
        """End all waiting, now and later: the sandbox stops."""
        self._closed = True
        self.notify()
        for pause in self._pausing:
            _wake(pause)

    async def pause(self, seconds: float) -> None:
        """Sleep, unless the sandbox stops first. Every request comes by here, so it is one timer and nothing more."""
        if self._closed:
            return
        loop = asyncio.get_running_loop()
        pause = loop.create_future()
        timer = loop.call_later(seconds, _wake, pause)
        self._pausing.add(pause)
        try:
            await pause
        finally:
            self._pausing.discard(pause)
            timer.cancel()

    def notify(self) -> None:
        """Wake all who wait, so that they look again."""
        if self._waiters:
            for waiter in self._waiters:
                _wake(waiter)
            self._waiters.clear()

    async def until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until the condition holds; False if the time ran out first."""
        try:
            async with asyncio.timeout(timeout_s):
                while not condition() and not self._closed:
                    waiter = asyncio.get_running_loop().create_future()
                    self._waiters.add(waiter)
                    try:
                        await waiter
                    finally:
                        self._waiters.discard(waiter)
        except TimeoutError:
            pass
        return condition()


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
