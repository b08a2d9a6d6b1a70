"""Some hundred cases of a large batch as one task run: many at a time inside, by the very step code of one."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from contextvars import ContextVar
from typing import Any, cast

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed

from onboarding.batch.engine import Hands, Told, Worked, work_cases
from onboarding.errors import OnboardingError
from tasks.faults import UnexpectedFault, told


class Pieces:
    """Cuts the due cases of a batch into chunks that share their lanes: while the last cases of one end, the next begins."""

    def __init__(self, hands: Hands, cases: AsyncIterator[str], *, size: int, lanes: int, stop: asyncio.Event) -> None:
        self.hands = hands
        self.lanes = lanes
        self.stop = stop
        self.closed_for_s = 0.0
        self._cases = cases
        self._size = size
        self._free = asyncio.Semaphore(lanes)

    async def next(self) -> "Piece | None":
        """The next chunk, if a case is left and may be begun; ask when the one before has begun its last case."""
        if self.stop.is_set() or self.closed_for_s > 0:
            return None
        first = await anext(self._cases, None)
        return None if first is None else Piece(self, first)

    async def cases_of(self, piece: "Piece") -> AsyncIterator[str]:
        """The cases of one chunk, each as soon as a lane is free for it."""
        case_id: str | None = piece.first
        for left in range(self._size, 0, -1):
            await self._free.acquire()
            case_id = case_id if left == self._size else await anext(self._cases, None)
            if case_id is None:
                self._free.release()
                break
            yield case_id
        piece.begun.set()

    def lane_is_free(self) -> None:
        """A case has ended."""
        self._free.release()


class Piece:
    """One chunk; ``begun`` is set when its last case was begun."""

    def __init__(self, pieces: Pieces, first: str) -> None:
        self.first = first
        self.begun = asyncio.Event()
        self._pieces = pieces

    async def work(self, tell: Told) -> Counter[str]:
        """Work the cases of this chunk; counts how they ended."""
        pieces, endings = self._pieces, Counter[str]()

        def ended(worked: Worked) -> None:
            pieces.lane_is_free()
            endings[str(worked.ending or worked.code)] += 1
            tell(worked)

        closed_for_s = await work_cases(
            pieces.hands, pieces.cases_of(self), lanes=pieces.lanes, told=ended, stop=pieces.stop
        )
        pieces.closed_for_s = max(pieces.closed_for_s, closed_for_s)
        return endings


_WORK: ContextVar[tuple[Piece, Told]] = ContextVar("chunk_of_this_task")


@task(name="chunk", task_run_name="chunk {number}", cache_policy=NO_CACHE, persist_result=False, log_prints=False)
async def chunk(number: int) -> State[Any]:  # noqa: ARG001 - it is the run's name
    """Work some cases of a batch."""
    piece, tell = _WORK.get()
    try:
        endings = await piece.work(tell)
    except OnboardingError:
        raise
    except Exception as error:  # noqa: BLE001 - Prefect would store its text
        raise UnexpectedFault(told(error)) from None
    counts = ", ".join(f"{count} {name}" for name, count in endings.most_common())
    return Completed(message=f"{endings.total()} cases: {counts or 'none begun'}")


async def work_by_chunks(pieces: Pieces, tell: Told, *, first_number: int) -> int:
    """Work everything that is due, a task run for each chunk; returns the number of the next chunk."""
    number = first_number
    try:
        async with asyncio.TaskGroup() as group:
            while (piece := await pieces.next()) is not None:
                run = group.create_task(_run_chunk(piece, tell, number))
                begun = group.create_task(piece.begun.wait())
                await asyncio.wait({run, begun}, return_when=asyncio.FIRST_COMPLETED)
                begun.cancel()
                number += 1
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return number


async def _run_chunk(piece: Piece, tell: Told, number: int) -> None:
    _WORK.set((piece, tell))  # in the context of this asyncio task alone
    state = await cast("Awaitable[State[Any]]", chunk(number, return_state=True))
    if not state.is_completed():
        await state.aresult()  # raises what ended it
