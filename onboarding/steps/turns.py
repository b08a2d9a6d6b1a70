"""Turns at something that one case at a time may do, among the cases of one process; the ledger keeps processes apart."""

import asyncio
from collections import deque


class Turns:
    """One turn for each key, handed on in the order of asking. Belongs to one event loop.

    Whoever has to wait is woken when the turn comes to it, or when waiting has become needless.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, deque[asyncio.Future[bool]]] = {}

    def take(self, key: str) -> bool:
        """Take the turn if nobody has it; give it back with ``hand_on``."""
        if key in self._waiting:
            return False
        self._waiting[key] = deque()
        return True

    async def wait(self, key: str, at_most_s: float) -> bool:
        """Wait for the turn that somebody has. Whether it is the caller's now; if not, it may be needless, or late."""
        if self.take(key):
            return True
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting[key].append(turn)
        try:
            async with asyncio.timeout(at_most_s):
                return await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled() and turn.result():
                self.hand_on(key)  # it came too late
            if isinstance(error, TimeoutError):
                return False
            raise

    def hand_on(self, key: str, *, needless: bool = False) -> None:
        """Give the turn to who waits the longest; or, if nobody needs it any more, wake all of them without it."""
        waiting = self._waiting[key]
        while waiting:
            turn = waiting.popleft()
            if turn.done():
                continue  # it waits no more
            turn.set_result(not needless)
            if not needless:
                return
        del self._waiting[key]
