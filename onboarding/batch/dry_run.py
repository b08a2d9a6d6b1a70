"""A dry run of many subjects: what each one's steps would do, from reads alone. Nothing is sent, claimed or stored."""

import asyncio
import csv
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final

from onboarding.advice import advice
from onboarding.batch.cells import harmless
from onboarding.batch.engine import closed_for_s
from onboarding.batch.rounds import patience_s
from onboarding.batch.rows import Row, RowProblem
from onboarding.endings import EXIT_ATTENTION, EXIT_BAD_INPUT, EXIT_ONBOARDED, EXIT_WAITING
from onboarding.errors import BadInput
from onboarding.intake import IntakeRequest
from onboarding.ledger import drafting, opening
from onboarding.ledger.preparing import Prepared
from onboarding.ledger.states import CaseStatus, StepName, StepStatus
from onboarding.ledger.views import CaseView
from onboarding.steps.planning import Action, PlanLine, plan
from onboarding.workbench import Workbench, check_mode

_LEFT_ALONE: Final = ("THROTTLED", "VENDOR_DOWN")
_SHORTEST_WAIT_S: Final = 0.2
PLAN_COLUMNS: Final = ("row", "line", "case", "subject", "step", "what would happen", "differences", "code", "note")


@dataclass(frozen=True)
class Planned:
    """What one row's steps would do; or, if it cannot be taken, why not.

    Attributes:
        number, line: where it stands in its file; 0 if it is the file itself that cannot be read.
        case_id: the case that stands for it already.
        same_as: the earlier row that it repeats; then its steps are that row's.
        problems: why it cannot be taken; a later row can show that of one that was planned, or told as a repeated one, before.
    """

    number: int
    line: int
    case_id: str | None = None
    subject_id: str | None = None
    steps: tuple[PlanLine, ...] = ()
    problems: tuple[RowProblem, ...] = ()
    same_as: int | None = None


@dataclass(frozen=True)
class _Kind:
    """What the steps of one subject would do, as far as it is counted: many subjects share one of these."""

    steps: tuple[tuple[StepName, Action], ...]
    merges: bool


class PlanCounts:
    """How many subjects a dry run looked at, how many rows cannot be taken, and what the steps of the others would do."""

    def __init__(self) -> None:
        self.whole = True
        self._subjects: dict[int, _Kind] = {}
        self._kinds: dict[_Kind, _Kind] = {}
        self._stand: set[int] = set()
        self._repeated: set[int] = set()
        self._bad: set[int] = set()

    def add(self, planned: Planned) -> None:
        """Count one row; one that cannot be taken after all counts as nothing else."""
        number = planned.number
        if planned.problems:
            self._subjects.pop(number, None)
            self._stand.discard(number)
            self._repeated.discard(number)
            if number:
                self._bad.add(number)
            else:
                self.whole = False
        elif planned.same_as is not None:
            self._repeated.add(number)
        else:
            steps = tuple((line.step, line.action) for line in planned.steps)
            kind = _Kind(steps, any(line.may_merge for line in planned.steps))
            self._subjects[number] = self._kinds.setdefault(kind, kind)
            if planned.case_id is not None:
                self._stand.add(number)

    @property
    def subjects(self) -> int:
        """Subjects whose rows can be taken."""
        return len(self._subjects)

    @property
    def stand(self) -> int:
        """Of the subjects, those that have a case already."""
        return len(self._stand)

    @property
    def repeated(self) -> int:
        """Rows that repeat an earlier one."""
        return len(self._repeated)

    @property
    def bad_rows(self) -> int:
        """Rows that cannot be taken."""
        return len(self._bad)

    @property
    def merges(self) -> int:
        """Subjects whose registration's update could make two people one."""
        return sum(kind.merges for kind in self._subjects.values())

    @property
    def steps(self) -> Counter[tuple[StepName, Action]]:
        """How many subjects' steps would do what."""
        return Counter(step for kind in self._subjects.values() for step in kind.steps)

    @property
    def facts(self) -> list[str]:
        """What there is to be said of the rows, besides their steps."""
        numbers = {
            "subjects with a case already": self.stand,
            "possible merges of two people, which cannot be undone": self.merges,
            "rows that repeat an earlier one": self.repeated,
            "rows that cannot be taken": self.bad_rows,
        }
        return [f"{what}: {number}" for what, number in numbers.items() if number]

    def exit_status(self, *, skip_bad: bool) -> int:
        """As the run itself would end, if nothing changed until then."""
        if not self.whole or not self.subjects or (self.bad_rows and not skip_bad):
            return EXIT_BAD_INPUT
        found = {action for _, action in self.steps}
        if self.bad_rows or found & {Action.REFUSE, Action.ATTENTION, Action.UNREADABLE}:
            return EXIT_ATTENTION
        return EXIT_WAITING if Action.WAIT in found else EXIT_ONBOARDED


@dataclass(frozen=True)
class Subject:
    """One subject to be looked at, in its turn: the request, or what is wrong with its row; the rest as of ``Planned``.

    ``case``: the case that stands for the request, if it asks for the same.
    """

    number: int
    line: int
    request: IntakeRequest | tuple[RowProblem, ...]
    same_as: int | None = None
    case: CaseView | None = None


@dataclass(slots=True)
class _First:
    """The first row of a file that asks for an onboarding, and those after it that repeat it: number and line of each."""

    digest: str
    places: list[tuple[int, int]]
    is_bad: bool = False


def subjects_of(rows: Iterable[Row], bench: Workbench) -> Iterator[Subject]:
    """The subjects of a file, row by row, as the ledger stands; what taking the file in would refuse is told as that would."""
    firsts: dict[str, _First] = {}
    for row in rows:
        request = row.request()
        if not isinstance(request, tuple):
            try:
                check_mode(request, bench.settings)
            except BadInput as wrong:
                request = row.worded(wrong.problems)
        if isinstance(request, tuple):
            yield Subject(row.number, row.line, request)
            continue
        prepared = opening.prepare(bench.ledger.key, request)
        place = (row.number, row.line)
        first = firsts.get(prepared.business_key)
        if first is None:
            subject = _as_it_stands(bench, place, request, prepared)
            is_bad = isinstance(subject.request, tuple)
            firsts[prepared.business_key] = _First(prepared.request_digest, [place], is_bad)
            yield subject
        elif first.digest == prepared.request_digest and not first.is_bad:
            first.places.append(place)
            yield Subject(*place, request, same_as=first.places[0][0])
        else:
            yield from _two_ways(first, place, same=first.digest == prepared.request_digest)


def subject_of(bench: Workbench, place: tuple[int, int], request: IntakeRequest) -> Subject:
    """The subject of one request, whose row has this number and line, as the ledger stands."""
    return _as_it_stands(bench, place, request, opening.prepare(bench.ledger.key, request))


def _as_it_stands(bench: Workbench, place: tuple[int, int], request: IntakeRequest, prepared: Prepared) -> Subject:
    found = drafting.standing_case(bench.ledger, prepared, bench.systems.addresses)
    if found is None:
        return Subject(*place, request)
    if found.refusal is not None:
        return _bad(place, found.refusal)
    return Subject(*place, request, case=bench.ledger.case(found.case_id) if found.same else None)


def _two_ways(first: _First, place: tuple[int, int], *, same: bool) -> Iterator[Subject]:
    """The row there cannot be taken, and (unless they were told before) neither can those that it stands against."""
    _, line = first.places[0]
    yield _bad(place, drafting.bad_already(line) if same else drafting.same_onboarding(line))
    if not first.is_bad:
        first.is_bad = True
        for each in first.places:
            yield _bad(each, drafting.same_onboarding(place[1]))


def _bad(place: tuple[int, int], problem: str) -> Subject:
    column, _, what = problem.partition(": ")
    return Subject(*place, (RowProblem(*place, column, what),))


async def plan_all(
    bench: Workbench, subjects: Iterable[Subject], *, lanes: int, stop: asyncio.Event
) -> AsyncIterator[Planned]:
    """Plan each subject, ``lanes`` of them at a time, in their order. What the vendors are asked is bounded by their limits.

    A vendor that asks for a pause, or looks dead, is waited for, as long as a batch waits for it (``patience_s``).
    """
    under_way: deque[asyncio.Task[Planned]] = deque()
    patience = _Patience(bench, stop)
    try:
        rows = iter(subjects)
        while (subject := await bench.in_thread(next, rows, None)) is not None:
            await patience.vendors_are_open()
            if stop.is_set():
                break
            under_way.append(asyncio.create_task(_planned(bench, subject, patience)))
            if len(under_way) >= lanes:
                yield await under_way.popleft()
        while under_way and not stop.is_set():
            yield await under_way.popleft()
    finally:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


class _Patience:
    """How long a dry run waits in all for vendors that are to be left alone; anew whenever waiting was worth it."""

    def __init__(self, bench: Workbench, stop: asyncio.Event) -> None:
        self._bench = bench
        self._stop = stop
        self._ends_at: float | None = None

    async def vendors_are_open(self, shortest_s: float = 0.0) -> bool:
        """Wait until both vendors may be asked, ``shortest_s`` at least; False once that is worth it no more."""
        while (pause_s := max(closed_for_s(self._bench), shortest_s)) > 0:
            if self._ends_at is None:
                self._ends_at = monotonic() + patience_s(self._bench.settings)
            if self._stop.is_set() or monotonic() + pause_s > self._ends_at:
                return False
            shortest_s = 0.0
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), pause_s)
        return not self._stop.is_set()

    def was_worth_it(self) -> None:
        """What could not be read was read after a wait."""
        self._ends_at = None


async def _planned(bench: Workbench, subject: Subject, patience: _Patience) -> Planned:
    request, place = subject.request, (subject.number, subject.line)
    if isinstance(request, tuple):
        return Planned(*place, problems=request)
    if subject.same_as is not None:
        return Planned(*place, subject_id=request.subject.subject_id, same_as=subject.same_as)
    case = subject.case
    at_rest = case is not None and case.status in (CaseStatus.DONE, CaseStatus.ATTENTION)
    lines = [] if at_rest else await _lines(bench, request, patience)
    if case is not None:
        lines = _as_the_case_stands(case, lines)
    return Planned(*place, None if case is None else case.id, request.subject.subject_id, tuple(lines))


async def _lines(bench: Workbench, request: IntakeRequest, patience: _Patience) -> list[PlanLine]:
    lines = await plan(request, bench.systems, bench.settings)
    while _vendor_is_left_alone(lines) and await patience.vendors_are_open(_SHORTEST_WAIT_S):
        lines = await plan(request, bench.systems, bench.settings)
        if not _vendor_is_left_alone(lines):
            patience.was_worth_it()
    return lines


def _as_the_case_stands(case: CaseView, lines: Iterable[PlanLine]) -> list[PlanLine]:
    """What the steps would do that the case has not done; none, while it needs a person."""
    planned = {line.step: line for line in lines}
    found = []
    for name, step in case.steps.items():
        if step.status is StepStatus.DONE:
            found.append(PlanLine(name, Action.NOTHING, f"done by case {case.id}"))
        elif case.status is CaseStatus.ATTENTION and step.status is not StepStatus.NOT_REQUESTED:
            note = f"case {case.id} needs attention: {advice(case.reason)}"
            found.append(PlanLine(name, Action.ATTENTION, note, case.reason))
        else:
            found.append(planned[name] if name in planned else PlanLine(name, Action.NOT_REQUESTED))
    return found


def _vendor_is_left_alone(lines: Iterable[PlanLine]) -> bool:
    return any(line.action is Action.UNREADABLE and line.code in _LEFT_ALONE for line in lines)


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
        if planned.same_as is not None:
            self._writer.writerow([*place, "", f"the same as row {planned.same_as}", "", "", ""])
        for line in planned.steps:
            if line.action is not Action.NOT_REQUESTED:
                differences = "; ".join(str(change) for change in line.changes)
                cells = (line.step.value, line.action.value, differences, line.code or "", line.note)
                self._writer.writerow([*place, *map(harmless, cells)])


def plan_path(source: Path) -> Path:
    """Where a dry run's results go: ``subjects.csv`` has ``subjects.plan.csv``."""
    return source.with_name(f"{source.stem}.plan.csv")
