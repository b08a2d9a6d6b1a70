"""Reading: what files are taken, and what is said about those that are not."""

import csv
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onboarding.batch.cells import harmless, without_mark
from onboarding.batch.columns import COLUMNS, NEEDED, read_header
from onboarding.batch.reading import BatchFile, Format, open_batch
from onboarding.batch.rows import Row, RowProblem
from onboarding.batch.template import template_csv, template_notes
from onboarding.errors import BadInput
from onboarding.intake import IntakeRequest, parse_request
from tests.support.requests import INVENTORY_ID, KIT_TYPE_ID, MARKER, SITE_ID, STUDY_ID, SUBJECT_ID, VISIT_ID, example

CELLS = {
    "registration.id": "1",
    "registration.cp_id": "3",
    "registration.participant.id": "2",
    "registration.ppid": "ASCI123",
    "registration.registration_date": "2014-04-21",
    "registration.external_subject_id": "TEST_001",
    "registration.activity_status": "Active",
    "subject.study_id": STUDY_ID,
    "subject.mode": "test",
    "subject.subject_id": SUBJECT_ID,
    "device.inventory_id": INVENTORY_ID,
    "device.m_subject_id": "M-001",
    "device.subject_number": "siteA-1",
    "dnd_exception.all_countries": "FALSE",
    "dnd_exception.countries": "US",
    "dnd_exception.site_ids": SITE_ID,
    "dnd_exception.kit_type_src_ids": KIT_TYPE_ID,
    "dnd_exception.visit_dnd": f"{VISIT_ID}=2",
}
SUBJECT = f"{STUDY_ID},test,{SUBJECT_ID}"
HEAD = "subject.study_id,subject.mode,subject.subject_id,registration.id,registration.cp_id"


def table(*rows: Mapping[str, str], delimiter: str = ",", end: str = "\n") -> bytes:
    """A CSV file of these rows; the first one's keys are the columns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter, lineterminator=end)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def rows_of(data: bytes) -> list[Row]:
    with open_batch(io.BytesIO(data)) as file:
        return list(file)


def problems_of(rows: Iterable[Row]) -> list[str]:
    found: list[RowProblem] = []
    for row in rows:
        request = row.request()
        found += request if isinstance(request, tuple) else ()
    return [str(each) for each in found]


def said(data: bytes) -> list[str]:
    return problems_of(rows_of(data))


def only_request(data: bytes) -> IntakeRequest:
    (row,) = rows_of(data)
    request = row.request()
    assert isinstance(request, IntakeRequest), [str(each) for each in request]
    return request


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_table_says_the_same_as_the_json_request(delimiter: str, bom: bytes, end: str) -> None:
    assert only_request(bom + table(CELLS, delimiter=delimiter, end=end)) == parse_request(example())


def test_the_vendors_spellings_of_columns_are_taken() -> None:
    renamed = {
        "registration.cp_id": "registration.cpId",
        "device.m_subject_id": "device.mSubjectId",
        "dnd_exception.site_ids": "dndException.siteIds",
        "dnd_exception.kit_type_src_ids": "dnd_exception.kitTypeSrcId",
        "dnd_exception.visit_dnd": "dndException.visitDND",
    }
    assert only_request(table({renamed.get(name, name): cell for name, cell in CELLS.items()})) == parse_request(
        example()
    )


def test_json_lines_are_requests_and_blank_lines_are_none() -> None:
    line = json.dumps(example()).encode()
    first, second = rows_of(b"\n" + line + b"\r\n \n" + line)
    assert (first.number, first.line, second.number, second.line) == (1, 2, 2, 4)
    assert first.request() == second.request() == parse_request(example())


@pytest.mark.parametrize(
    ("suffix", "form"), [(".csv", Format.CSV), (".jsonl", Format.JSON_LINES), ("", Format.JSON_LINES)]
)
def test_the_suffix_tells_the_format_or_else_the_first_byte(tmp_path: Path, suffix: str, form: Format) -> None:
    path = tmp_path / f"subjects{suffix}"
    path.write_bytes(b'  {"a": 1}')
    with open_batch(path) as file:
        assert file.format is form


def test_lists_record_numbers_and_objects_stand_in_one_cell() -> None:
    cells = {
        **CELLS,
        "registration.participant.races": "Asian; White;",
        "registration.participant.pmis": "Berlin Centre=MRN-1; Paris=MRN-2",
        "registration.participant.extension_detail": '{"useUdn": true}',
        "dnd_exception.countries": "US;de",
        "dnd_exception.visit_dnd": f"{VISIT_ID}=2; {SITE_ID}=0.5",
    }
    registration = only_request(table(cells, delimiter=";")).vendor_json()
    person = registration["registration"]["participant"]
    assert person["races"] == ["Asian", "White"]
    assert person["pmis"] == [{"siteName": "Berlin Centre", "mrn": "MRN-1"}, {"siteName": "Paris", "mrn": "MRN-2"}]
    assert person["extensionDetail"] == {"useUdn": True}
    exception = registration["dndException"]
    assert exception["countries"] == ["US", "DE"]
    assert [visit["dnd"] for visit in exception["visitDND"]] == [2, 0.5]


def test_an_empty_cell_leaves_out_and_the_word_for_null_clears() -> None:
    request = only_request(table({**CELLS, "registration.site": " ", "registration.barcode": "(clear)"}))
    assert request.registration is not None
    body = request.registration.body()
    assert "site" not in body
    assert body["barcode"] is None


def test_the_null_of_json_is_not_taken_for_a_value_of_what_can_be_cleared() -> None:
    (problem,) = said(table({**CELLS, "registration.site": "null"}))
    assert "registration.site: the word null is no value here; write (clear)" in problem


def test_what_cannot_be_cleared_says_so() -> None:
    assert said(table({**CELLS, "registration.ppid": "(clear)"})) == [
        "row 1 (line 2): registration.ppid: cannot be cleared; leave the cell empty to keep what stands"
    ]


def test_a_section_without_a_cell_is_not_asked_for() -> None:
    nothing = {name: "" for name in CELLS if name.startswith(("device", "dnd"))}
    request = only_request(table({**CELLS, **nothing}))
    assert (request.device, request.dnd_exception) == (None, None)


def test_quoted_line_breaks_keep_the_count_of_lines() -> None:
    cells = {**CELLS, "registration.participant.extension_detail": '{"note":\n\n1}'}
    assert [row.line for row in rows_of(table(cells, cells))] == [2, 5]


def test_rows_without_content_are_no_rows() -> None:
    found = rows_of(f"{HEAD}\n,,,,\n{SUBJECT},1,3\n\n,,,,\n".encode())
    assert [(row.number, row.line) for row in found] == [(1, 3)]


# Problems


def test_every_problem_of_every_row_is_told_with_line_and_column() -> None:
    bad = {**CELLS, "registration.id": "none", "dnd_exception.countries": "XX", "device.inventory_id": MARKER}
    worse = {**CELLS, "dnd_exception.visit_dnd": "two days", "registration.participant.extension_detail": "{"}
    found = said(
        table(
            {**CELLS, "registration.participant.extension_detail": ""},
            bad | {"registration.participant.extension_detail": ""},
            worse,
        )
    )
    assert [each.split(": ")[:2] for each in found] == [
        ["row 2 (line 3)", "registration.id"],
        ["row 2 (line 3)", "device.inventory_id"],
        ["row 2 (line 3)", "dnd_exception.countries[0]"],
        ["row 3 (line 4)", "dnd_exception.visit_dnd"],
        ["row 3 (line 4)", "registration.participant.extension_detail"],
    ]
    assert MARKER not in repr(found)


def test_names_are_suggested_for_the_first_unknown_columns_only() -> None:
    _, problems = read_header([*NEEDED, *("registration.pppid" for _ in range(25))])
    assert len(problems) == 25
    assert ["did you mean registration.ppid?" in problem for problem in problems] == [True] * 20 + [False] * 5


def test_a_problem_names_the_column_as_the_file_spells_it() -> None:
    cells = {("registration.cpId" if name == "registration.cp_id" else name): cell for name, cell in CELLS.items()}
    assert said(table({**cells, "registration.cpId": "x"}))[0].startswith("row 1 (line 2): registration.cpId: ")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "line 1: file: holds nothing"),
        (b"\xef\xbb\xbf \n\n", "line 2: file: holds nothing"),
        (HEAD.encode(), "line 1: file: holds a first line with the columns, but no row"),
        (HEAD.encode() + b"\n,,,,\n", "holds a first line with the columns, but no row"),
        ("\ufeff".encode("utf-16-le") + b"a\0", "is text in UTF-16"),
        (b"PK\x03\x04rest", "is an Excel workbook"),
        (b' [{"a": 1}]', "is a JSON list"),
        (b'"subject.study_id,x\n', "has a quote that is never closed"),
        (f"{HEAD}\n{SUBJECT},1,\"3\n".encode(), "line 2: file: the row that begins here is not valid CSV: a quote in it is never"),
        (f"{HEAD}\n{SUBJECT},1,\"3\"x\n".encode(), "line 2: file: the row that begins here is not valid CSV: after a closing"),
        (f"{HEAD}\n{SUBJECT},1,\"{'x' * 600_000}\n".encode(), "line 2: file: the row that begins here is longer than 524288"),
        (b"x" * 600_000, "the first line is longer than 524288"),
        (f"{HEAD},registration.id\n{SUBJECT},1,3,1\n".encode(), "column 6 ('registration.id') is given already by column 4"),
        (f"{HEAD},registration.cpId\n".encode(), "column 6 ('registration.cpId') is given already by column 5"),
        (f"{HEAD},registration.pppid\n".encode(), "column 6 ('registration.pppid') is not known; did you mean registration.ppid?"),
        (b"registration.id,subject.mode\n", "column subject.study_id is missing; every row needs it"),
        (b"Anna,Mrkr-7f3a\nBert,Miller\n", "it holds no name that is known"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_one_problem_and_ends_the_reading(data: bytes, expected: str) -> None:
    found = rows_of(data)
    assert found[-1].fatal
    text = " / ".join(problems_of(found))
    assert expected in text
    assert MARKER not in text


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (f"{SUBJECT},1".encode(), "row 1 (line 2): row: has 4 cells, but the first line names 5 columns"),
        (f"{SUBJECT},1,3,{MARKER}".encode(), "row 1 (line 2): row: has 6 cells, but the first line names 5 columns"),
        (f"{SUBJECT},1,".encode() + b"\xff3", "row 1 (line 2): registration.cp_id: is not text in UTF-8"),
        (f"{SUBJECT},1,3\0".encode(), "row 1 (line 2): registration.cp_id: must not hold a NUL character"),
    ],
)
def test_a_row_that_cannot_be_read_does_not_keep_the_next_from_being_read(line: bytes, expected: str) -> None:
    data = HEAD.encode() + b"\n" + line + f"\n{SUBJECT},1,3\n".encode()
    first, second = rows_of(data)
    assert [each.partition(";")[0] for each in problems_of([first])] == [expected]
    assert isinstance(second.request(), IntakeRequest)
    assert MARKER not in repr(first)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"subject": ', "row 1 (line 1): request: is not valid JSON: column 13: expecting value"),
        (b'{"a": "\xff"}', "row 1 (line 1): request: is not text in UTF-8"),
        (b'{"a": "' + b"x" * 1_200_000 + b'"}', "row 1 (line 1): request: is longer than 524288 characters"),
        (b'{"registration": 1, "registration": 2}', "row 1 (line 1): registration: is given more than once"),
        (b"7", "row 1 (line 1): request: must be a JSON object in braces, not a number"),
    ],
)
def test_a_line_that_is_no_request_does_not_keep_the_next_from_being_read(
    tmp_path: Path, line: bytes, expected: str
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(line + b"\n" + json.dumps(example()).encode())
    with open_batch(path) as file:
        first, second = list(file)
    assert problems_of([first])[0].startswith(expected)
    assert (second.number, second.line) == (2, 2)
    assert isinstance(second.request(), IntakeRequest)


def test_a_file_that_is_not_there_is_said_plainly(tmp_path: Path) -> None:
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(BadInput, match="file: cannot be read"), open_batch(path):
            pass


def test_a_stream_is_read_once_and_left_open() -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    pipe = Pipe(table(CELLS))
    with open_batch(pipe) as file:
        assert len(list(file)) == 1
        assert file.ended
    assert not pipe.closed


# Any bytes


def read_all(data: bytes, form: Format) -> BatchFile:
    file = BatchFile(io.BytesIO(data), form)
    for text in problems_of(file):
        assert MARKER not in text
    return file


@given(st.binary(max_size=400), st.sampled_from(Format))
def test_no_bytes_give_anything_but_rows_and_problems(data: bytes, form: Format) -> None:
    read_all(data, form)


CSV_PIECES = st.sampled_from(
    [*",;\t\n\r\"' =", "\0", "\ufeff", "\x85", "\u2028", "1", "x", "(clear)", "=", "{", *CELLS.values(), *COLUMNS]
)


@given(st.lists(CSV_PIECES, max_size=60), st.binary(max_size=4), st.booleans())
def test_no_text_beside_a_good_header_gives_anything_but_rows_and_problems(
    pieces: list[str], rest: bytes, jumbled: bool
) -> None:
    head = "" if jumbled else HEAD + "\n"
    read_all((head + "".join(pieces)).encode() + rest, Format.CSV)


@given(st.dictionaries(st.sampled_from(sorted(COLUMNS)), st.text(max_size=12), max_size=8))
def test_cells_of_any_text_give_a_request_or_problems(cells: dict[str, str]) -> None:
    usable = {name: cell for name, cell in cells.items() if "\0" not in cell}
    row: dict[str, Any] = {**CELLS, **usable}
    problems_of(rows_of(table(row).decode().encode(errors="surrogatepass")))


@given(st.text(max_size=6) | st.from_regex(r"'{0,3}[=+\-@\t\r]{0,2}x?", fullmatch=True))
def test_a_cell_made_harmless_is_no_formula_and_reads_the_same(cell: str) -> None:
    assert without_mark(harmless(cell)) == without_mark(cell)
    assert harmless(cell)[:1] not in list("=+-@\t\r\n")
    assert harmless(harmless(cell)) == harmless(cell)


# The example


def test_the_example_is_valid_input() -> None:
    found = rows_of(template_csv().encode())
    assert len(found) == 2
    assert problems_of(found) == []


def test_the_example_has_every_column_and_the_notes_tell_each() -> None:
    (header, *_) = template_csv().splitlines()
    names = {column.name for column in COLUMNS.values()}
    assert set(header.split(",")) == names
    assert all(f"  {name}" in template_notes() for name in names)
