"""Reading a file of many subjects row by row: CSV or JSON Lines, once, with bounded memory.

What is wrong with a row is said with its line and column and without its values; reading goes on with the next row, unless
nobody could tell where that begins.
"""

import csv
import hashlib
import io
import re
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO, Final

from onboarding.batch.columns import Header, read_cells, read_header
from onboarding.batch.rows import Row, RowProblem
from onboarding.errors import BadInput
from onboarding.json_input import MAX_BYTES, read_object

MAX_ROWS: Final = 1_000_000
MAX_ROW_LENGTH: Final = MAX_BYTES
DELIMITERS: Final = (",", ";", "\t")
_BLOCK: Final = 64 * 1024
_BOM: Final = b"\xef\xbb\xbf"
_NOT_UTF8: Final = re.compile("[\udc80-\udcff]")  # what the decoder makes of a byte that it cannot read
_NUL: Final = "\0"
_UNREADABLE: Final = re.compile("[\0\udc80-\udcff]")

if csv.field_size_limit() < MAX_ROW_LENGTH:
    csv.field_size_limit(MAX_ROW_LENGTH)  # of the whole process; a list of sites is longer than the default


class Format(StrEnum):
    """How the rows are written."""

    CSV = "csv"
    JSON_LINES = "jsonl"


_SUFFIXES: Final[Mapping[str, Format]] = {
    ".csv": Format.CSV,
    ".tsv": Format.CSV,
    ".txt": Format.CSV,
    ".jsonl": Format.JSON_LINES,
    ".ndjson": Format.JSON_LINES,
}


class BatchFile:
    """A file being read: iterate over its rows, once. Made by ``open_batch``.

    Attributes:
        format: how its rows are written.
        bom: whether it begins with a byte order mark.
        delimiter, header_cells: of a CSV file, known once the first row was read.
        ended: every row was read, to the end of the file.
    """

    def __init__(self, stream: BinaryIO, form: Format | None) -> None:
        self._bytes = _Digesting(stream)
        buffered = io.BufferedReader(self._bytes, _BLOCK)
        start = buffered.peek(_BLOCK)
        self.bom = start.startswith(_BOM)
        self._refusal = _refusal(start)
        self.format = form or _format_of(start)
        self.delimiter = DELIMITERS[0]
        self.header_cells: list[str] = []
        self._text = io.TextIOWrapper(buffered, encoding="utf-8-sig", errors="surrogateescape", newline="")
        self._line = 0
        self._number = 0
        self.ended = False

    @property
    def sha256(self) -> str:
        """SHA-256 of the file's bytes, in hex; known once every row was read."""
        assert self.ended, "the digest is known at the end"
        return self._bytes.sha256.hexdigest()

    def __iter__(self) -> Iterator[Row]:
        if self._refusal:
            yield self._fatal(1, self._refusal)
            return
        for row in self._csv_rows() if self.format is Format.CSV else self._json_rows():
            yield row
            if row.fatal:
                return
            if row.number >= MAX_ROWS and self._text.readline(_BLOCK):
                yield self._fatal(self._line + 1, f"has more than {MAX_ROWS} rows; split it")
                return
        if self._number == 0:
            has = "a first line with the columns, but no row" if self.header_cells else "nothing"
            yield self._fatal(max(1, self._line), f"holds {has}; 'onboard batch --template' writes an example")
            return
        self.ended = True

    def _fatal(self, line: int, *what: str) -> Row:
        return Row(0, line, "", {}, tuple(RowProblem(0, line, "file", each) for each in what), fatal=True)

    # CSV

    def _csv_rows(self) -> Iterator[Row]:
        header = yield from self._read_header()
        if header is None:
            return
        lines = _RowLines(self)
        reader = csv.reader(lines, delimiter=self.delimiter, strict=True)
        while True:
            begins = lines.begin_row()
            try:
                cells = next(reader, None)
            except _TooLong:
                yield self._fatal(
                    begins,
                    f"the row that begins here is longer than {MAX_ROW_LENGTH} characters, which is the most that is read; "
                    "perhaps a quote in it is never closed",
                )
                return
            except csv.Error as error:
                yield self._fatal(
                    begins, f"the row that begins here is not valid CSV: {_csv_words(error)}; reading ended here"
                )
                return
            if cells is None:
                return
            if not any(cells):
                continue  # spreadsheets leave rows without content at the end
            self._number += 1
            yield self._csv_row(header, begins, cells)

    def _csv_row(self, header: Header, line: int, cells: list[str]) -> Row:
        found: list[tuple[str, str]] = []
        if len(cells) != len(header.names):
            hint = "; a list in a cell needs quotes" if self.delimiter == ";" and len(cells) > len(header.names) else ""
            found.append(("row", f"has {len(cells)} cells, but the first line names {len(header.names)} columns{hint}"))
        for at, cell in enumerate(cells if _UNREADABLE.search("".join(cells)) else ()):
            name = header.names[at] if at < len(header.names) else f"column {at + 1}"
            if _NOT_UTF8.search(cell):
                found.append((name, "is not text in UTF-8; save the file as CSV UTF-8"))
            elif _NUL in cell:
                found.append((name, "must not hold a NUL character"))
        content: dict[str, Any] = {}
        if not found:
            content, found = read_cells(header, cells)
        problems = tuple(RowProblem(self._number, line, column, what) for column, what in found)
        return Row(self._number, line, cells, content, problems, header=header)

    def _read_header(self) -> Generator[Row, None, Header | None]:
        text = self.next_line()
        while text is not None and not text.strip():
            text = self.next_line()
        if text is None:
            return None
        if len(text) > MAX_ROW_LENGTH:
            yield self._fatal(self._line, f"the first line is longer than {MAX_ROW_LENGTH} characters")
            return None
        split = {delimiter: _split(text, delimiter) for delimiter in DELIMITERS}
        self.delimiter = max(
            DELIMITERS, key=lambda delimiter: (_known_in(split[delimiter]), len(split[delimiter] or ()))
        )
        cells = split[self.delimiter]
        if cells is None:
            yield self._fatal(self._line, "the first line, which names the columns, has a quote that is never closed")
            return None
        self.header_cells = cells
        header, problems = read_header(cells)
        if problems:
            yield self._fatal(self._line, *problems)
            return None
        return header

    # JSON Lines

    def _json_rows(self) -> Iterator[Row]:
        while (text := self.next_line()) is not None:
            line = self._line
            too_long = len(text) > MAX_ROW_LENGTH
            while len(text) > MAX_ROW_LENGTH and (text := self._text.readline(MAX_ROW_LENGTH + 1)):
                pass  # the rest of a line that is too long
            if not too_long and not text.strip():
                continue
            self._number += 1
            yield self._json_row(line, "" if too_long else text.rstrip("\r\n"), too_long=too_long)

    def _json_row(self, line: int, text: str, *, too_long: bool) -> Row:
        row = Row(self._number, line, text, {})
        if too_long:
            lines = [f"request: is longer than {MAX_ROW_LENGTH} characters, which is the most that is read"]
        elif _NOT_UTF8.search(text):
            lines = ["request: is not text in UTF-8"]
        else:
            try:
                return Row(self._number, line, text, read_object(text))
            except BadInput as wrong:
                lines = [problem.replace(": line 1, column", ": column") for problem in wrong.problems]
        return Row(self._number, line, text, {}, row.worded(lines))

    def next_line(self) -> str | None:
        """The next line with its end, or the beginning of one that is too long; None at the end."""
        text = self._text.readline(MAX_ROW_LENGTH + 1)
        if not text:
            return None
        self._line += 1
        return text

    @property
    def line(self) -> int:
        """How many lines were read."""
        return self._line


class _TooLong(Exception):
    """A row is longer than what is read."""


class _RowLines(Iterator[str]):
    """The lines that the CSV reader asks for, which may be several for one row."""

    def __init__(self, file: BatchFile) -> None:
        self._file = file
        self._length = 0

    def begin_row(self) -> int:
        """Count a row's length anew; returns its line."""
        self._length = 0
        return self._file.line + 1

    def __next__(self) -> str:
        line = self._file.next_line()
        if line is None:
            raise StopIteration
        self._length += len(line)
        if self._length > MAX_ROW_LENGTH:
            raise _TooLong
        return line


class _Digesting(io.RawIOBase):
    """Bytes on their way in, digested."""

    def __init__(self, stream: BinaryIO) -> None:
        self._read = getattr(stream, "read1", stream.read)
        self.sha256 = hashlib.sha256()

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Read some bytes."""
        view = memoryview(buffer).cast("B")
        try:
            data = self._read(len(view))
        except OSError as error:
            problem = f"file: cannot be read to its end: {error.strerror}"
        else:
            self.sha256.update(data)
            view[: len(data)] = data
            return len(data)
        raise BadInput([problem])


@contextmanager
def open_batch(source: Path | BinaryIO) -> Iterator[BatchFile]:
    """Open a file by its path, or take a stream of bytes, which is not closed.

    The format goes by the file's suffix (.csv, .tsv, .txt; .jsonl, .ndjson), else by the first byte that is not blank.

    Raises:
        BadInput: the file cannot be read. Whatever is wrong inside is told by its rows.
    """
    if not isinstance(source, Path):
        with _readable():
            file = BatchFile(source, None)
        yield file
        return
    with _readable():
        stream = source.open("rb")
    with stream:
        with _readable():
            file = BatchFile(stream, _SUFFIXES.get(source.suffix.lower()))
        yield file


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BadInput([f"file: cannot be read: {error.strerror}"]) from None


def _format_of(start: bytes) -> Format:
    first = start.removeprefix(_BOM).lstrip()[:1]
    return Format.JSON_LINES if first == b"{" else Format.CSV


def _refusal(start: bytes) -> str | None:
    """What this file is instead, if it is known to be something else."""
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "is text in UTF-16; save it as CSV UTF-8"
    if start.startswith(b"PK\x03\x04"):
        return "is an Excel workbook (or another archive); save it as CSV UTF-8"
    if start.removeprefix(_BOM).lstrip()[:1] == b"[":
        return "is a JSON list; write one object a line, without brackets around them"
    return None


def _split(text: str, delimiter: str) -> list[str] | None:
    try:
        return next(csv.reader([text], delimiter=delimiter, strict=True))
    except csv.Error:
        return None


def _known_in(cells: list[str] | None) -> int:
    return sum(column is not None for column in read_header(cells)[0].columns) if cells else -1


def _csv_words(error: csv.Error) -> str:
    if "expected after" in str(error):
        return "after a closing quote only the delimiter may follow, and a quote inside a quoted cell is written twice"
    if "end of data" in str(error):
        return "a quote in it is never closed"
    return "a line end stands where none may be"
