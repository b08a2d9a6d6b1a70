"""Stopping in good order: the first signal lets what is under way end, a second one, or too long a wait, cuts it off."""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

GRACE_S: Final = 5.0
"""How long cases that were begun may go on after the first signal; whoever stops containers often waits for ten."""

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stopping(stop: asyncio.Event, said: Callable[[], None] = lambda: None) -> Iterator[None]:
    """For the block, SIGINT and SIGTERM set ``stop``; work that goes on too long after that is cancelled, and ends here.

    Cancelled work has given its leases back. A cancellation that comes from elsewhere goes on its way. Only the main thread
    can listen to signals; in any other the block just runs.

    Args:
        stop: asks the work to begin nothing more; set by the first signal.
        said: called at the first signal.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop, work = asyncio.get_running_loop(), asyncio.current_task()
    assert work is not None, "signals stop a task"
    cut: list[asyncio.TimerHandle] = []
    cancelled = False

    def cancel() -> None:
        nonlocal cancelled
        if not cancelled:
            cancelled = True
            work.cancel()

    def on_signal() -> None:
        if stop.is_set():
            cancel()
            return
        stop.set()
        cut.append(loop.call_later(GRACE_S, cancel))
        said()

    # Not the loop's own handlers: those cannot be put back as they were, and Prefect has some of its own in place.
    def handler(*_: Any) -> None:
        loop.call_soon_threadsafe(on_signal)

    before = {number: signal.signal(number, handler) for number in _SIGNALS}
    try:
        yield
    except asyncio.CancelledError:
        if not cancelled or work.uncancel() > 0:
            raise
    finally:
        for timer in cut:
            timer.cancel()
        for number, old in before.items():
            signal.signal(number, old)
