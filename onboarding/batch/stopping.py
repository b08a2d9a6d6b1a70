"""Stopping in good order: the first signal lets what is under way end, a second one, or too long a wait, cuts it off."""

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

T = TypeVar("T")
GRACE_S: Final = 5.0
"""How long cases that were begun may go on after the first signal; whoever stops containers often waits for ten."""

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


async def until_stopped(work: Awaitable[T], stop: asyncio.Event, said: Callable[[], None] = lambda: None) -> T | None:
    """Await ``work``, while SIGINT and SIGTERM set ``stop``; work that goes on too long after that is cancelled.

    Only the main thread can listen to signals; in any other the work just runs. A cancellation that comes from elsewhere
    goes on its way.

    Args:
        work: begins nothing more once ``stop`` is set, and gives its leases back when it is cancelled.
        stop: set by the first signal.
        said: called at the first signal.

    Returns:
        What the work gave; None if it was cut off.
    """
    if threading.current_thread() is not threading.main_thread():
        return await work
    cut = _Cut(stop, said)
    # Not the loop's own handlers: those cannot be put back as they were, and Prefect has some of its own in place.
    before = {number: signal.signal(number, cut.on_signal) for number in _SIGNALS}
    try:
        return await work
    except asyncio.CancelledError:
        if not cut.is_ours():
            raise
        return None
    finally:
        cut.over()
        for number, old in before.items():
            signal.signal(number, old)


class _Cut:
    """Cancels the task that is under way, once, some time after the first signal or at the second."""

    def __init__(self, stop: asyncio.Event, said: Callable[[], None]) -> None:
        self._loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None, "signals stop a task"
        self._task = task
        self._stop = stop
        self._said = said
        self._timer: asyncio.TimerHandle | None = None
        self._cancelled = False

    def on_signal(self, *_: Any) -> None:
        """Wake the loop, which a signal alone does not."""
        self._loop.call_soon_threadsafe(self._ask)

    def is_ours(self) -> bool:
        """Whether it was this that cancelled the task, and nothing else."""
        return self._cancelled and self._task.uncancel() == 0

    def over(self) -> None:
        """The work has ended."""
        if self._timer is not None:
            self._timer.cancel()

    def _ask(self) -> None:
        if self._stop.is_set():
            self._cancel()
            return
        self._stop.set()
        self._timer = self._loop.call_later(GRACE_S, self._cancel)
        self._said()

    def _cancel(self) -> None:
        if not self._cancelled:
            self._cancelled = True
            self._task.cancel()
