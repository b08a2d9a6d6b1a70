"""A dry run of many subjects: what each one's steps would do, from reads alone. Nothing is sent, claimed or stored."""

import asyncio
import csv
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from onboarding.batch.cells import harmless
from onboarding.batch.reading import Row, RowProblem
from onboarding.endings import EXIT_ATTENTION, EXIT_BAD_INPUT, EXIT_ONBOARDED, EXIT_WAITING
from onboarding.errors import BadInput
from onboarding.intake import IntakeRequest
from onboarding.ledger.states import StepName
from onboarding.steps.planning import Action, PlanLine, plan
from onboarding.workbench import Workbench, check_mode

PLAN_COLUMNS: Final = ("row", "line", "case", "subject", "step", "what would happen", "differences", "code", "note")


@dataclass(frozen=True)
class Planned:
    """What one row's steps would do; or, if it cannot be taken, why not.

    Attributes:
        number, line: where it stands in its file; 0 if it comes from a case.
        name: the case's id, or the subject's.
    """

    number: int
    line: int
    case_id: str | None = None
    subject_id: str | None = None
    steps: tuple[PlanLine, ...] = ()
    problems: tuple[RowProblem, ...] = ()


@dataclass
class PlanCounts:
    """How many subjects a dry run looked at, how many rows cannot be taken, and what the steps of the others would do."""

    subjects: int = 0
    bad_rows: int = 0
    whole: bool = True
    steps: Counter[tuple[StepName, Action]] = field(default_factory=Counter)

    def add(self, planned: Planned) -> None:
        """Count one row."""
        if planned.problems:
            self.bad_rows += planned.number > 0
            self.whole = self.whole and planned.number > 0
            return
        self.subjects += 1
        self.steps.update((line.step, line.action) for line in planned.steps)

    def exit_status(self, *, skip_bad: bool) -> int:
        """As the run itself would end, if nothing changed until then."""
        if not self.whole or not self.subjects or (self.bad_rows and not skip_bad):
            return EXIT_BAD_INPUT
        found = {action for _, action in self.steps}
        if self.bad_rows or found & {Action.REFUSE, Action.UNREADABLE}:
            return EXIT_ATTENTION
        return EXIT_WAITING if Action.WAIT in found else EXIT_ONBOARDED


@dataclass(frozen=True)
class Subject:
    """One subject to be looked at, in its turn: the request, or what is wrong with its row."""

    number: int
    line: int
    request: IntakeRequest | tuple[RowProblem, ...]
    case_id: str | None = None


def subjects_of(rows: Iterable[Row], bench: Workbench) -> Iterator[Subject]:
    """The subjects of a file, row by row."""
    for row in rows:
        request = row.request()
        if not isinstance(request, tuple):
            try:
                check_mode(request, bench.settings)
            except BadInput as wrong:
                request = row.worded(wrong.problems)
        yield Subject(row.number, row.line, request)


async def plan_all(
    bench: Workbench, subjects: Iterable[Subject], *, lanes: int, stop: asyncio.Event
) -> AsyncIterator[Planned]:
    """Plan each subject, ``lanes`` of them at a time, in their order. What the vendors are asked is bounded by their limits."""
    under_way: deque[asyncio.Task[Planned]] = deque()
    try:
        for subject in subjects:
            if stop.is_set():
                break
            under_way.append(asyncio.create_task(_planned(bench, subject)))
            if len(under_way) >= lanes:
                yield await under_way.popleft()
        while under_way and not stop.is_set():
            yield await under_way.popleft()
    finally:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


async def _planned(bench: Workbench, subject: Subject) -> Planned:
    if isinstance(subject.request, tuple):
        return Planned(subject.number, subject.line, problems=subject.request)
    lines = await plan(subject.request, bench.systems, bench.settings)
    return Planned(subject.number, subject.line, subject.case_id, subject.request.subject.subject_id, tuple(lines))


class PlanFile:
    """A dry run's results file while it is written: a line for each step that is asked for, and for each bad row."""

    def __init__(self, stream: object) -> None:
        self._writer = csv.writer(stream)  # type: ignore[arg-type]  # a text stream
        self._writer.writerow(PLAN_COLUMNS)

    def add(self, planned: Planned) -> None:
        """Write what one row's steps would do."""
        place = (planned.number, planned.line, planned.case_id or "", planned.subject_id or "")
        for problem in planned.problems:
            what = f"{problem.column}: {problem.what}"
            self._writer.writerow([*place, "", "cannot be taken", "", "BAD_ROW", harmless(what)])
        for line in planned.steps:
            if line.action is not Action.NOT_REQUESTED:
                differences = "; ".join(str(change) for change in line.changes)
                cells = (line.step.value, line.action.value, differences, line.code or "", line.note)
                self._writer.writerow([*place, *map(harmless, cells)])


def plan_path(source: Path) -> Path:
    """Where a dry run's results go: ``subjects.csv`` has ``subjects.plan.csv``."""
    return source.with_name(f"{source.stem}.plan.csv")
