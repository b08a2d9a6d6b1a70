"""When a vendor that throttles may be asked again.

Clinical One's 429 "says when to retry", but not where it says it (vendor documentation, release notes 26.2), so a
header in seconds, a header as a date and a hint in the body are all understood.
"""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

DEFAULT_CEILING_S: Final = 3600.0
_KEYS: Final = frozenset({"retryafter", "retryafterseconds", "retryin", "retryinseconds"})
_WORDS: Final = r"(?:retry|try again)[a-z ]{0,20}?(?:after|in)\s+(\d{1,9}(?:\.\d{1,3})?)\s*(s\b|sec|min|ms\b)?"
_PHRASE: Final = re.compile(_WORDS, re.IGNORECASE)
_UNITS: Final[Mapping[str, float]] = {"min": 60.0, "ms": 0.001}
_MAX_DEPTH: Final = 3


def retry_after(
    headers: Mapping[str, str], body: object, *, now: datetime, ceiling_s: float = DEFAULT_CEILING_S
) -> float | None:
    """Seconds to wait, 0 to the ceiling, or None if the answer does not say.

    Args:
        headers: by lower-case name. A date is compared with the answer's own ``date``, which no clock skew can distort.
        body: the answer's JSON, or None.
        now: aware; used for a date if the answer itself has no ``date``.
        ceiling_s: longest wait that is believed.
    """
    seconds = _from_header(headers, now)
    if seconds is None:
        seconds = _from_body(body, 0)
    if seconds is None or math.isnan(seconds):
        return None
    return min(max(seconds, 0.0), ceiling_s)


def _from_header(headers: Mapping[str, str], now: datetime) -> float | None:
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,12}(\.\d{1,9})?", value):
        return float(value)
    then = _date(value)
    if then is None:
        return None
    return (then - (_date(headers.get("date", "")) or now)).total_seconds()


def _date(value: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)


def _from_body(body: object, depth: int) -> float | None:
    """Look for a key such as ``retryAfter``, then for words such as "retry after 30 seconds", a few levels down."""
    if isinstance(body, str):
        match = _PHRASE.search(body[:2000])
        return float(match[1]) * _UNITS.get((match[2] or "").lower(), 1.0) if match else None
    if not isinstance(body, Mapping) or depth > _MAX_DEPTH:
        return None
    for key, value in body.items():
        if re.sub(r"[^a-z]", "", str(key).lower()) in _KEYS and (seconds := _number(value)) is not None:
            return seconds
    return next((s for value in body.values() if (s := _from_body(value, depth + 1)) is not None), None)


def _number(value: object) -> float | None:
    if isinstance(value, str) and re.fullmatch(r"\d{1,12}(\.\d{1,9})?", value.strip()):
        return float(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12:
        return float(value)
    return None
