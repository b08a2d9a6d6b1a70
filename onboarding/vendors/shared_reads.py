"""One read for all who need the same at the same time, kept while it is fresh enough for the next who asks."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Sized
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from onboarding.clocks import boot_seconds
from onboarding.errors import AnswerError, Unavailable
from onboarding.explanations import explain
from onboarding.vendors.tokens import again, look_at_exception

KEPT: Final = 4
"""Keys under which the last value is kept."""

LARGEST_KEPT: Final = 20_000
"""Entries of a value that is kept; a larger one serves those who waited for it."""

K = TypeVar("K", bound=Hashable)
V = TypeVar("V", bound=Sized)
Read = Callable[[K, float, Callable[[], None]], Awaitable[V]]
"""Reads what is under a key within so many seconds; calls its last argument right before each first byte of a request."""


@dataclass
class _Flight(Generic[V]):
    """A read on its way. The other side cannot have looked before ``sent_at`` (seconds since boot; None: not sent yet)."""

    task: "asyncio.Task[V | AnswerError]"
    sent_at: float | None = None


@dataclass
class _Shelf(Generic[V]):
    """What is known under one key: the last value, when it was asked for, what is on its way; older ones are no good."""

    value: V | None = None
    sent_at: float = 0.0
    flight: _Flight[V] | None = None
    stale_before: float = 0.0


class SharedReads(Generic[K, V]):
    """Reads that many callers share.

    Each caller says how fresh it must be: not begun before some moment. A read that is on its way serves whoever it is
    fresh enough for; for the others one more is made once it has landed, which serves all of them. A read runs in a task
    of its own, so that a caller that is cancelled takes nothing from the others. One that failed fails each caller with
    an error object of its own, and is not kept.

    Args:
        system: name of the system, for errors.
        read: makes the read, or raises an ``AnswerError``.
    """

    def __init__(self, system: str, read: Read[K, V]) -> None:
        self._system = system
        self._read = read
        self._shelves: OrderedDict[K, _Shelf[V]] = OrderedDict()

    async def get(self, key: K, *, since: float, timeout_s: float) -> V:
        """What is under the key, asked for not before ``since`` (seconds since boot; the present if it is later).

        Raises:
            AnswerError: the read failed.
        """
        since = min(since, boot_seconds())
        while True:
            shelf = self._shelf(key)
            since = max(since, shelf.stale_before)
            if shelf.value is not None and shelf.sent_at >= since:
                return shelf.value
            flight = shelf.flight = shelf.flight or self._start(shelf, key, timeout_s)
            serves = flight.sent_at is None or flight.sent_at >= since
            await asyncio.wait({flight.task})
            if not serves:
                continue
            value = self._landed(flight)
            if flight.sent_at is not None and flight.sent_at >= shelf.stale_before:
                return value

    def known(self, key: K, *, since: float) -> V | None:
        """What is known under the key, if it was asked for not before ``since`` (seconds since boot); nothing is read."""
        shelf = self._shelves.get(key)
        fresh = shelf is not None and shelf.sent_at >= max(since, shelf.stale_before)
        return shelf.value if shelf is not None and fresh else None

    def forget(self, key: K) -> None:
        """Something changed under the key: what was asked for until now is fresh enough for nobody."""
        shelf = self._shelf(key)
        shelf.value, shelf.stale_before = None, boot_seconds()

    async def aclose(self) -> None:
        """Stop what is on its way; whoever waits for it gets ``Unavailable``."""
        tasks = {shelf.flight.task for shelf in self._shelves.values() if shelf.flight is not None}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _landed(self, flight: _Flight[V]) -> V:
        if flight.task.cancelled():
            raise Unavailable(self._system, "CLIENT_CLOSED", explain("CLIENT_CLOSED"))
        outcome = flight.task.result()
        if isinstance(outcome, AnswerError):
            raise again(outcome)
        return outcome

    def _start(self, shelf: _Shelf[V], key: K, timeout_s: float) -> _Flight[V]:
        def sent() -> None:
            flight.sent_at = boot_seconds()

        async def fly() -> V | AnswerError:
            try:
                value = await self._read(key, timeout_s, sent)
            except AnswerError as error:
                return error
            finally:
                shelf.flight = None
            assert flight.sent_at is not None, "a read says when it is sent"
            if flight.sent_at >= shelf.stale_before and len(value) <= LARGEST_KEPT:
                shelf.value, shelf.sent_at = value, flight.sent_at
            return value

        flight: _Flight[V] = _Flight(asyncio.create_task(fly()))
        flight.task.add_done_callback(look_at_exception)
        return flight

    def _shelf(self, key: K) -> _Shelf[V]:
        """The key's shelf; of the others, those that were used longest ago are cleared."""
        shelf = self._shelves.setdefault(key, _Shelf())
        self._shelves.move_to_end(key)
        idle = [old for old, one in self._shelves.items() if one.flight is None and one is not shelf]
        for old in idle[: max(0, len(self._shelves) - KEPT)]:
            del self._shelves[old]
        return shelf
