"""`onboard batch --dry-run`: what each subject's steps would do."""

import asyncio
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from rich.table import Table

from cli import batch_said, doors, present
from cli.subject import plan_json
from cli.who import actor
from onboarding.batch.dry_run import PlanCounts, PlanFile, Planned, plan_all, plan_path, subjects_of
from onboarding.batch.reading import open_batch
from onboarding.batch.results import new_file
from onboarding.batch.stopping import until_stopped
from onboarding.endings import EXIT_FAULT
from onboarding.ledger.states import StepName
from onboarding.settings import Settings
from onboarding.steps.planning import Action
from onboarding.workbench import Workbench, open_workbench

SHOWN_SUBJECTS: Final = 100
SHOWN_PROBLEMS: Final = 50


class _Stopped(Exception):
    """A signal came while the file was planned."""


async def plan_file(source: Path | None, settings: Settings, *, skip_bad: bool, json: bool) -> int:
    """Plan every subject of a file (None: standard input), and give the exit status."""
    found = await doors.connections(settings, doors.prefect_api())
    counts, stop = PlanCounts(), asyncio.Event()
    table = _table()
    target = None if source is None else plan_path(source)
    try:
        async with open_workbench(settings, found, actor=actor()) as bench:
            rows = _plan_rows(bench, source, target, lambda planned: _show(planned, counts, table, json=json), stop)
            await until_stopped(rows, stop)
    except _Stopped:
        pass
    if stop.is_set():
        batch_said.say("Stopped. Nothing was sent, and no case was opened.")
        return EXIT_FAULT
    status = counts.exit_status(skip_bad=skip_bad)
    if json:
        present.print_json(_counts_json(counts, target))
    else:
        _say(counts, table, target, skip_bad=skip_bad)
    return status


async def _plan_rows(
    bench: Workbench, source: Path | None, target: Path | None, show: Callable[[Planned], None], stop: asyncio.Event
) -> None:
    with ExitStack() as stack:
        file = stack.enter_context(open_batch(source if source is not None else sys.stdin.buffer))
        written = None
        if target is not None:
            written = PlanFile(stack.enter_context(new_file(target, encoding="utf-8-sig")))
        async for planned in plan_all(bench, subjects_of(file, bench), lanes=bench.settings.concurrency, stop=stop):
            show(planned)
            if written is not None:
                written.add(planned)
        if stop.is_set():
            raise _Stopped  # so that no half of a results file is left


def _show(planned: Planned, counts: PlanCounts, table: Table, *, json: bool) -> None:
    counts.add(planned)
    if json:
        for problem in planned.problems:
            present.print_json(batch_said.problem_json(problem))
        place = {"row": planned.number, "line": planned.line, "case": planned.case_id, "subject": planned.subject_id}
        if planned.same_as is not None:
            present.print_json({**place, "same_as": planned.same_as})
        for line in planned.steps:
            present.print_json({**place, **plan_json(line)})
        return
    for problem in planned.problems:
        if counts.bad_rows <= SHOWN_PROBLEMS:
            batch_said.say(str(problem))
    if planned.steps and counts.subjects <= SHOWN_SUBJECTS:
        table.add_row(str(planned.number), f"..{(planned.subject_id or '')[-8:]}", *map(_cell, planned.steps))


def _table() -> Table:
    table = Table(header_style="bold")
    for heading in ("row", "subject", *(present.STEP_TITLES[step] for step in StepName)):
        table.add_column(heading, overflow="fold")
    return table


def _cell(line: Any) -> str:
    if line.action is Action.NOT_REQUESTED:
        return ""
    fields = f": {', '.join(change.field for change in line.changes)}" if line.changes else ""
    return f"{line.action.value}{fields}{' (may merge)' * line.may_merge}" + (f" ({line.code})" if line.code else "")


def _say(counts: PlanCounts, table: Table, target: Path | None, *, skip_bad: bool) -> None:
    out = present.console()
    if table.row_count:
        out.print(table)
    steps = counts.steps
    for step in StepName:
        words = [f"{n} {action.value}" for action in Action if (n := steps[step, action])]
        if words:
            out.print(f"{present.STEP_TITLES[step]}: {', '.join(words)}", soft_wrap=True)
    facts = [f"{fact[:1].upper()}{fact[1:]}." for fact in counts.facts]
    if not counts.whole:
        facts.append("The file cannot be taken as it is.")
    elif counts.bad_rows and not skip_bad:
        facts.append("The run would open nothing: correct them, or leave them out with --skip-bad.")
    if counts.subjects > SHOWN_SUBJECTS:
        out.print(f"The first {SHOWN_SUBJECTS} of {counts.subjects} subjects are shown.", soft_wrap=True)
    where = f" Everything: {target}" if target is not None else ""
    out.print(" ".join(["Dry run: nothing was sent, and no case was opened.", *facts]) + where, soft_wrap=True)


def _counts_json(counts: PlanCounts, target: Path | None) -> dict[str, Any]:
    return {
        "dry_run": True,
        "subjects": counts.subjects,
        "standing": counts.stand,
        "may_merge": counts.merges,
        "repeated": counts.repeated,
        "bad_rows": counts.bad_rows,
        "steps": [
            {"step": step.value, "action": action.value, "subjects": number}
            for (step, action), number in sorted(counts.steps.items())
        ],
        "results": None if target is None else str(target),
    }
