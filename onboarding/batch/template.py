"""An example of a CSV file of subjects, which is valid input itself, and what its columns mean."""

import csv
import io
from collections.abc import Iterator, Mapping
from typing import Final

from onboarding.batch.cells import harmless
from onboarding.batch.columns import CLEAR, COLUMNS, NEEDED, Column

_STUDY: Final = "1BC29B36F5D64B1B95F4BDBBCEA481BE"
_DEVICE_TO_CLOUD: Final[Mapping[str, str]] = {
    "registration.id": "1",
    "registration.cp_id": "3",
    "registration.participant.id": "2",
    "registration.participant.first_name": "Alex",
    "registration.participant.last_name": "Example",
    "registration.participant.birth_date": "1961-07-03",
    "registration.participant.races": "Asian;White",
    "registration.participant.pmis": "Berlin Centre=MRN-1234",
    "registration.ppid": "ASCI123",
    "registration.registration_date": "2014-04-21",
    "registration.external_subject_id": "TEST_001",
    "subject.study_id": _STUDY,
    "subject.mode": "test",
    "subject.subject_id": "0A1B2C3D4E5F67890123456789ABCDEF",
    "device.inventory_id": "B1B8327AFAA6412287106192AB5984EF",
    "device.m_subject_id": "5C9F4E2D1B0A49E8A7C6D5E4F3B2A190",
    "device.subject_number": "siteA-1",
    "dnd_exception.all_countries": "false",
    "dnd_exception.countries": "US;DE",
    "dnd_exception.kit_type_src_ids": "6AF54DB79B764662B685D68C52AB0B84",
    "dnd_exception.visit_dnd": "8CF54DB79B764662B685D68C52AB0B86=2;9DF54DB79B764662B685D68C52AB0B87=0.5",
}
_CLOUD_TO_CLOUD: Final[Mapping[str, str]] = {
    "registration.id": "7",
    "registration.cp_short_title": "HFS",
    "registration.external_subject_id": "TEST_002",
    "registration.barcode": CLEAR,
    "subject.study_id": _STUDY,
    "subject.mode": "test",
    "subject.subject_id": "1A1B2C3D4E5F67890123456789ABCDEF",
    "device.inventory_id": "C1B8327AFAA6412287106192AB5984EF",
    "device.m_subject_id": "6C9F4E2D1B0A49E8A7C6D5E4F3B2A190",
    "device.vendor_code": "XYZ123",
}

_RULES: Final = f"""\
A batch file has one row for each subject. The first line names the columns, in any order; leave out those you do not need.
Save it as CSV UTF-8; comma, semicolon or tab between cells is found by itself. Or write JSON Lines: one request a line.

- An empty cell leaves the field out: what stands in the other system stays as it is.
- {CLEAR} in a cell empties the field there; only the columns marked "may be cleared" take it.
- Several values in one cell: separate them with semicolons. Visits: visitId=days. Record numbers: site name=number.
- Days are written YYYY-MM-DD. Yes and no are written true and false.
- A section whose cells are all empty (registration, device, dnd_exception) is not asked for in that row.
- A cell that begins with = + - or @ may have an apostrophe before it, which is not part of the value.
- Names may be written as the vendors write them: registration.cpId, dndException.siteIds.
- What a cell cannot say, such as a value with a semicolon in it, JSON Lines can.

Columns:
"""


def template_csv() -> str:
    """The example, as CSV: every column, a device-to-cloud subject and a cloud-to-cloud one."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [column.name for column in _columns()]
    writer.writerow(names)
    for row in (_DEVICE_TO_CLOUD, _CLOUD_TO_CLOUD):
        writer.writerow([harmless(row.get(name, "")) for name in names])
    return text.getvalue()


def template_notes() -> str:
    """What the file may hold, for people: the rules and every column."""
    return _RULES + "".join(
        f"  {column.name}{_marks(column)}\n      {column.field.description}\n" for column in _columns()
    )


def _columns() -> Iterator[Column]:
    return (column for spelling, column in COLUMNS.items() if spelling == column.name)


def _marks(column: Column) -> str:
    marks = ["in every row"] if column.name in NEEDED else []
    marks += ["may be cleared"] if column.clears else []
    return f"  ({', '.join(marks)})" if marks else ""
