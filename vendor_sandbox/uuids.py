"""Ids and codes of Clinical One: UUIDs, mostly 32 upper-case hex digits, on one page dashed and lower-case."""

from __future__ import annotations

import hashlib
import re

_LETTERS = "GHJKLMNPQRSTUVWXYZ"
_PLAIN = re.compile(r"[0-9A-Fa-f]{32}")
_DASHED = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


def normalised(value: object) -> str | None:
    """The id as 32 upper-case hex digits; None if `value` is not a UUID in either spelling."""
    if isinstance(value, str) and (_PLAIN.fullmatch(value) or _DASHED.fullmatch(value)):
        return value.replace("-", "").upper()
    return None


def dashed(plain: str) -> str:
    """The same id, dashed and lower-case, as the inventory dispensation page shows it."""
    low = plain.lower()
    return "-".join((low[:8], low[8:12], low[12:16], low[16:20], low[20:]))


def derived(*parts: object) -> str:
    """A made-up id that is the same in every run for the same parts."""
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()[:32].upper()


def code(*parts: object, length: int) -> str:
    """A made-up code of letters that no hex number contains, so that a search for it finds nothing else."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return "".join(_LETTERS[byte % len(_LETTERS)] for byte in digest[:length])
