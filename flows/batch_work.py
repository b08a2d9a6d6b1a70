"""Working a batch under a flow run: a task run for each step of a small one, a task run for each chunk of a large one."""

import asyncio
from collections import Counter
from functools import partial

from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger

from flows.batch_artifacts import Faults, progress_shown, save_results
from flows.batch_pool import Pool
from flows.run import ended, label_run
from onboarding.batch.children import hands_for
from onboarding.batch.engine import Hands, Here, Worked, due_cases, work_cases
from onboarding.batch.rounds import Left, Rest, Round, work_and_tell, work_rounds
from onboarding.batch.stopping import until_stopped
from onboarding.endings import Ending
from onboarding.errors import BadInput
from onboarding.ledger import batches
from onboarding.ledger.batch_states import BatchState, RowStanding
from onboarding.ledger.batches import BatchCounts
from onboarding.ledger.releasing import finish_release
from onboarding.ledger.states import CaseStatus
from onboarding.workbench import Workbench
from tasks.case_tasks import work_by_tasks
from tasks.chunk import Chunks

GOES_ON = (
    "Cases that are due go on by themselves with the schedule of resume-cases: pause it to keep them from that, or cancel cases "
    "with onboard decide CASE cancel."
)
_LANES_OF_TASKS = 16
"""Cases at a time whose steps are task runs: more only queue up in the Prefect client."""


class BatchRun:
    """One flow run's work on one batch."""

    def __init__(self, bench: Workbench, batch_id: str, lanes: int) -> None:
        self._bench = bench
        self._batch_id = batch_id
        self._lanes = lanes
        self._stop = asyncio.Event()
        self._faults: Counter[str] = Counter()
        self._next_chunk = 1
        self._log = get_run_logger()  # a signal finds no run around it that it could be asked of

    async def work(self) -> State[None]:
        """Work it until only long waits are left, and say how it stands."""
        counts = await self._counts()
        await label_run(f"batch:{self._batch_id}")
        small = sum(counts.cases.values()) <= self._bench.settings.batch_task_runs
        shared = self._bench.settings.batch_workers > 1
        async with progress_shown(self._bench, self._batch_id):
            if small:
                left = await self._work_rounds(self._due_by_tasks)
            elif shared:
                left = await self._work_rounds(self._due_on_pool)
            else:
                hands = hands_for(self._bench, counts.of(CaseStatus.READY))
                return await work_and_tell(hands, self._work_by_chunks, self._told_of)
            return await self._told_of(left)

    async def _told_of(self, left: Left) -> State[None]:
        return self._ended(await save_results(self._bench, self._batch_id, Faults(self._faults)), left)

    async def _work_by_chunks(self, hands: Hands) -> Left:
        return await self._work_rounds(partial(self._due_by_chunks, hands))

    async def _work_rounds(self, by: Round) -> Left:
        rounds = work_rounds(self._bench, self._batch_id, by, self._stop, waiting=self._say_waiting)
        return await until_stopped(rounds, self._stop, self._say_stopping) or Left(Rest.STOPPED)

    async def _counts(self) -> BatchCounts:
        found = await self._bench.in_thread(batches.batch, self._bench.ledger, self._batch_id)
        if found is None or found.state not in (BatchState.RELEASING, BatchState.RELEASED):
            raise BadInput([f"batch_id: there is no released batch {self._batch_id} in this ledger."])
        await self._bench.in_thread(finish_release, self._bench.ledger, self._batch_id)  # if that was interrupted
        counts: BatchCounts = await self._bench.in_thread(batches.counts, self._bench.ledger, self._batch_id)
        return counts

    async def _due_by_tasks(self) -> float:
        cases = due_cases(self._bench, self._batch_id)
        lanes, hands = min(self._lanes, _LANES_OF_TASKS), Here(self._bench, work_by_tasks)
        return await work_cases(hands, cases, lanes=lanes, told=self._told, stop=self._stop)

    async def _due_by_chunks(self, hands: Hands) -> float:
        size, lanes = self._bench.settings.batch_chunk, self._lanes * hands.processes
        chunks = Chunks(hands, size=size, lanes=lanes, first_number=self._next_chunk)
        try:
            return await chunks.work(due_cases(self._bench, self._batch_id), self._told, stop=self._stop)
        finally:
            self._next_chunk = chunks.next_number

    async def _due_on_pool(self) -> float:
        workers = self._bench.settings.batch_workers
        return await Pool(self._bench, self._batch_id, workers=workers, stop=self._stop).work()

    def _told(self, worked: Worked) -> None:
        if worked.ending is None:
            self._faults[worked.code or ""] += 1

    def _say_stopping(self) -> None:
        self._log.warning("batch_stopping: cases under way are finished, for a few seconds at most")

    def _say_waiting(self, seconds: float) -> None:
        self._log.info("batch_waiting seconds=%.0f", seconds)

    def _ended(self, counts: BatchCounts, left: Left) -> State[None]:
        waiting, attention = counts.of(CaseStatus.READY), counts.of(CaseStatus.ATTENTION)
        left_out = counts.rows.get(RowStanding.LEFT_OUT, 0)
        words = [f"{counts.of(CaseStatus.DONE)} of {sum(counts.cases.values())} cases done"]
        words += [f"{waiting} waiting"] if waiting else []
        words += [f"{attention} need attention"] if attention else []
        words += [f"{left_out} {'row' if left_out == 1 else 'rows'} not taken"] if left_out else []
        what = f"batch {self._batch_id}: {', '.join(words)}."
        if attention:
            what += f" Which: onboard status --batch {self._batch_id} --only attention."
        if waiting and left.due_at is not None:
            what += f" Next look {left.due_at:%Y-%m-%d %H:%M:%S} UTC ({left.why})."
        if left.why is Rest.STOPPED:
            return ended(
                Ending.CANCELLED, None, what=f"{what} It was stopped; a run with this batch_id goes on. {GOES_ON}"
            )
        cancelled = counts.of(CaseStatus.CANCELLED)
        if attention or left_out or cancelled:
            return ended(Ending.BATCH_NEEDS_ATTENTION, None, what=what, batch_id=self._batch_id)
        ending = Ending.BATCH_WAITS if waiting else Ending.BATCH_DONE
        return ended(ending, None, what=what, batch_id=self._batch_id)
