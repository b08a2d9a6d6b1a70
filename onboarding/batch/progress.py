"""How far a batch is, as the ledger knows it, whoever works on it: for screens, lines and artifacts."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from time import monotonic
from typing import Final

from onboarding.ledger import batch_progress, batches
from onboarding.ledger.ledger import Ledger
from onboarding.ledger.states import CaseStatus, StepName, StepStatus
from onboarding.ledger.store import StoreUnavailable

_SHARE_OF_TIME: Final = 20
"""Looking takes one part in so many of the time, however large the batch."""
_WINDOW_S: Final = 20.0


@dataclass(frozen=True)
class StepProgress:
    """So many cases ask for a step, and so many have it done."""

    asked: int = 0
    done: int = 0


@dataclass(frozen=True)
class Progress:
    """How many cases of a batch stand where. ``untouched`` were not worked yet; ``waiting`` were, and wait.

    ``steps`` is empty if those were not looked at.
    """

    done: int
    untouched: int
    waiting: int
    attention: int
    cancelled: int
    steps: Mapping[StepName, StepProgress]

    @property
    def cases(self) -> int:
        """All of them."""
        return self.done + self.untouched + self.waiting + self.attention + self.cancelled

    @property
    def worked(self) -> int:
        """Those that were worked, however that ended."""
        return self.cases - self.untouched

    def __str__(self) -> str:
        return f"{self.done} of {self.cases} done, {self.waiting} waiting, {self.attention} need attention"


def look(ledger: Ledger, batch_id: str, *, steps: bool = True) -> Progress:
    """How far the batch is now. It blocks, for a time that grows with the batch, and is less than half without ``steps``."""
    counts = batches.counts(ledger, batch_id)
    waiting = sum(n for (status, reason), n in counts.cases.items() if status is CaseStatus.READY and reason)
    return Progress(
        done=counts.of(CaseStatus.DONE),
        untouched=counts.of(CaseStatus.READY) - waiting,
        waiting=waiting,
        attention=counts.of(CaseStatus.ATTENTION),
        cancelled=counts.of(CaseStatus.CANCELLED),
        steps=_steps(ledger, batch_id) if steps else {},
    )


def _steps(ledger: Ledger, batch_id: str) -> Mapping[StepName, StepProgress]:
    asked: Counter[StepName] = Counter()
    done: Counter[StepName] = Counter()
    for found in batch_progress.step_counts(ledger, batch_id):
        asked[found.step] += found.number if found.status is not StepStatus.NOT_REQUESTED else 0
        done[found.step] += found.number if found.status is StepStatus.DONE else 0
    return {step: StepProgress(asked[step], done[step]) for step in StepName}


class Pace:
    """How many cases get done a second, over the last while, and how long the rest takes at that."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque()

    def add(self, progress: Progress) -> None:
        """Note how far it is now."""
        now = self._clock()
        self._seen.append((now, progress.done))
        while len(self._seen) > 2 and now - self._seen[0][0] > _WINDOW_S:  # of a large batch, looks are far apart
            self._seen.popleft()

    @property
    def per_second(self) -> float:
        """Cases done a second; 0 if that is not known."""
        (begun, first), (now, last) = self._seen[0], self._seen[-1]
        return (last - first) / (now - begun) if now > begun else 0.0

    def left_s(self, progress: Progress) -> float | None:
        """Seconds until those that were not worked yet are, or None if nobody can tell."""
        return progress.untouched / self.per_second if self.per_second > 0 else None


Show = Callable[[Progress], Awaitable[None] | None]


@dataclass
class Watch:
    """Tells, after the block, whether its end was seen: the ledger may be out of reach just then."""

    saw_end: bool = False


@asynccontextmanager
async def watching(see: Callable[[], Progress], show: Show, *, every_s: float) -> AsyncIterator[Watch]:
    """Show how far a batch is while the block runs, now and then and once more at its end; ``see``: as of ``look``."""
    over, watched = asyncio.Event(), Watch()

    async def watch() -> None:
        while True:
            is_last, begun = over.is_set(), monotonic()
            with suppress(StoreUnavailable):  # whoever works on it says so
                shown = show(await asyncio.to_thread(see))
                if shown is not None:
                    await shown
                watched.saw_end = is_last
            if is_last:
                return
            try:
                await asyncio.wait_for(over.wait(), max(every_s, (monotonic() - begun) * _SHARE_OF_TIME))
            except TimeoutError:
                continue

    watcher = asyncio.create_task(watch())
    try:
        yield watched
    finally:
        over.set()
        await asyncio.shield(watcher)  # the ledger is closed soon
