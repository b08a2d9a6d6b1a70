"""Where a batch and its rows stand."""

from enum import StrEnum


class BatchState(StrEnum):
    """Where one file of many subjects stands. ``releasing``: every good row becomes a case, whoever has to finish that."""

    FILLING = "filling"
    RELEASING = "releasing"
    RELEASED = "released"
    REJECTED = "rejected"


class RowStanding(StrEnum):
    """What became of one row of such a file. ``repeated``: an earlier row of the file asks for the very same."""

    DRAFT = "draft"
    OPENED = "opened"
    FOUND = "found"
    REPLACED = "replaced"
    REPEATED = "repeated"
    LEFT_OUT = "left_out"
