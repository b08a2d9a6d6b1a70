"""The order in which a flow run's work on a batch ends."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from prefect.states import Completed

from flows import batch_work
from flows.batch_work import BatchRun
from onboarding.batch.rounds import Left, Rest
from onboarding.ledger.batches import BatchCounts
from onboarding.ledger.states import CaseStatus
from onboarding.settings import Settings
from onboarding.workbench import Workbench


class Hands:
    """Processes, as far as their end goes."""

    def __init__(self, order: list[str]) -> None:
        self._order = order

    def no_more(self) -> None:
        """Nobody is given work any more."""
        self._order.append("begin to end")


class Bench:
    """What a run looks at of its workbench."""

    settings = Settings(batch_task_runs=0)


@pytest.mark.parametrize(
    ("why", "expected"),
    [
        (Rest.NOTHING_WAITS, ["begin to end", "results told", "processes ended"]),
        (Rest.STOPPED, ["processes ended", "results told"]),  # their time is short: leases are to be given back
    ],
)
async def test_results_are_told_while_processes_end_unless_these_have_to_be_cut_off(
    monkeypatch: pytest.MonkeyPatch, why: Rest, expected: list[str]
) -> None:
    order: list[str] = []
    counts = BatchCounts({(CaseStatus.READY, None): 600}, {})

    @asynccontextmanager
    async def hands_for(*_: object) -> AsyncIterator[Hands]:
        yield Hands(order)
        order.append("processes ended")

    @asynccontextmanager
    async def nothing(*_: object) -> AsyncIterator[None]:
        yield

    async def save_results(*_: object) -> BatchCounts:
        order.append("results told")
        return counts

    async def gives(result: Any, *_: object) -> Any:
        return result

    monkeypatch.setattr(batch_work, "get_run_logger", lambda: logging.getLogger("test"))
    monkeypatch.setattr(batch_work, "label_run", lambda *_: gives(None))
    monkeypatch.setattr(batch_work, "hands_for", hands_for)
    monkeypatch.setattr(batch_work, "progress_shown", nothing)
    monkeypatch.setattr(batch_work, "save_results", save_results)
    monkeypatch.setattr(BatchRun, "_counts", lambda *_: gives(counts))
    monkeypatch.setattr(BatchRun, "_work_rounds", lambda *_: gives(Left(why)))
    monkeypatch.setattr(BatchRun, "_ended", lambda *_: Completed())
    assert (await BatchRun(cast("Workbench", Bench()), "B", 4).work()).is_completed()
    assert order == expected
