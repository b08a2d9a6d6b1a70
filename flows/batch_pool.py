"""Sharing a large batch among workers: chunks as runs of a deployment, a few at a time.

A worker that is killed leaves its run as it was, for ever; so what a run came to is read from the ledger. A chunk of whose
cases none is leased any more, though some are due, was left by its run, and its cases go into other chunks. The Prefect
server or the ledger's may be restarted meanwhile: whatever does not answer is asked again, for some minutes.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from math import ceil
from time import monotonic
from typing import Final, TypeVar
from uuid import UUID, uuid4

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State
from prefect.deployments import arun_deployment
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_run_logger
from prefect.states import Cancelled, Cancelling, Crashed

from flows.onboard_chunk import left_alone_s
from onboarding.batch.engine import due_cases
from onboarding.batch.rounds import patience_s
from onboarding.errors import BadSettings
from onboarding.ledger import batch_progress
from onboarding.ledger.store import StoreUnavailable
from onboarding.workbench import Workbench

T = TypeVar("T")
DEPLOYMENT: Final = "onboard-chunk/onboard-chunk"
_LOOK_S: Final = 2.0
_LARGEST: Final = 2000
_QUIET_LOOKS: Final = 3
_STARTS_S: Final = 60.0
_AWAY_S: Final = 300.0


@dataclass
class _ChunkRun:
    """A chunk that a run on the pool works; ``quiet`` counts looks at which nobody worked on its cases."""

    run_id: UUID
    cases: list[str]
    begun_at: float = field(default_factory=monotonic)
    started: bool = False
    quiet: int = 0


class Pool:
    """The runs on the work pool that share one batch, ``workers`` at a time."""

    def __init__(self, bench: Workbench, batch_id: str, *, workers: int, stop: asyncio.Event) -> None:
        self._bench = bench
        self._batch_id = batch_id
        self._workers = workers
        self._stop = stop
        self._log = get_run_logger()
        self._any_begun = False
        self._left_alone_s = 0.0

    async def work(self) -> float:
        """Let the pool work everything of the batch that is due; seconds for which a vendor is to be left alone, else 0.

        Raises:
            BadSettings: the deployment is not there, or no worker has begun a run for a long time.
            Exception: the Prefect server or the ledger did not answer for minutes.
        """
        chunks = await self._once_it_answers(self._chunks)
        running: list[_ChunkRun] = []
        while (chunks or running) and not self._stop.is_set():
            while chunks and len(running) < self._workers:
                cases = chunks.pop(0)
                running.append(_ChunkRun(await self._started(cases), cases))
            await _wait(self._stop)
            running = await self._once_it_answers(partial(self._still_running, running))
        if self._stop.is_set():
            await _end(running, Cancelling())
        return self._left_alone_s

    async def _once_it_answers(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What ``ask`` gives, as soon as the Prefect server and the ledger answer; not asked again once it is stopped."""
        asked_at = monotonic()
        while True:
            try:
                return await ask()
            except Exception as error:
                if not _is_away(error) or self._stop.is_set() or monotonic() - asked_at > _AWAY_S:
                    raise
                self._log.warning("pool_waits_for_an_answer error=%s", type(error).__name__)
                await _wait(self._stop)

    async def _chunks(self) -> list[list[str]]:
        due = [case_id async for case_id in due_cases(self._bench, self._batch_id)]
        # Starting a process takes seconds, so a chunk is what one worker has to do, unless that is very much.
        size = min(_LARGEST, max(1, ceil(len(due) / self._workers)))
        return [due[start : start + size] for start in range(0, len(due), size)]

    async def _started(self, cases: list[str]) -> UUID:
        key = str(uuid4())  # asked again after an answer that was lost, the server gives the run that it made
        return await self._once_it_answers(partial(_start, self._batch_id, cases, key))

    async def _still_running(self, running: list[_ChunkRun]) -> list[_ChunkRun]:
        """Those whose runs have something to do yet; of one that is left by its worker, the cases are due again."""
        async with get_client() as client:
            chosen = FlowRunFilter(id=FlowRunFilterId(any_=[one.run_id for one in running]))
            runs = await client.read_flow_runs(flow_run_filter=chosen)
        states = {run.id: run.state for run in runs}
        self._left_alone_s = max([self._left_alone_s, *(left_alone_s(run.tags) for run in runs)])
        left: list[_ChunkRun] = []
        for one in running:
            state = states.get(one.run_id)
            if state is None or state.is_final():
                self._any_begun = True
                continue
            one.started = one.started or state.is_running()
            self._any_begun = self._any_begun or one.started
            if await self._has_its_worker(one):
                left.append(one)
                continue
            self._log.warning("chunk_left_by_its_worker run=%s cases=%d", one.run_id, len(one.cases))
            await _end([one], Crashed(message="its worker is gone; its cases go into other chunks."))
        return left

    async def _has_its_worker(self, one: _ChunkRun) -> bool:
        age_s, patience = monotonic() - one.begun_at, patience_s(self._bench.settings)
        if not one.started:
            late = age_s > max(2 * patience, _STARTS_S)
            if late and not self._any_begun:
                await _end([one], Cancelled())
                raise BadSettings(
                    [
                        "ONBOARDING_BATCH_WORKERS: no worker has begun a chunk of the batch; start workers, or set it to 1."
                    ]
                )
            return not late  # a worker can be killed between taking a run and starting it
        if await self._bench.in_thread(batch_progress.being_worked, self._bench.ledger, one.cases):
            one.quiet = 0
            return True
        one.quiet += 1
        return one.quiet <= _QUIET_LOOKS or age_s <= patience


async def _start(batch_id: str, cases: list[str], key: str) -> UUID:
    try:
        run = await arun_deployment(
            DEPLOYMENT,
            parameters={"batch_id": batch_id, "case_ids": cases},
            timeout=0,
            tags=[f"batch:{batch_id}"],
            idempotency_key=key,
        )
    except ObjectNotFound:
        raise BadSettings(
            [f"ONBOARDING_BATCH_WORKERS: there is no deployment {DEPLOYMENT}; apply deployments.yaml, or set it to 1."]
        ) from None
    return run.id


def _is_away(error: Exception) -> bool:
    """Whether the Prefect server or the ledger did not answer, or the server had no database at that moment."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code >= httpx.codes.INTERNAL_SERVER_ERROR
    return isinstance(error, httpx.TransportError | StoreUnavailable)


async def _wait(stop: asyncio.Event) -> None:
    try:
        await asyncio.wait_for(stop.wait(), _LOOK_S)
    except TimeoutError:
        return


async def _end(running: list[_ChunkRun], state: State[None]) -> None:
    """Give runs another state: a worker that is there ends its run, which gives its leases back."""
    async with get_client() as client:
        for one in running:
            await client.set_flow_run_state(one.run_id, state, force=not state.is_cancelling())
