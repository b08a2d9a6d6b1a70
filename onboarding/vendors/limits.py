"""How much a system is asked at a time: requests in flight, requests per second, the pauses it asks for, its silence.

A request gets a place before its deadline begins, so that a queue of our own never eats up the time of a request, and an
effect's intent is committed only for a request that may go out at once.
"""

import asyncio
import heapq
from dataclasses import dataclass
from enum import IntEnum
from time import monotonic
from typing import Final

from onboarding.clocks import boot_seconds
from onboarding.errors import Unavailable
from onboarding.explanations import explain
from onboarding.vendors.breaker import FIRST_PAUSE_S, LONGEST_PAUSE_S, OPENS_AFTER, Breaker
from onboarding.vendors.gate import VendorGate
from onboarding.vendors.wire import Deadline

AWAITED_PAUSE_S: Final = 10.0
"""Longest pause that a caller waits for here; for a longer one its case gives the lease back and becomes due later."""

_CATCH_UP_S: Final = 0.05  # a timer that fires late must not cost rate; so little is no burst either


class Urgency(IntEnum):
    """Who goes first in the queue. What ages while it waits (a dispensation that was seen) is not overtaken by new work."""

    EFFECT = 0
    SECOND_LOOK = 1
    LOOK = 2


@dataclass(frozen=True, slots=True)
class Limits:
    """What one process asks of one system at most.

    Attributes:
        in_flight: requests under way at a time.
        per_second: requests begun per second; None for no limit but ``in_flight``.
        failures: in a row, after which the system is taken for dead.
        first_pause_s: until the first probing call; doubled each time.
        longest_pause_s: between two probing calls.
    """

    in_flight: int = 32
    per_second: float | None = None
    failures: int = OPENS_AFTER
    first_pause_s: float = FIRST_PAUSE_S
    longest_pause_s: float = LONGEST_PAUSE_S


class Places:
    """The places of one system: so many at a time, begun so often; whoever is more urgent first, else in order."""

    def __init__(self, limits: Limits) -> None:
        self._free = limits.in_flight
        self._interval_s = 1.0 / limits.per_second if limits.per_second else 0.0
        self._next_at = 0.0
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None

    async def take(self, urgency: Urgency) -> bool:
        """Wait for a place, to be given back with ``give_back``. Returns whether there was something to wait for."""
        if not self._waiting and self._may_begin():
            self._begin()
            return False
        turn = asyncio.get_running_loop().create_future()
        self._count += 1
        heapq.heappush(self._waiting, (urgency, self._count, turn))
        self._serve()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back()
            raise
        return True

    def give_back(self) -> None:
        """The request is over."""
        self._free += 1
        if self._waiting:
            self._serve()

    def count_another(self) -> None:
        """One more request goes out from the same place."""
        self._next_at += self._interval_s

    def _may_begin(self) -> bool:
        return self._free > 0 and (self._interval_s == 0.0 or monotonic() >= self._next_at)

    def _begin(self) -> None:
        self._free -= 1
        if self._interval_s:
            self._next_at = max(self._next_at, monotonic() - _CATCH_UP_S) + self._interval_s

    def _serve(self) -> None:
        while self._waiting and self._free > 0:
            if self._waiting[0][2].done():  # its caller was cancelled
                heapq.heappop(self._waiting)
            elif self._may_begin():
                self._begin()
                heapq.heappop(self._waiting)[2].set_result(None)
            else:
                if self._timer is None or self._timer.cancelled() or self._timer.when() <= monotonic():
                    self._timer = asyncio.get_running_loop().call_at(self._next_at, self._serve)
                return


@dataclass(slots=True)
class Place:
    """The right to send one request, and the same once more after a 401; ``stamp`` is the breaker's."""

    stamp: int
    requests: int = 0


class Turn(Deadline):
    """The deadline of a request that has its place already; it begins when the place was got."""

    __slots__ = ("place",)

    def __init__(self, seconds: float, place: Place) -> None:
        super().__init__(seconds)
        self.place = place


class Pacing:
    """Whether, and when, a request to one system may be begun.

    Args:
        system: its name.
        gate: the pauses that all processes share.
        limits: of this process.
    """

    def __init__(self, system: str, gate: VendorGate, limits: Limits) -> None:
        self._system = system
        self._gate = gate
        self._places = Places(limits)
        self._paused_until = 0.0
        self.breaker = Breaker(limits.failures, limits.first_pause_s, limits.longest_pause_s)

    def closed_for_s(self) -> float:
        """Seconds for which nothing will be sent, as far as this process knows: a pause, or a system that looks dead."""
        return max(self.breaker.closed_for_s(), self._paused_until - boot_seconds(), 0.0)

    @property
    def is_open(self) -> bool:
        """Whether surely no pause is under way; else ``pause_s`` tells."""
        return self._gate.known_not_before(self._system) == 0.0

    async def pause_s(self) -> float:
        """Seconds that are left of the pause that the system asked for."""
        left_s = await self._gate.not_before(self._system)
        self._paused_until = boot_seconds() + left_s if left_s > 0 else 0.0
        return left_s

    async def take(self, urgency: Urgency) -> Place:
        """Wait for a place, to be given back with ``give_back``; a short pause is waited for too.

        Raises:
            Unavailable: a long pause is under way (``THROTTLED``), or the system looks dead (``VENDOR_DOWN``).
        """
        awaited_s = 0.0
        while True:
            self._refuse_if_down()
            if not self.is_open:
                awaited_s = await self._sit_out_pause(awaited_s)
            waited = await self._places.take(urgency)
            try:
                # All who waited wake up together, but only so many at a time come to this point.
                if not waited or await self.pause_s() <= 0.0:
                    self._refuse_if_down()
                    return Place(self.breaker.enter())
            except BaseException:
                self._places.give_back()
                raise
            self._places.give_back()

    def give_back(self, place: Place) -> None:
        """The request is over."""
        self.breaker.gave_up(place.stamp)  # no effect once the outcome was told
        self._places.give_back()

    def note_request(self, place: Place) -> None:
        """A request goes out from this place; a second one counts into the rate too."""
        place.requests += 1
        if place.requests > 1:
            self._places.count_another()

    async def _sit_out_pause(self, awaited_s: float) -> float:
        """Wait while the system asked for it, not longer than is worth it in all; how long that was so far."""
        while (pause_s := await self.pause_s()) > 0:
            if awaited_s + pause_s > AWAITED_PAUSE_S:
                raise self.throttled(pause_s)
            await asyncio.sleep(pause_s)
            awaited_s += pause_s
        return awaited_s

    def throttled(self, left_s: float) -> Unavailable:
        """The error for a request that is not sent since a pause is under way."""
        return Unavailable(self._system, "THROTTLED", explain("THROTTLED"), retry_after_s=left_s)

    def _refuse_if_down(self) -> None:
        left_s = self.breaker.closed_for_s()
        if left_s > 0:
            raise Unavailable(self._system, "VENDOR_DOWN", explain("VENDOR_DOWN"), retry_after_s=left_s)
