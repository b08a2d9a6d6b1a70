"""Cells that a spreadsheet would run as a formula: how they are made harmless, and how that is undone.

A cell that begins with one of these characters gets an apostrophe before it, which spreadsheets take as "this is text".
Reading takes one apostrophe away where it stands before such a character, so nothing is lost between writing and reading.
"""

import re
from typing import Final

_RUN_AS_FORMULA: Final = "=+\\-@\t\r\n＝＋－＠"  # noqa: RUF001 - the wide characters are run as well
_DANGEROUS: Final = re.compile(f"[{_RUN_AS_FORMULA}]")
_MARKED: Final = re.compile(f"'+[{_RUN_AS_FORMULA}]")


def harmless(cell: str) -> str:
    """A cell that is no formula and reads as the same value."""
    return "'" + cell if _DANGEROUS.match(cell) else cell


def without_mark(cell: str) -> str:
    """The value of a cell: what ``harmless`` put before it is taken away."""
    return cell[1:] if cell.startswith("'") and _MARKED.match(cell) else cell
