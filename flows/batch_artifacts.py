"""What a batch's run shows on its page: progress, a table of results, and a summary. Ids and codes only, nothing personal."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import Any, Final

from prefect.artifacts import (
    acreate_markdown_artifact,
    acreate_progress_artifact,
    acreate_table_artifact,
    aupdate_progress_artifact,
)

from onboarding.advice import advice
from onboarding.batch.dry_run import PlanCounts, Planned
from onboarding.batch.progress import Progress, look, watching
from onboarding.batch.results import Result, results
from onboarding.ledger import batch_progress, batches
from onboarding.ledger.batch_states import RowStanding
from onboarding.ledger.batches import BatchCounts
from onboarding.ledger.ledger import Ledger
from onboarding.ledger.states import CaseStatus, StepStatus
from onboarding.ledger.store import StoreUnavailable
from onboarding.steps.planning import Action
from onboarding.workbench import Workbench

ROWS_SHOWN: Final = 500
PROGRESS_EVERY_S: Final = 5.0
LAST_PAUSES_S: Final = (0.5, 2.0, 5.0)
_FIRST: Final = ("not taken", "attention", "cancelled", "waiting", "open")
_log: Final = logging.getLogger("onboarding.flows")


@dataclass(frozen=True)
class Faults:
    """How often a case was ended by a fault of this program, by its type."""

    kinds: Counter[str]

    def __str__(self) -> str:
        return ", ".join(f"{number} {kind}" for kind, number in self.kinds.items())


@asynccontextmanager
async def progress_shown(bench: Workbench, batch_id: str) -> AsyncIterator[None]:
    """Keep the run's progress artifact up to date during the block. Whatever keeps it from being so is only noted."""
    page = _ProgressPage(batch_id)
    see = partial(look, bench.ledger, batch_id, steps=False)
    async with watching(see, page.show, every_s=PROGRESS_EVERY_S) as watch:
        yield
    for pause_s in LAST_PAUSES_S:  # a server on SQLite is busy now and then, and the last word should stand
        if watch.saw_end and page.is_up_to_date:
            return
        await asyncio.sleep(pause_s)
        with suppress(StoreUnavailable):
            await page.show(await bench.in_thread(see))
            watch.saw_end = True


class _ProgressPage:
    """The run's progress artifact, and what it shows."""

    def __init__(self, batch_id: str) -> None:
        self._batch_id = batch_id
        self._artifact: Any = None
        self._newest: Progress | None = None
        self._shown: Progress | None = None

    @property
    def is_up_to_date(self) -> bool:
        """Whether it shows what was seen last."""
        return self._newest is not None and self._newest == self._shown

    async def show(self, progress: Progress) -> None:
        """Show this, if it can be; it is noted if not."""
        self._newest = progress
        if progress == self._shown:
            return
        share = 100.0 * progress.worked / max(1, progress.cases)
        words = f"Batch {self._batch_id}: {progress}"
        try:
            if self._artifact is None:
                key = "onboarding-batch-progress"
                self._artifact = await acreate_progress_artifact(share, key=key, description=words)
            else:
                await aupdate_progress_artifact(self._artifact, share, description=words)
            self._shown = progress
        except Exception as error:  # noqa: BLE001 - a picture of the work, whatever keeps it from being drawn
            _log.warning("progress_not_shown batch=%s error=%s", self._batch_id, type(error).__name__)


async def save_results(bench: Workbench, batch_id: str, faults: Faults) -> BatchCounts:
    """Store table and summary with the run; gives the counts that they show."""
    counts, markdown, table = await bench.in_thread(_look, bench.ledger, batch_id, faults)
    more = " (the most urgent; 'onboard batch' writes all to a file)" if len(table) == ROWS_SHOWN else ""
    try:
        await acreate_table_artifact(
            table=table,
            key="onboarding-batch-results",
            description=f"What became of each row of batch {batch_id}{more}",
        )
        await acreate_markdown_artifact(
            markdown, key="onboarding-batch-summary", description=f"How batch {batch_id} stands"
        )
    except Exception as error:  # noqa: BLE001 - as above; the ledger has it all
        _log.warning("results_not_shown batch=%s error=%s", batch_id, type(error).__name__)
    found: BatchCounts = counts
    return found


def _look(ledger: Ledger, batch_id: str, faults: Faults) -> tuple[BatchCounts, str, list[dict[str, Any]]]:
    counts = batches.counts(ledger, batch_id)
    return counts, "\n".join(_summary(ledger, batch_id, counts, faults)), _table(ledger, batch_id, counts)


def _table(ledger: Ledger, batch_id: str, counts: BatchCounts) -> list[dict[str, Any]]:
    """Rows for the page, the most urgent first; no words from the file, which could hold anything."""
    unfinished = () if counts.all_done else results(ledger, batch_id, done=False)
    return [
        {
            "row": result.row,
            "case": result.case,
            "outcome": result.outcome,
            "code": result.code,
            "what to do": result.what_to_do,
        }
        for result in most_urgent(unfinished, results(ledger, batch_id, done=True))
    ]


def most_urgent(unfinished: Iterable[Result], done: Iterable[Result]) -> list[Result]:
    """The rows that are shown, the most urgent first, each once: some are done since the others were looked at."""
    kept: dict[str, list[Result]] = {outcome: [] for outcome in _FIRST}
    for result in unfinished:
        if len(of_kind := kept.setdefault(result.outcome, [])) < ROWS_SHOWN:
            of_kind.append(result)
    urgent = list(chain.from_iterable(kept.values()))
    told = {result.row for result in urgent}
    return list(islice(chain(urgent, (result for result in done if result.row not in told)), ROWS_SHOWN))


def _summary(ledger: Ledger, batch_id: str, counts: BatchCounts, faults: Faults) -> Iterator[str]:
    cases = sum(counts.cases.values())
    left_out = counts.rows.get(RowStanding.LEFT_OUT, 0)
    yield f"## Batch {batch_id}: {counts.of(CaseStatus.DONE)} of {cases} cases done"
    yield from ("", "| outcome | code | cases | what it means |", "|---|---|---|---|")
    for (status, reason), number in sorted(counts.cases.items(), key=lambda entry: (entry[0][0], -entry[1])):
        yield f"| {status} | {reason or ''} | {number} | {advice(reason)} |"
    if left_out:
        yield f"| not taken | BAD_ROW | {left_out} | Correct these rows and take them in again. |"
    yield from ("", "| step | status | code | cases |", "|---|---|---|---|")
    found = batch_progress.step_counts(ledger, batch_id)
    for one in sorted(found, key=lambda one: (list(StepStatus).index(one.status), -one.number)):
        if one.status is not StepStatus.NOT_REQUESTED:
            yield f"| {one.step} | {one.status} | {one.code or ''} | {one.number} |"
    seconds = batch_progress.step_seconds(ledger, batch_id)
    if seconds:
        slowest = max(seconds, key=lambda step: seconds[step])
        yield from ("", f"Slowest step: **{slowest}**, {seconds[slowest]:.2f} s (median of the cases done last).")
    if counts.of(CaseStatus.ATTENTION):
        command = f"onboard status --batch {batch_id} --only attention"
        yield from (
            "",
            f"Cases that need a person: {counts.of(CaseStatus.ATTENTION)}; which, and what to do: `{command}`",
        )
    if counts.of(CaseStatus.READY):
        yield from ("", "Cases that wait go on when they are due, by resume-cases, or with: `onboard resume --all`")
    if faults.kinds:
        yield from ("", f"Faults of this program (please report them): {faults}")


async def save_plan(planned: Sequence[Planned], counts: PlanCounts) -> None:
    """Store what a dry run found with the run."""
    rows = [
        {"row": one.number, "case": one.case_id or "", "step": line.step.value, "what would happen": line.action.value}
        | {"fields": ", ".join(change.field for change in line.changes), "code": line.code or "", "note": line.note}
        for one in planned
        for line in one.steps
        if line.action is not Action.NOT_REQUESTED
    ]
    words = f"What this batch would do. Nothing was sent. {plan_words(counts)}"
    await acreate_table_artifact(table=rows[:ROWS_SHOWN], key="onboarding-batch-plan", description=words)


def plan_words(counts: PlanCounts) -> str:
    """The counts of a dry run in one line."""
    steps = ", ".join(f"{step} {action.value}: {number}" for (step, action), number in sorted(counts.steps.items()))
    return "; ".join([f"subjects: {counts.subjects}", *counts.facts, steps])
