"""A dry run of many subjects: a vendor that asks for a pause, or looks dead for a moment, is waited for."""

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from time import monotonic

import pytest

from onboarding.batch.dry_run import PlanCounts, Planned, plan_all, subjects_of
from onboarding.batch.reading import open_batch
from onboarding.ledger.states import StepName
from onboarding.steps.planning import Action, Change, PlanLine
from onboarding.vendors.limits import AWAITED_PAUSE_S
from tests.steps.lab import Lab, laboratory
from tests.support.batch_files import csv_text, subject_row
from vendor_sandbox import seed

ROWS, LANES = 40, 8


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    (tmp_path / "subjects.csv").write_text(csv_text([subject_row(number) for number in range(1, ROWS + 1)]))
    async with laboratory(tmp_path, world=seed.many(ROWS), request_timeout_seconds=5) as running:
        yield running


async def planned(lab: Lab, folder: Path, stop: asyncio.Event | None = None) -> PlanCounts:
    counts = PlanCounts()
    with open_batch(folder / "subjects.csv") as file:
        subjects = subjects_of(file, lab.bench)
        async for one in plan_all(lab.bench, subjects, lanes=LANES, stop=stop or asyncio.Event()):
            counts.add(one)
    return counts


@pytest.mark.parametrize("call", ["read_registration", "list_exceptions"])
async def test_a_pause_that_a_vendor_asks_for_leaves_no_row_unread(lab: Lab, tmp_path: Path, call: str) -> None:
    lab.fault(call, "throttle", retry_after=AWAITED_PAUSE_S + 1)
    counts = await planned(lab, tmp_path)
    assert counts.steps[StepName.REGISTRATION, Action.CHANGE] == ROWS
    assert counts.steps[StepName.DND_EXCEPTION, Action.CHANGE] == ROWS
    assert Action.UNREADABLE not in {action for _, action in counts.steps}


async def test_a_pause_that_is_longer_than_a_batch_waits_for_is_told_at_once(lab: Lab, tmp_path: Path) -> None:
    lab.fault("read_registration", "throttle", retry_after=600)
    begun = monotonic()
    counts = await planned(lab, tmp_path)
    assert monotonic() - begun < 30
    assert counts.subjects == ROWS
    assert counts.steps[StepName.REGISTRATION, Action.UNREADABLE] > 0


def test_little_is_kept_of_each_row(lab: Lab, tmp_path: Path) -> None:
    rows = 2_000
    (tmp_path / "long.csv").write_text(csv_text(subject_row(number) for number in range(1, rows + 1)))
    counts = PlanCounts()
    tracemalloc.start()
    try:
        with open_batch(tmp_path / "long.csv") as file:
            for subject in subjects_of(file, lab.bench):
                lines = tuple(PlanLine(step, Action.CHANGE, changes=(Change("ppid", "A", "B"),)) for step in StepName)
                counts.add(Planned(subject.number, subject.line, None, "S", lines))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert counts.subjects == rows
    assert most / rows < 2_000, "a row is several times that"


async def test_a_dry_run_that_waits_for_a_vendor_is_stopped_at_once(lab: Lab, tmp_path: Path) -> None:
    lab.fault("read_registration", "throttle", retry_after=AWAITED_PAUSE_S + 10)
    stop = asyncio.Event()
    running = asyncio.create_task(planned(lab, tmp_path, stop))
    while lab.bench.systems.closed_for_s("OpenSpecimen") == 0:  # noqa: ASYNC110 - the pause signals nobody
        await asyncio.sleep(0.01)
    stop.set()
    async with asyncio.timeout(AWAITED_PAUSE_S / 2):
        assert (await running).subjects < ROWS
