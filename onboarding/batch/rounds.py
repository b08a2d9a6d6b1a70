"""Working a batch until only long waits are left: what is due now, what falls due shortly, what a killed runner held."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from time import monotonic
from typing import Final, TypeVar

from onboarding.batch.engine import Hands
from onboarding.clocks import utc_now
from onboarding.ledger import batch_progress, batches
from onboarding.ledger.states import CaseStatus
from onboarding.settings import Settings
from onboarding.workbench import Workbench

T = TypeVar("T")

_SETTLED: Final = (CaseStatus.DONE, CaseStatus.ATTENTION, CaseStatus.CANCELLED)
_SHORTEST_LOOK_S: Final = 0.2  # a case can fall due between the query for those that are and the one for when
_LONGEST_LOOK_S: Final = 5.0
_MORE_S: Final = 15.0


class Rest(StrEnum):
    """Why a batch is not worked any further now."""

    NOTHING_WAITS = "nothing waits"
    LONG_WAITS = "only long waits are left"
    VENDOR_LEFT_ALONE = "a vendor is left alone for a while"
    STOPPED = "it was stopped"


@dataclass(frozen=True)
class Left:
    """What is left of a batch that is not worked any further now; ``due_at``: when there is sense in going on, if ever."""

    why: Rest
    due_at: datetime | None = None


Round = Callable[[], Awaitable[float]]
"""Works everything that is due; gives the seconds for which a vendor is to be left alone, else 0."""


def patience_s(settings: Settings) -> float:
    """How long nothing may be settled before only long waits are left: a killed runner's lease, or a doubt's quiet time."""
    return max(settings.quiet_seconds, settings.lease_seconds) + _MORE_S


async def work_rounds(
    bench: Workbench,
    batch_id: str,
    work: Round,
    stop: asyncio.Event,
    *,
    waiting: Callable[[float], None] = lambda _seconds: None,
) -> Left:
    """Work what is due, wait for what falls due shortly, and again; ``waiting`` is told how many seconds come.

    It ends when nothing waits any more, or when nothing would be settled for ``patience_s``, so that a vendor that stays
    away, or a case that another runner keeps, holds nobody here for ever.
    """
    patience, settled, settled_at, look_s = patience_s(bench.settings), -1, monotonic(), _SHORTEST_LOOK_S
    while True:
        closed_s = await work()
        if stop.is_set():
            return Left(Rest.STOPPED)
        left_s = await _next_look_s(bench, batch_id)
        if left_s is None:
            return Left(Rest.NOTHING_WAITS)
        now_settled = await _settled(bench, batch_id)
        if now_settled != settled:
            settled, settled_at, look_s = now_settled, monotonic(), _SHORTEST_LOOK_S
        wait_s = max(left_s, closed_s, look_s)
        look_s = min(look_s * 2, _LONGEST_LOOK_S)  # a case that comes back at once, by a fault, must not keep us busy
        if monotonic() - settled_at + wait_s > patience:
            why = Rest.VENDOR_LEFT_ALONE if closed_s > 0 else Rest.LONG_WAITS
            return Left(why, utc_now() + timedelta(seconds=wait_s))
        waiting(wait_s)
        if await _stopped_within(stop, wait_s):
            return Left(Rest.STOPPED)


async def work_and_tell(
    hands: AbstractAsyncContextManager[Hands],
    work: Callable[[Hands], Awaitable[Left]],
    tell: Callable[[Left], Awaitable[T]],
) -> T:
    """Have hands work, and tell what is left: while they end; or, if the work was stopped, after they have.

    Whoever stops a batch soon kills what is left of it; until then leases have to be given back, and that comes first.
    """
    async with hands as given:
        left = await work(given)
        if left.why is not Rest.STOPPED:
            given.no_more()
            return await tell(left)
    return await tell(left)


async def _next_look_s(bench: Workbench, batch_id: str) -> float | None:
    logins, modes = bench.systems.login_digests, bench.settings.modes
    found: float | None = await bench.in_thread(
        lambda: batch_progress.next_look_s(bench.ledger, batch_id, logins=logins, modes=modes)
    )
    return found


async def _settled(bench: Workbench, batch_id: str) -> int:
    """How many cases are done or need a person: what tells a batch that gets on from one that waits."""
    counts = await bench.in_thread(batches.counts, bench.ledger, batch_id)
    return sum(counts.of(status) for status in _SETTLED)


async def _stopped_within(stop: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return False
    return True
