"""What is written beside a file afterwards: what became of each row, and the rows that need mending, as valid input again.

Both are written row by row, for their owner alone (mode 600), and appear whole or not at all. The errors file holds personal
data, as the file itself does.
"""

import csv
import filecmp
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final, TextIO

from onboarding.advice import advice
from onboarding.batch.cells import harmless
from onboarding.batch.reading import BatchFile, Format, open_batch
from onboarding.errors import BadInput
from onboarding.ledger import batches
from onboarding.ledger.batch_states import RowStanding
from onboarding.ledger.batches import RowOutcome
from onboarding.ledger.ledger import Ledger
from onboarding.ledger.states import CaseStatus

RESULT_COLUMNS: Final = ("row", "line", "case", "outcome", "code", "reason", "what to do")
BAD_ROW: Final = "BAD_ROW"

_WORDS: Final[Mapping[CaseStatus, tuple[str, str]]] = {
    CaseStatus.DONE: ("done", "every requested step is done"),
    CaseStatus.ATTENTION: ("attention", "a person must look: the code says why"),
    CaseStatus.CANCELLED: ("cancelled", "a person cancelled the case"),
}


@dataclass(frozen=True)
class Result:
    """One row's outcome in words, as it stands in a results file."""

    row: int
    line: int
    case: str
    outcome: str
    code: str
    reason: str
    what_to_do: str


def result_of(found: RowOutcome) -> Result:
    """What became of a row, in words; free of personal data but for a key that the file spells and nobody knows."""
    if found.standing is RowStanding.LEFT_OUT:
        todo = "Correct the row and take it in again." if found.number else "Correct the file and take it in again."
        return Result(found.number, found.line, "", "not taken", BAD_ROW, "; ".join(found.problems), todo)
    case_id, code = found.case_id or "", found.reason or ""
    if found.status is None:
        return Result(found.number, found.line, "", "not taken", "", "the file was not released", "")
    outcome, reason = _WORDS.get(found.status) or (
        ("waiting", "it cannot go on now; it is tried again when it is due")
        if code
        else ("open", "it was not worked yet")
    )
    if found.same_as is not None:
        reason = f"the same as row {found.same_as}: {reason}"
    return Result(found.number, found.line, case_id, outcome, code, reason, advice(found.reason))


def results(ledger: Ledger, batch_id: str, *, done: bool | None = None) -> Iterator[Result]:
    """Every row's outcome in the file's order, streamed. ``done``: only rows whose case is done, or only the others."""
    return map(result_of, batches.outcomes(ledger, batch_id, done=done))


def results_path(source: Path) -> Path:
    """Where a file's results go: ``subjects.csv`` has ``subjects.results.csv``."""
    return source.with_name(f"{source.stem}.results.csv")


def errors_path(source: Path, form: Format) -> Path:
    """Where the rows that need mending go: ``subjects.errors.csv`` or ``subjects.errors.jsonl``."""
    return source.with_name(f"{source.stem}.errors.{form.value}")


def write_results(ledger: Ledger, batch_id: str, target: Path) -> int:
    """Write the results of a batch as CSV that a spreadsheet opens safely; returns how many rows it has.

    Raises:
        BadInput: it cannot be written there.
    """
    count = 0
    with new_file(target, encoding="utf-8-sig") as stream:
        writer = csv.writer(stream)
        writer.writerow(RESULT_COLUMNS)
        for result in results(ledger, batch_id):
            cells = (result.case, result.outcome, result.code, result.reason, result.what_to_do)
            writer.writerow([result.row, result.line, *map(harmless, cells)])
            count += 1
    return count


def write_errors(ledger: Ledger, batch_id: str, source: Path) -> Path | None:
    """Write those rows of ``source`` that need mending, as they stand there, beside it; returns the new file.

    Those are rows that were not taken and rows whose case needs attention. None if there is none, or if the file was never
    read to its end. An errors file of an earlier run is kept as ``.previous``, as somebody may have mended rows in it.

    Raises:
        BadInput: the file was changed since, or cannot be read again; or nothing can be written beside it.
    """
    batch = batches.batch(ledger, batch_id)
    wanted = (outcome.number for outcome in batches.outcomes(ledger, batch_id) if _needs_mending(outcome))
    first = next(wanted, None)
    if batch is None or batch.file_digest is None or first is None:
        return None
    with open_batch(source) as file:
        target = errors_path(source, file.format)
        with new_file(target, encoding="utf-8-sig" if file.bom else "utf-8", keep_previous=True) as stream:
            _copy_rows(file, chain([first], wanted), stream)
            if not file.ended or batches.file_digest(ledger, file.sha256) != batch.file_digest:
                raise BadInput(["file: was changed since it was taken in; the rows that need mending were not copied"])
    return target


def _needs_mending(found: RowOutcome) -> bool:
    if found.standing is RowStanding.REPEATED:
        return False  # the row that it repeats is there
    return found.standing is RowStanding.LEFT_OUT or found.status is CaseStatus.ATTENTION


def _copy_rows(file: BatchFile, numbers: Iterator[int], stream: TextIO) -> None:
    writer = None
    wanted = next(numbers, None)
    for row in file:  # to the end, for the digest
        if row.number != wanted:
            continue
        if isinstance(row.raw, str):
            stream.write(row.raw + "\n")
        else:
            if writer is None:
                writer = csv.writer(stream, delimiter=file.delimiter)
                writer.writerow(map(harmless, file.header_cells))
            writer.writerow(map(harmless, row.raw))
        wanted = next(numbers, None)


@contextmanager
def new_file(target: Path, *, encoding: str, keep_previous: bool = False) -> Iterator[TextIO]:
    """A text file for its owner alone that takes its place when it is whole; nothing is left if anything raises."""
    draft = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        handle = os.open(draft, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "w", encoding=encoding, errors="surrogateescape", newline="") as stream:
                yield stream
            if keep_previous and target.exists() and not filecmp.cmp(draft, target, shallow=False):
                target.replace(target.with_name(f"{target.stem}.previous{target.suffix}"))
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        problem = f"{target.name}: cannot be written: {error.strerror}"
    else:
        return
    raise BadInput([problem])
