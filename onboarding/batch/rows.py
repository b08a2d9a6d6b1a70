"""A row of a file of many subjects, and what is wrong with it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from onboarding.batch.columns import Header
from onboarding.errors import BadInput
from onboarding.intake import IntakeRequest, checked_request


@dataclass(frozen=True)
class RowProblem:
    """One thing that is wrong: in which row (0: none of its own) and line, at which column or field, and what."""

    number: int
    line: int
    column: str
    what: str

    def __str__(self) -> str:
        row = f"row {self.number} (line {self.line})" if self.number else f"line {self.line}"
        return f"{row}: {self.column}: {self.what}"


@dataclass(frozen=True, repr=False)
class Row:
    """One row of a file. It may hold personal data, so no ``repr`` shows it.

    Attributes:
        number: counts rows from 1; blank ones are not counted. 0: no row, but a problem of the whole file.
        line: the line of the file where it begins, from 1.
        raw: its cells, or its JSON text, as they stand in the file.
        content: as a request is written in JSON; empty if it could not be read.
        problems: why it could not be read.
        fatal: reading ended here, since nobody can tell what follows.
    """

    number: int
    line: int
    raw: list[str] | str
    content: Mapping[str, Any]
    problems: tuple[RowProblem, ...] = ()
    fatal: bool = False
    header: Header | None = None

    def request(self) -> IntakeRequest | tuple[RowProblem, ...]:
        """The row's request, or everything that is wrong with the row."""
        if self.problems:
            return self.problems
        try:
            return checked_request(self.content)
        except BadInput as wrong:
            lines = wrong.problems
        return self.worded(lines)

    def worded(self, lines: list[str]) -> tuple[RowProblem, ...]:
        """Lines as ``BadInput`` has them, as problems of this row: the field as the file's columns spell it."""
        return tuple(self._problem(*line.partition(": ")[::2]) for line in lines)

    def _problem(self, place: str, what: str) -> RowProblem:
        if not what:
            place, what = "request", place
        shown = self.header.spelt(place) if self.header is not None else place
        return RowProblem(self.number, self.line, shown, what)
