"""A file of the inbox on its way through a flow, without Prefect: what a stop leaves while the file is read."""

import asyncio
import os
import signal
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.objects import State
from prefect.states import Completed

from flows.onboard_batch import work_file
from onboarding.endings import Ending
from tests.steps.lab import Lab, laboratory
from tests.support.batch_files import csv_text, exception_row
from vendor_sandbox import seed

NAME = "site-12.csv"


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    (tmp_path / "inbox").mkdir()
    (tmp_path / "inbox" / NAME).write_text(csv_text([exception_row(1), exception_row(2)]))
    async with laboratory(tmp_path, world=seed.many(4), inbox=tmp_path / "inbox") as running:
        yield running


async def no_work(_batch_id: str) -> State[Any]:
    return Completed(name=str(Ending.BATCH_DONE), message="done")


async def stopped_while_it_is_read(lab: Lab, inbox: Path, number: signal.Signals | None) -> State[Any] | None:
    """Somebody else writes to the ledger, so the reading waits; then a signal comes, or a cancellation (None)."""
    other = sqlite3.connect(inbox.parent / "ledger.db", isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        running = asyncio.create_task(work_file(lab.bench, NAME, no_work))
        while not (inbox / ".taken" / NAME / NAME).exists():  # noqa: ASYNC110 - a file signals nobody
            await asyncio.sleep(0)
        if number is None:
            running.cancel()
            await asyncio.wait({running})
        else:
            os.kill(os.getpid(), number)
            await asyncio.sleep(0.1)  # the handler of the signal is called by the loop
    finally:
        other.rollback()
        other.close()
    await asyncio.wait({running})
    await lab.bench.in_thread(lambda: None)  # the ledger's one thread has ended the reading by then
    return None if running.cancelled() else running.result()


@pytest.mark.parametrize("number", [None, signal.SIGTERM])
async def test_a_run_that_is_stopped_while_its_file_is_read_opens_nothing_and_the_next_one_does(
    lab: Lab, tmp_path: Path, number: signal.Signals | None
) -> None:
    state = await stopped_while_it_is_read(lab, tmp_path / "inbox", number)
    assert lab.bench.ledger.cases() == []
    if state is not None:
        assert (state.type.value, state.name) == ("CANCELLED", "Cancelled")
        assert "nothing was opened. The file lies in .taken" in (state.message or "")
    assert (await work_file(lab.bench, NAME, no_work)).name == "BatchDone"
    assert len(lab.bench.ledger.cases()) == 2
