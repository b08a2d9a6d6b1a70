"""Files of many subjects whom the sandbox knows (``seed.many``), and how their rows are written."""

import csv
import io
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from tests.support.requests import KIT_TYPE_ID, SITE_ID
from vendor_sandbox import seed
from vendor_sandbox.clinical_one_world import CLOUD_TO_CLOUD
from vendor_sandbox.seed import SeededSubject

EVERY_EFFECT: Final = ("device_registered", "registration_updated")
"""What happens to each subject of ``subject_row``; one ``dnd_exception_created`` is for all."""


def subject_row(number: int, **changes: str) -> dict[str, str]:
    """The n-th subject's row: registration, device and the exception that all share; changed by path (``a__b="x"``)."""
    subject = SeededSubject(number)
    by_vendor = subject.connection == CLOUD_TO_CLOUD
    row = {
        "registration.id": str(subject.registration_id),
        "registration.cp_id": str(seed.CP_ID),
        "registration.participant.id": str(subject.participant_id),
        "registration.external_subject_id": f"SITE-L-{number}",
        "subject.study_id": seed.STUDY_ID,
        "subject.mode": "test",
        "subject.subject_id": subject.subject_id,
        "device.inventory_id": subject.inventory_id,
        "device.m_subject_id": subject.m_subject_id,
        "device.vendor_code": "VENDOR-1" if by_vendor else "",
        "device.subject_number": "" if by_vendor else subject.subject_number,
        "dnd_exception.all_countries": "false",
        "dnd_exception.countries": "US",
        "dnd_exception.site_ids": SITE_ID,
        "dnd_exception.kit_type_src_ids": KIT_TYPE_ID,
        "dnd_exception.visit_dnd": f"{seed.VISIT_ID}=2",
    }
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
