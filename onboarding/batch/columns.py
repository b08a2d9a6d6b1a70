"""Columns of a CSV file: which there are, in which spellings, and how their cells become a request's fields.

Names are paths of the request, such as ``registration.id`` or ``registration.cpId``. An empty cell is a field that is left
out. Most fields take text and convert it themselves.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import product
from types import UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin

from pydantic import AliasChoices
from pydantic.fields import FieldInfo

from onboarding.batch.cells import without_mark
from onboarding.errors import BadInput
from onboarding.fields import Section
from onboarding.intake import IntakeRequest, Pmi
from onboarding.json_input import read_object
from onboarding.request import VisitDnd

CLEAR: Final = "(clear)"
"""The word for null in a cell: the field is to be emptied."""

LIST_SEPARATOR: Final = ";"
_NULL_OF_JSON: Final = "null"
_MAY_BE_MORE: Final = f"'{CLEAR[0]}{_NULL_OF_JSON[0]} \t\r\n"  # a cell that begins otherwise is no more than its text
_SUGGESTIONS: Final = 20  # looking for the closest name takes a millisecond
_EXAMPLE: Final = "'onboard batch --template' writes an example"
NEEDED: Final = ("subject.study_id", "subject.mode", "subject.subject_id")


class BadCell(Exception):
    """The cell cannot be read; its text says why, and holds none of it."""


def _entries(cell: str) -> list[str]:
    return [entry for part in cell.split(LIST_SEPARATOR) if (entry := part.strip())]


def _pairs(cell: str, first: str, second: str, form: str) -> list[dict[str, str]]:
    pairs = [entry.partition("=") for entry in _entries(cell)]
    if not all(separator for _, separator, _ in pairs):
        raise BadCell(f"must be a list of {form}, separated by {LIST_SEPARATOR}")
    return [{first: left.strip(), second: right.strip()} for left, _, right in pairs]


def _object(cell: str) -> dict[str, Any]:
    try:
        return read_object(cell)
    except BadInput as wrong:
        what = wrong.problems[0].partition(": ")[2]
    raise BadCell(f"must be a JSON object in braces: {what}")


def _visits(cell: str) -> list[dict[str, str]]:
    return _pairs(cell, "visit_src_id", "dnd", "visitId=days")


def _record_numbers(cell: str) -> list[dict[str, str]]:
    return _pairs(cell, "site_name", "mrn", "site name=number")


@dataclass(frozen=True)
class Column:
    """One column that is known: the field's path in our spelling, what makes its value, and whether null clears it."""

    path: tuple[str, ...]
    read: Callable[[str], Any] | None
    clears: bool
    field: FieldInfo

    @property
    def name(self) -> str:
        """The column's name in our spelling."""
        return ".".join(self.path)

    def value(self, cell: str) -> Any:
        """What a cell that is not blank says; raises ``BadCell``."""
        text = without_mark(cell)
        if text.strip() == CLEAR:
            if not self.clears:
                raise BadCell("cannot be cleared; leave the cell empty to keep what stands")
            return None
        if self.clears and text.strip() == _NULL_OF_JSON:
            raise BadCell(
                f"the word null is no value here; write {CLEAR} to empty it, or leave the cell empty to keep what stands"
            )
        return text if self.read is None else self.read(text)


def _types(annotation: Any) -> Iterator[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _types(get_args(annotation)[0])
    elif origin in {Union, UnionType}:
        for part in get_args(annotation):
            yield from _types(part)
    else:
        yield annotation


def _reader(annotation: Any) -> Callable[[str], Any] | None:
    for kind in _types(annotation):
        if get_origin(kind) is tuple:
            (entry, *_) = _types(get_args(kind)[0])
            return {VisitDnd: _visits, Pmi: _record_numbers}.get(entry, _entries)
        if get_origin(kind) is dict:
            return _object
    return None


def _columns(model: type[Section], above: tuple[tuple[str, ...], ...]) -> Iterator[tuple[Column, Iterator[str]]]:
    for name, field in model.model_fields.items():
        alias = field.validation_alias
        spellings = tuple(map(str, alias.choices)) if isinstance(alias, AliasChoices) else (name,)
        path = (*above, spellings)
        section = next((kind for kind in _types(field.annotation) if _is_section(kind)), None)
        if section is not None:
            yield from _columns(section, path)
        else:
            column = Column(
                tuple(step[0] for step in path), _reader(field.annotation), name in model.null_clears, field
            )
            yield column, (".".join(steps) for steps in product(*path))


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)


def _known() -> dict[str, Column]:
    return {spelling: column for column, spellings in _columns(IntakeRequest, ()) for spelling in spellings}


COLUMNS: Final[Mapping[str, Column]] = _known()
"""Every column that is taken, by every spelling of its name."""


@dataclass(frozen=True)
class Header:
    """The columns of one file, as it names them; None is a column without a name, which must be empty."""

    names: tuple[str, ...]
    columns: tuple[Column | None, ...]

    def spelt(self, path: str) -> str:
        """A place in a request, with the column's name as this file spells it."""
        for end in ("[", None):  # a list's entries and what is below them have no columns of their own
            place, bracket, rest = path.partition("[") if end else (path, "", "")
            for name, column in zip(self.names, self.columns, strict=True):
                if column is not None and column.name == place:
                    return name + bracket + rest
        return path


def read_header(cells: Sequence[str]) -> tuple[Header, list[str]]:
    """The file's columns, and what is wrong with them. A name is repeated only beside others that are known."""
    names = tuple(without_mark(cell).strip() for cell in cells)
    columns = tuple(COLUMNS.get(name) for name in names)
    header = Header(names, columns)
    if not any(columns):
        what = "must name the columns, such as registration.id, with commas, semicolons or tabs between them"
        return header, [f"the first line {what}, but it holds no name that is known; {_EXAMPLE}"]
    unknown = [
        (at, name) for at, (name, column) in enumerate(zip(names, columns, strict=True), 1) if name and not column
    ]
    problems = [
        f"column {at} ({_shown(name)}) is not known{_closest(name) if number < _SUGGESTIONS else ''}"
        for number, (at, name) in enumerate(unknown)
    ]
    first: dict[str, int] = {}
    for at, column in enumerate(columns, start=1):
        if column is None:
            continue
        if column.name in first:
            problems.append(f"column {at} ({_shown(names[at - 1])}) is given already by column {first[column.name]}")
        first.setdefault(column.name, at)
    problems += [f"column {needed} is missing; every row needs it" for needed in NEEDED if needed not in first]
    return header, problems


def read_cells(header: Header, cells: Sequence[str]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """A row's content, as a request is written in JSON, and (column, problem) for cells that cannot be read."""
    content: dict[str, Any] = {}
    problems = []
    for at, cell in enumerate(cells):
        if not cell or cell.isspace():
            continue
        column = header.columns[at]
        if column is None:
            problems.append((f"column {at + 1}", "has no name in the first line, so nothing may stand in it"))
            continue
        *sections, name = column.path
        place = content
        for section in sections:
            place = place.setdefault(section, {})
        if column.read is None and cell[0] not in _MAY_BE_MORE:
            place[name] = cell
            continue
        try:
            place[name] = column.value(cell)
        except BadCell as wrong:
            problems.append((header.names[at], str(wrong)))
    return content, problems


def _shown(name: str) -> str:
    return ascii(name if len(name) <= 60 else name[:60] + "...")


def _closest(name: str) -> str:
    known = list(COLUMNS)
    closest = get_close_matches(name, known, n=1) or get_close_matches(name.lower(), known, n=1)
    return f"; did you mean {closest[0]}?" if closest else ""
