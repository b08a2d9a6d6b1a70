"""Identifiers of Clinical One: UUIDs written as 32 upper-case hexadecimal digits without dashes.

The vendor's pages print them that way in most places and as dashed lower case in one (the dispensation check), so both
are taken, one form is kept, compared and sent. Source: vendor documentation, "string(uuid)" of every path and body.
"""

import re
from typing import Annotated, Final

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

_SHAPE: Final = r"[0-9A-Fa-f]{32}|[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"
_ID: Final = re.compile(_SHAPE)

ID_IS: Final = "an id of 32 hexadecimal digits, or the same with dashes as 8-4-4-4-12"


def normalise_id(text: str) -> str:
    """The id as 32 upper-case hexadecimal digits; space around it is dropped.

    Raises:
        ValueError: it is no UUID. The message does not repeat the text.
    """
    stripped = text.strip()
    if _ID.fullmatch(stripped) is None:
        raise ValueError(f"must be {ID_IS}")
    return stripped.replace("-", "").upper()


def same_id(one: str | None, other: str | None) -> bool:
    """Whether both are ids and name the same thing. What is missing or is no id is never the same as anything."""
    if one is None or other is None:
        return False
    try:
        return normalise_id(one) == normalise_id(other)
    except ValueError:
        return False


def _vendor_id(text: str) -> str:
    try:
        return normalise_id(text)
    except ValueError as problem:
        raise PydanticCustomError("vendor_id", "{what}", {"what": str(problem)}) from None


VendorId = Annotated[str, AfterValidator(_vendor_id), Field(json_schema_extra={"pattern": rf"^\s*(?:{_SHAPE})\s*$"})]
"""A field that takes an id in either spelling and holds 32 upper-case hexadecimal digits."""
