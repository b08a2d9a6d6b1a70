"""Some hundred cases of a large batch as one task run: begun one after the other, and over when each of them has ended.

The lanes that work the cases go on from one chunk to the next, by the very step code of one case; a chunk's task run shows which
cases were begun, how they ended, and for how long that went on.
"""

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


class Chunk:
    """The account of one chunk: which of its cases are under way, and how the others ended."""

    def __init__(self, number: int, size: int) -> None:
        self.number = number
        self._to_begin = size
        self._under_way = 0
        self._endings = Counter[str]()
        self._over = asyncio.Event()
        self._failed: OnboardingError | None = None

    @property
    def has_failed(self) -> bool:
        """Whether its cases are worked no more."""
        return self._failed is not None

    @property
    def is_full(self) -> bool:
        """Whether the next case belongs to another chunk."""
        return self._to_begin == 0

    def begin(self) -> None:
        """One more case is begun."""
        self._to_begin -= 1
        self._under_way += 1

    def end(self, worked: Worked) -> None:
        """A case has ended."""
        self._endings[str(worked.ending or worked.code)] += 1
        self._under_way -= 1
        self._end_if_over()

    def close(self) -> None:
        """No further case is begun."""
        self._to_begin = 0
        self._end_if_over()

    def fail(self, error: OnboardingError) -> None:
        """Its cases are worked no more, if they did not all end before."""
        if not self._over.is_set():
            self._failed = error
            self._over.set()

    async def counted(self) -> Counter[str]:
        """How its cases ended, once all of them have; raises what kept them from it."""
        await self._over.wait()
        if self._failed is not None:
            raise self._failed
        return self._endings

    def _end_if_over(self) -> None:
        if self.is_full and self._under_way == 0:
            self._over.set()


_CHUNK: ContextVar[Chunk] = ContextVar("chunk_of_this_task")


@task(name="chunk", task_run_name="chunk {number}", cache_policy=NO_CACHE, persist_result=False, log_prints=False)
async def chunk(number: int) -> State[Any]:  # noqa: ARG001 - it is the run's name
    """Show some cases of a batch while they are worked."""
    endings = await _CHUNK.get().counted()
    counts = ", ".join(f"{count} {name}" for name, count in endings.most_common())
    return Completed(message=f"{endings.total()} cases: {counts}")


class Chunks:
    """Works due cases, many at a time, and shows them in chunks, each a task run.

    Attributes:
        next_number: of the next chunk.
    """

    def __init__(self, hands: Hands, *, size: int, lanes: int, first_number: int = 1) -> None:
        self.next_number = first_number
        self._hands = hands
        self._size = size
        self._lanes = lanes
        self._open: Chunk | None = None
        self._of_case: dict[str, Chunk] = {}

    async def work(self, cases: AsyncIterator[str], tell: Told, *, stop: asyncio.Event) -> float:
        """Work these cases, as ``work_cases`` does, and give what that gives.

        Raises:
            OnboardingError: what ``work_cases`` raised, which every chunk that was under way shows too.
        """

        def ended(worked: Worked) -> None:
            self._of_case.pop(worked.case_id).end(worked)
            tell(worked)

        met: OnboardingError | None = None
        closed_for_s = 0.0
        try:
            async with asyncio.TaskGroup() as runs:
                begun = self._in_chunks(cases, runs)
                try:
                    closed_for_s = await work_cases(self._hands, begun, lanes=self._lanes, told=ended, stop=stop)
                except Exception as error:  # noqa: BLE001 - Prefect would store its text
                    met = error if isinstance(error, OnboardingError) else UnexpectedFault(told(error))
                self._end(met)
        except ExceptionGroup as failed:
            raise (met or failed.exceptions[0]) from None
        if met is not None:
            raise met
        return closed_for_s

    async def _in_chunks(self, cases: AsyncIterator[str], runs: asyncio.TaskGroup) -> AsyncIterator[str]:
        async for case_id in cases:
            if self._open is None or self._open.is_full:
                self._open = Chunk(self.next_number, self._size)
                self.next_number += 1
                runs.create_task(_run(self._open))
            self._open.begin()
            self._of_case[case_id] = self._open
            yield case_id

    def _end(self, met: OnboardingError | None) -> None:
        """No case is begun any more; ``met`` is what cut off those that were."""
        for one in {*self._of_case.values(), *([self._open] if self._open else [])}:
            if met is None:
                one.close()
            else:
                one.fail(met)


async def _run(one: Chunk) -> None:
    _CHUNK.set(one)  # in the context of this asyncio task alone
    state = await cast("Awaitable[State[Any]]", chunk(one.number, return_state=True))
    if not state.is_completed() and not one.has_failed:
        await state.aresult()  # raises what ended it
