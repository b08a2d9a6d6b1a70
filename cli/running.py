"""Running a command so that Ctrl-C and SIGTERM stop it in good order."""

import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final

_STOPPING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(work: Coroutine[Any, Any, int]) -> int:
    """Run to the end and give the exit status; a signal cancels the work, which gives its leases back first.

    Raises:
        KeyboardInterrupt: it was stopped by SIGINT or SIGTERM.
    """

    async def stoppable() -> int:
        # As Ctrl-C, which cancels the task once. (asyncio's own handler would cancel it again while Prefect, which takes
        # SIGTERM over for as long as a flow runs, has it unwinding already: the lease would not be given back.)
        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
        return await work

    # It is ignored in a script's background, where SIGTERM must stop it all the same.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return asyncio.run(stoppable())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    except BaseException as error:
        if type(error).__name__ == "TerminationSignal":  # Prefect's word for SIGTERM; not imported for its name
            raise KeyboardInterrupt from None
        raise


class _Stop:
    """The first signal that asks this process to end; it is kept back while something must not be divided."""

    def __init__(self) -> None:
        self.kept_back = False
        self.came = False

    def __call__(self, *_: object) -> None:
        for number in _STOPPING:
            signal.signal(number, signal.SIG_IGN)
        self.came = True
        if not self.kept_back:
            raise KeyboardInterrupt


_STOP: Final = _Stop()


def stop_once() -> None:
    """Let the first Ctrl-C, SIGTERM or closed terminal raise ``KeyboardInterrupt``, and none interrupt what it leads to.

    For commands that start processes and must end them: a second signal would leave some behind.
    """
    for number in _STOPPING:
        signal.signal(number, _STOP)


@contextmanager
def undivided() -> Iterator[None]:
    """Keep a signal back until the block is over: a process is started and known, or neither."""
    _STOP.kept_back = True
    try:
        yield
    finally:
        _STOP.kept_back = False
    if _STOP.came:
        raise KeyboardInterrupt
