"""Running a command's coroutine so that Ctrl-C and SIGTERM stop it in good order."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any


def run(work: Coroutine[Any, Any, int]) -> int:
    """Run to the end and give the exit status; a signal cancels the work, which gives its leases back first.

    Raises:
        KeyboardInterrupt: it was stopped by SIGINT or SIGTERM.
    """

    async def stoppable() -> int:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await work

    try:
        return asyncio.run(stoppable())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
