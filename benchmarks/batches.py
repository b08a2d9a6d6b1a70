"""The subjects as a batch: a CSV file, and taking it in."""

import csv
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks.subjects import request_json
from onboarding.batch.intake import Intake, take_in_file
from onboarding.ledger.ledger import open_ledger
from onboarding.ledger.opening import Addresses
from onboarding.settings import Settings


def take_in(path: Path, settings: Settings, addresses: Addresses) -> Intake:
    """Take a file in, on connections of its own; blocks."""
    ledger = open_ledger(settings)
    try:
        return take_in_file(ledger, path, addresses=addresses, actor="benchmark", settings=settings)
    finally:
        ledger.close()


def write_csv(path: Path, numbers: range) -> None:
    """The subjects' requests as a batch file."""
    rows = (dict(flattened(request_json(number))) for number in numbers)
    columns = list(dict.fromkeys(chain(*(dict(flattened(request_json(number))) for number in (1, 2)))))
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


def flattened(value: dict[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """A request as columns with dotted names."""
    for name, one in value.items():
        if isinstance(one, dict):
            yield from flattened(one, f"{above}{name}.")
        elif name == "visit_dnd":
            yield f"{above}{name}", ";".join(f"{visit['visit_src_id']}={visit['dnd']}" for visit in one)
        elif isinstance(one, list):
            yield f"{above}{name}", ";".join(map(str, one))
        else:
            yield f"{above}{name}", str(one).lower() if isinstance(one, bool) else str(one)
