"""Subjects whom the stand-ins of `onboard up` know besides the vendors' documented ones, and a batch file to onboard them."""

import csv
import io
import json
from pathlib import Path
from typing import Final

from vendor_sandbox import seed
from vendor_sandbox.clinical_one_world import CLOUD_TO_CLOUD
from vendor_sandbox.seed import SeededSubject

FILE: Final = "batch-to-try.csv"
SEED: Final = "stand-ins.seed.json"
SUBJECTS: Final = 30


def write_example(folder: Path) -> None:
    """Write into ``folder`` what the stand-ins are to know (`SEED`), and the batch file (`FILE`).

    OpenSpecimen refuses the last row, whose PPID another one has: there is something to mend.
    """
    (folder / SEED).write_text(json.dumps(seed.many(SUBJECTS)), "utf-8")
    rows = [example_row(number) | {"registration.ppid": ""} for number in range(1, SUBJECTS + 1)]
    rows[-1]["registration.ppid"] = SeededSubject(1).ppid
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    (folder / FILE).write_text(text.getvalue(), "utf-8")


def example_row(number: int) -> dict[str, str]:
    """The row of the n-th subject of ``seed.many``: registration, device, and the exception that all of them share."""
    subject = SeededSubject(number)
    by_vendor = subject.connection == CLOUD_TO_CLOUD
    return {
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
        "dnd_exception.site_ids": seed.SITE_ID,
        "dnd_exception.kit_type_src_ids": seed.KIT_TYPE_ID,
        "dnd_exception.visit_dnd": f"{seed.VISIT_ID}=2",
    }
