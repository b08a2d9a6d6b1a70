"""Comparing what a registration should say with what stands, key by key.

A body becomes a flat map from path (``participant.birthDate``) to a canonical text, in which blank equals null, dates are
calendar days in the server's zone and lists have no order. Source: server behaviour (dates are midnights in its own zone,
blanks are stored as null, a reader without the right to personal data sees ``###``).
"""

import json
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

MASK: Final = "###"
MASKED: Final = "\0masked"
_NOT_COMPARED: Final = frozenset({"id", "cpId", "cpTitle", "cpShortTitle", "opComments"})
_DATES: Final = frozenset({"registrationDate", "participant.birthDate", "participant.deathDate"})
_MERGING: Final = frozenset({"participant.id", "participant.uid", "participant.empi", "participant.pmis"})

Content = Mapping[str, str]


def wanted_content(body: Mapping[str, Any], zone: ZoneInfo) -> dict[str, str]:
    """The compared paths of a body that is to be sent, each with its canonical text."""
    leaves = {path: value for path, value in _leaves(body) if path.split(".")[0] not in _NOT_COMPARED}
    return {path: _canonical(path, value, zone) for path, value in leaves.items()}


def standing_content(paths: Content, stands: Mapping[str, Any], zone: ZoneInfo) -> dict[str, str]:
    """The same paths as they stand; ``MASKED`` where the reader may not see the value."""
    return {path: _canonical(path, _at(stands, path), zone) for path in paths}


def may_merge(wanted: Content, stands: Content) -> bool:
    """Whether the update may merge people: another participant, or an identifier that differs from what stands."""
    return any(path in _MERGING and wanted[path] != stands[path] for path in wanted)


def is_masked(stands: Content) -> bool:
    """Whether something that must be compared cannot be seen."""
    return any(value == MASKED for value in stands.values())


def differences(wanted: Content, stands: Content) -> list[str]:
    """The paths that an update would change (or may change, where the value cannot be seen)."""
    return [path for path in wanted if wanted[path] != stands[path]]


def _leaves(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            found += _leaves(item, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", item))
    return found


def _at(stands: Mapping[str, Any], path: str) -> Any:
    value: Any = stands
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _canonical(path: str, value: Any, zone: ZoneInfo) -> str:
    if _holds_mask(value):
        return MASKED
    if value is None or value in ("", [], {}) or (isinstance(value, str) and not value.strip()):
        return ""
    if path in _DATES:
        return _day(value, zone)
    if isinstance(value, list):
        return json.dumps(sorted(_plain(item) for item in value))
    return _plain(value)


def _holds_mask(value: Any) -> bool:
    if isinstance(value, list):
        return any(_holds_mask(item) for item in value)
    if isinstance(value, Mapping):
        return any(_holds_mask(item) for item in value.values())
    return bool(value == MASK)


def _plain(value: Any) -> str:
    """Text for a value: a number and its text are the same, blank keys of an object are not there."""
    if isinstance(value, Mapping):
        kept = {key: _plain(item) for key, item in value.items() if item not in (None, "", [], {})}
        return json.dumps(kept, sort_keys=True)
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value).strip()


def _day(value: Any, zone: ZoneInfo) -> str:
    """A calendar day: ``yyyy-MM-dd``, an ISO instant, or epoch milliseconds (a number, or its text) in the server's zone."""
    text = str(value).strip()
    try:
        if text.lstrip("-").isdigit():
            return datetime.fromtimestamp(int(text) / 1000, UTC).astimezone(zone).date().isoformat()
        if len(text) == len("yyyy-mm-dd"):
            return date.fromisoformat(text).isoformat()
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError, OSError):
        return f"?{text}"  # not a date we know: equal to nothing that we send
    return (moment.astimezone(zone) if moment.tzinfo else moment).date().isoformat()
