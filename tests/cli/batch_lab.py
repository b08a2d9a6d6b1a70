"""What the tests of batches share: a sandbox that knows many subjects, and a file with a row for each."""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.support.batch_files import csv_text, read_csv, subject_row
from tests.support.installation import Installation
from vendor_sandbox import seed


def written(installation: Installation, *rows: Mapping[str, str], name: str = "subjects.csv") -> Path:
    """A batch file with these rows, whose subjects the sandbox knows."""
    path = installation.folder / name
    path.write_text(csv_text(rows), "utf-8")
    return path


def many(
    installation: Installation, count: int, row: Callable[[int], dict[str, str]] = subject_row, **options: Any
) -> Path:
    """A file of so many subjects, whom the sandbox knows from now on."""
    installation.control.seed(seed.many(count, **options))
    return written(installation, *map(row, range(1, count + 1)))


def results(path: Path) -> list[dict[str, str]]:
    """The results that were written beside a file."""
    return read_csv(path.with_name(f"{path.stem}.results.csv").read_text("utf-8"))


def errors(path: Path) -> list[dict[str, str]]:
    """The rows to mend that were written beside a file."""
    return read_csv(path.with_name(f"{path.stem}.errors.csv").read_text("utf-8"))


def outcomes(path: Path) -> Counter[str]:
    """How many rows came to what."""
    return Counter(row["outcome"] for row in results(path))


def effects(installation: Installation) -> Counter[str]:
    """How often each effect happened; a repetition would show as one too many."""
    return Counter(installation.effects())
