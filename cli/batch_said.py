"""What is said about a batch: what was read, how it ended, what waits or needs a person, and how to go on."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from cli import doors, present
from cli.worked import worst
from onboarding.batch.intake import Intake
from onboarding.batch.results import results, results_path, write_errors, write_results
from onboarding.batch.rounds import Left, Rest
from onboarding.batch.rows import RowProblem
from onboarding.endings import EXIT_ATTENTION, EXIT_BAD_INPUT, EXIT_FAULT, EXIT_ONBOARDED, EXIT_WAITING
from onboarding.errors import BadInput
from onboarding.ledger import batch_progress, batches
from onboarding.ledger.batches import BatchCounts
from onboarding.ledger.ledger import Ledger
from onboarding.ledger.states import CaseStatus


@dataclass(frozen=True)
class Summary:
    """How the work on a batch ended here: what was read, what is left and why, seconds, faults by type, how to go on."""

    intake: Intake
    left: Left
    took_s: float
    faults: Mapping[str, int]
    again: str
    observed: bool


def say(line: str) -> None:
    """One line on the error stream."""
    print(f"onboard: {line}", file=sys.stderr, flush=True)


@contextmanager
def reading(file: str, *, json: bool) -> Iterator[None]:
    """Something moves on a terminal while the file is read."""
    console = Console(stderr=True, highlight=False, markup=False)
    if json or not console.is_terminal:
        yield
        return
    with console.status(f"Reading {file}"):
        yield


def problem_json(problem: RowProblem) -> dict[str, Any]:
    """A row's problem as programs read it."""
    return {"row": problem.number, "line": problem.line, "column": problem.column, "problem": problem.what}


def say_refused(ledger: Ledger, intake: Intake, source: Path | None, problems: int, *, json: bool) -> int:
    """Say that a file was refused, and where every problem of every row is written."""
    written = None
    if source is not None:
        written = results_path(source)
        write_results(ledger, intake.batch_id, written)
    if json:
        present.print_json(
            {"batch": None, "released": False, "rows": intake.rows, "bad_rows": intake.left_out, "problems": problems}
        )
        return EXIT_BAD_INPUT
    where = f" All problems: {written}." if written is not None else ""
    if not intake.whole:
        say(f"nothing was opened: the file cannot be taken as it is.{where}")
    else:
        skip = ", or leave them out with --skip-bad" if intake.left_out < intake.rows else ""
        say(f"nothing was opened: {intake.left_out} of {intake.rows} rows have problems. Correct them{skip}.{where}")
    return EXIT_BAD_INPUT


def say_taken(intake: Intake, *, json: bool) -> None:
    """Say what was read."""
    if json:
        return
    if intake.known:
        say(f"this very file was taken in before, as batch {intake.batch_id}; it goes on, and nothing is opened twice.")
        return
    facts = [f"{intake.opened} new", f"{intake.found} that stood already", f"{intake.replaced} replaced"]
    facts += [f"{intake.repeated} repeated in the file", f"{intake.left_out} left out"]
    shown = ", ".join(fact for fact in facts if not fact.startswith("0 "))
    say(f"batch {intake.batch_id}: {intake.rows} {'row' if intake.rows == 1 else 'rows'} ({shown}).")


def say_worked(ledger: Ledger, summary: Summary, source: Path | None, *, json: bool) -> int:
    """Write the results, say how the batch stands, and give the exit status."""
    counts = batches.counts(ledger, summary.intake.batch_id)
    status = exit_status(counts, summary)
    written, mend, failed = _write(ledger, summary.intake.batch_id, source)
    if failed:
        say(failed)
        status = worst([status, EXIT_FAULT])
    if json:
        _print_json(ledger, summary, counts, written, mend)
        return status
    out = present.console()
    cases = sum(counts.cases.values())
    seen = "" if summary.observed else f" ({doors.not_observed()})"
    out.print(
        f"Batch {summary.intake.batch_id}: {counts.of(CaseStatus.DONE)} of {cases} done in {summary.took_s:.1f} s{seen}",
        soft_wrap=True,
    )
    for line in present.count_lines(counts):
        out.print(f"  {line}", soft_wrap=True)
    if summary.intake.left_out:
        out.print(f"  {summary.intake.left_out} rows left out because of problems", soft_wrap=True)
    for kind, number in summary.faults.items():
        out.print(f"  {number} times a fault of this program ({kind}); please report it", soft_wrap=True)
    blocked = batch_progress.blocked(ledger, summary.intake.batch_id) if counts.of(CaseStatus.READY) else 0
    for line in _hints(counts, blocked, summary, written, mend):
        out.print(f"  {line}", soft_wrap=True)
    return status


def exit_status(counts: BatchCounts, summary: Summary) -> int:
    """By the table of endings, the one that most wants to be looked at."""
    statuses = [EXIT_ONBOARDED]
    if counts.of(CaseStatus.READY):
        statuses.append(EXIT_WAITING)
    if counts.of(CaseStatus.ATTENTION) or counts.of(CaseStatus.CANCELLED) or summary.intake.left_out:
        statuses.append(EXIT_ATTENTION)
    if summary.left.why is Rest.STOPPED:
        statuses.append(EXIT_FAULT)
    return worst(statuses)


def _hints(
    counts: BatchCounts, blocked: int, summary: Summary, written: Path | None, mend: Path | None
) -> Iterator[str]:
    batch_id = summary.intake.batch_id
    if counts.of(CaseStatus.ATTENTION):
        yield f"which need a person: onboard status --batch {batch_id} --only attention"
        yield f"what was refused, once that is mended on the other side: onboard resume --batch {batch_id}"
    if blocked:
        yield f"{blocked} wait until the log-in is corrected (its address, name or secret); then: {summary.again}"
        yield "if its account was mended on the other side: onboard doctor --try-login-again, then the same"
    if counts.of(CaseStatus.READY) > blocked:
        at = f", from {present.moment(summary.left.due_at)} on" if summary.left.due_at is not None else ""
        stopped = "stopped; " if summary.left.why is Rest.STOPPED else ""
        yield f"{stopped}it goes on with{at}: {summary.again}"
        if summary.left.why is not Rest.STOPPED:
            yield "or by itself, as each case falls due: onboard resume --all --watch"
        else:
            yield "where onboard resume --all --watch or the schedule of resume-cases runs, its cases go on by themselves"
    if written is not None:
        yield f"what became of each row: {written}"
    if mend is not None:
        yield f"rows to mend and take in again (they hold personal data if the file does): {mend}"


def _write(ledger: Ledger, batch_id: str, source: Path | None) -> tuple[Path | None, Path | None, str | None]:
    """The results file, the errors file (of a file that can be read again), and what kept one from being written."""
    target = results_path(source) if source is not None else Path(f"batch-{batch_id}.results.csv")
    try:
        write_results(ledger, batch_id, target)
        return target, None if source is None else write_errors(ledger, batch_id, source), None
    except BadInput as error:
        return None, None, str(error)


def _print_json(ledger: Ledger, summary: Summary, counts: BatchCounts, written: Path | None, mend: Path | None) -> None:
    for result in results(ledger, summary.intake.batch_id):
        present.print_json(
            {
                "row": result.row,
                "line": result.line,
                "case": result.case or None,
                "outcome": result.outcome,
                "code": result.code or None,
                "reason": result.reason,
                "what_to_do": result.what_to_do or None,
            }
        )
    present.print_json(
        {
            "batch": summary.intake.batch_id,
            "released": True,
            "known": summary.intake.known,
            "rows": summary.intake.rows,
            "left_out": summary.intake.left_out,
            "observed": summary.observed,
            "ended": summary.left.why.value,
            "due_at": summary.left.due_at,
            "seconds": round(summary.took_s, 3),
            "cases": {status.value: counts.of(status) for status in CaseStatus if counts.of(status)},
            "reasons": reasons_json(counts),
            "results": None if written is None else str(written),
            "errors": None if mend is None else str(mend),
            "go_on": summary.again if counts.of(CaseStatus.READY) else None,
        }
    )


def reasons_json(counts: BatchCounts) -> list[dict[str, Any]]:
    """Why cases are not done, as programs read it."""
    return [
        {"status": status.value, "reason": reason, "cases": number}
        for (status, reason), number in sorted(counts.cases.items(), key=lambda entry: (entry[0][0], entry[0][1] or ""))
        if status is not CaseStatus.DONE
    ]
