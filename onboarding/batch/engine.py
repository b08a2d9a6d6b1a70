"""Many cases at a time, by the very step code of one: what batches do, without a task or a run for each subject."""

import asyncio
import logging
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from time import perf_counter
from typing import Final, Protocol

from onboarding.endings import Ending
from onboarding.errors import CLINICAL_ONE, OPENSPECIMEN, BadInput, CaseContradicted, LeaseLost, OnboardingError
from onboarding.ledger.leasing import LATE_ANSWER, Closed
from onboarding.ledger.states import CaseStatus, StepName
from onboarding.ledger.store import StoreGone
from onboarding.ledger.views import Held
from onboarding.steps.case import CaseReport, work_case
from onboarding.steps.session import CaseSession
from onboarding.vendors.limits import AWAITED_PAUSE_S
from onboarding.workbench import Workbench

PAGE: Final = 500
"""Cases that are looked up at a time."""

_ENDING_OF_CLOSED: Final = {CaseStatus.DONE: Ending.ONBOARDED, CaseStatus.ATTENTION: Ending.NEEDS_ATTENTION}
_log: Final = logging.getLogger("onboarding.batch")


@dataclass(frozen=True)
class Worked:
    """How the work on one case of many ended.

    Attributes:
        ending: by the table of endings; None if a fault of this program ended it (the case is resumed later).
        code: why, or the fault's type.
        due_at: when a case that waits is looked at again.
        seconds: from taking the case to its end, with all that was waited for.
    """

    case_id: str
    ending: Ending | None
    code: str | None = None
    step: StepName | None = None
    due_at: datetime | None = None
    seconds: float = 0.0


Told = Callable[[Worked], None]
Work = Callable[[CaseSession], Awaitable[CaseReport]]


class Hands(Protocol):
    """Who works cases: this process (``Here``), or several; how many lanes make sense grows with their number."""

    @property
    def processes(self) -> int:
        """How many processes."""

    async def work(self, case_id: str) -> Worked:
        """Take a case and work it to an ending. Raises ``StoreGone`` if the ledger cannot be used."""

    def no_more(self) -> None:
        """No case will be given any more; processes that were started for this begin to end."""

    def closed_for_s(self) -> float:
        """Seconds for which one of the vendors is to be left alone; 0 if both may be asked."""


class Here:
    """This process: ``work`` works one case from its first open step to its ending."""

    processes: Final = 1

    def __init__(self, bench: Workbench, work: Work = work_case) -> None:
        self._bench = bench
        self._work = work

    async def work(self, case_id: str) -> Worked:
        """Take a case and work it to an ending. Raises ``StoreGone`` if the ledger cannot be used."""
        return await _work(self._bench, case_id, self._work)

    def no_more(self) -> None:
        """Nothing has to end."""

    def closed_for_s(self) -> float:
        """Seconds for which one of the vendors is to be left alone; 0 if both may be asked."""
        return closed_for_s(self._bench)


async def work_cases(
    hands: Hands, case_ids: AsyncIterable[str], *, lanes: int, told: Told, stop: asyncio.Event
) -> float:
    """Work these cases, ``lanes`` of them at a time, and tell each one's end. One that fails keeps no other from its turn.

    No case is begun any more once ``stop`` is set, or while a vendor asked for a long pause or looks dead: those that were
    begun end first, and give their leases back.

    Returns:
        Seconds for which a vendor is to be left alone, if that is why not all were begun; else 0.

    Raises:
        StoreGone: the ledger cannot be used.
        OnboardingError: the next case could not be looked up (``StoreUnavailable``, for instance).
    """
    queue = _Queue(hands, case_ids, stop)
    met: list[Exception] = []
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(lanes):
                group.create_task(_lane(hands, queue, told))
    except* OnboardingError as errors:
        met = sorted(errors.exceptions, key=lambda error: not isinstance(error, StoreGone))
    if met:
        raise met[0]
    return queue.closed_for_s


async def one_by_one(cases: Iterable[str]) -> AsyncIterator[str]:
    """These cases, as ``work_cases`` takes them."""
    for case_id in cases:
        yield case_id


async def due_cases(bench: Workbench, batch_id: str) -> AsyncIterator[str]:
    """The cases of a batch that are due, the oldest due first, each once; those that fall due meanwhile too."""
    seen: set[str] = set()
    limit = PAGE
    while True:
        page = await bench.find_due(limit, batch_id)
        fresh = [case_id for case_id in page if case_id not in seen]
        seen.update(fresh)
        for case_id in fresh:
            yield case_id
        if len(page) < limit and not fresh:
            return
        if len(fresh) < PAGE // 2:  # the others were handed out, and are not taken yet or were given back
            limit += PAGE


class _Queue:
    """Hands out cases one by one, as long as there is sense in beginning one."""

    def __init__(self, hands: Hands, case_ids: AsyncIterable[str], stop: asyncio.Event) -> None:
        self._hands = hands
        self._cases = aiter(case_ids)
        self._stop = stop
        self._turn = asyncio.Lock()
        self._ended = False
        self.closed_for_s = 0.0

    async def next(self) -> str | None:
        async with self._turn:
            if self._ended or self._stop.is_set() or not await self._vendors_are_open():
                return None
            case_id = await anext(self._cases, None)
            self._ended = case_id is None
            return case_id

    async def _vendors_are_open(self) -> bool:
        """Whether both vendors may be asked; a short pause is waited for."""
        while (pause_s := self._hands.closed_for_s()) > 0:
            if pause_s > AWAITED_PAUSE_S:
                self.closed_for_s, self._ended = pause_s, True
                return False
            try:
                await asyncio.wait_for(self._stop.wait(), pause_s)
            except TimeoutError:
                continue
            return False
        return True


def closed_for_s(bench: Workbench) -> float:
    """Seconds for which one of the vendors is to be left alone; 0 if both may be asked."""
    return max(bench.systems.closed_for_s(system) for system in (OPENSPECIMEN, CLINICAL_ONE))


async def _lane(hands: Hands, queue: _Queue, told: Told) -> None:
    while (case_id := await queue.next()) is not None:
        told(await hands.work(case_id))


async def _work(bench: Workbench, case_id: str, work: Work) -> Worked:
    begun = perf_counter()
    try:
        async with bench.session(case_id) as session:
            if isinstance(session, Held):
                return Worked(case_id, Ending.HELD_BY_ANOTHER_RUN)
            if isinstance(session, Closed):
                ending = _ENDING_OF_CLOSED.get(session.status, Ending.REQUEST_REFUSED)
                return Worked(case_id, ending, session.reason)
            report = await work(session)
    except CaseContradicted:  # before the kind of error that it is one of
        return Worked(case_id, Ending.NEEDS_ATTENTION, LATE_ANSWER)
    except LeaseLost:
        return Worked(case_id, Ending.LEASE_LOST)
    except StoreGone:
        raise
    except BadInput:
        return Worked(case_id, Ending.REQUEST_REFUSED)
    except Exception as error:  # noqa: BLE001 - one case's fault must not stop the others; its text may hold anything
        _log.error("case_fault case=%s error=%s", case_id, type(error).__name__)
        return Worked(case_id, None, type(error).__name__)
    took_s = perf_counter() - begun
    return Worked(case_id, report.ending, report.code, report.step, report.due_at, took_s)
