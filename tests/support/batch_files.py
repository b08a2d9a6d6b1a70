"""Files of many subjects whom the sandbox knows (``seed.many``), and how their rows are written."""

import csv
import io
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from cli.example_batch import example_row
from tests.support.requests import SITE_ID

EVERY_EFFECT: Final = ("device_registered", "registration_updated")
"""What happens to each subject of ``subject_row``; one ``dnd_exception_created`` is for all."""


def subject_row(number: int, **changes: str) -> dict[str, str]:
    """The n-th subject's row: registration, device and the exception that all share; changed by path (``a__b="x"``)."""
    row = example_row(number) | {"dnd_exception.site_ids": SITE_ID}
    return row | {path.replace("__", "."): value for path, value in changes.items()}


def exception_row(number: int, **changes: str) -> dict[str, str]:
    """As ``subject_row``, but with nothing to do except the shared exception, which takes two calls in all."""
    row = subject_row(number, **changes)
    return {name: "" if name.startswith(("registration.", "device.")) else value for name, value in row.items()}


def csv_text(rows: Iterable[Mapping[str, str]]) -> str:
    """Rows as a CSV file."""
    rows = list(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def read_csv(text: str) -> list[dict[str, str]]:
    """A CSV file's rows, as a spreadsheet reads them."""
    return list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"))))


def json_lines(requests: Iterable[Mapping[str, Any]]) -> str:
    """Requests as a file of JSON Lines."""
    return "".join(json.dumps(request) + "\n" for request in requests)
