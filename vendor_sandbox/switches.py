"""What differs between installations and editions of the two vendors, as switches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

CHOICES: dict[str, tuple[str, ...]] = {
    "openspecimen_errors": ("code", "doc"),
    "openspecimen_nulls": ("omit", "show"),
    "undispensed": ("empty", "null", "object", "no_subject", "null_subject"),
    "dispensation_ids": ("dashed", "plain"),
    "dispensation_schema": ("dispensation", "kit_status"),
    "error_details": ("object", "string"),
    "phrases": ("classic", "newer"),
    "dnd_path": ("dndexception", "DND Exception", "both"),
    "create_answer": ("id", "empty"),
    "cloud_to_cloud_answer": ("credentials", "id_only"),
}


class SwitchRefused(ValueError):
    """A switch or its value is unknown; the message names what is allowed."""


@dataclass(frozen=True, slots=True)
class Switches:
    """One setting per point where the documentation leaves a choice or installations differ.

    Attributes:
        openspecimen_errors: `code` = statuses as the server sends them, `doc` = as the documentation prints them
            (404 for an unknown registration, 401 for a missing right).
        openspecimen_nulls: fields without a value are left out (`omit`, newer servers) or sent as null (`show`).
        time_zone: OpenSpecimen's own zone; dates are midnights of it.
        latency_ms: added before every vendor request is handled.
        session_idle_seconds: an OpenSpecimen token dies after so long without use.
        token_seconds: a Clinical One token lives so long.
        wrap_results: Clinical One's successes come inside `{"status", "version", "result"}`.
        undispensed: what the dispensation call answers for a kit nobody holds (always 200).
        dispensation_ids: spelling of the ids in that answer; the documentation's page shows dashed lower case.
        dispensation_schema: `kit_status` answers the other documented schema, a status without a subject.
        error_details: type of `errorData.details`.
        phrases: wording of Clinical One's errors; newer pages change hyphens, articles and "ID".
        dnd_path: the path segment that works for DND exceptions.
        create_answer: `empty` answers a created exception without a body, as one edition documents.
        cloud_to_cloud_answer: whether registering a cloud-to-cloud device answers credentials.
        stale_list_changes: lists of exceptions are answered as they were so many changes ago.
    """

    openspecimen_errors: str = "code"
    openspecimen_nulls: str = "omit"
    time_zone: str = "UTC"
    latency_ms: float = 0.0
    session_idle_seconds: float = 3600.0
    token_seconds: float = 600.0
    wrap_results: bool = False
    undispensed: str = "empty"
    dispensation_ids: str = "dashed"
    dispensation_schema: str = "dispensation"
    error_details: str = "object"
    phrases: str = "classic"
    dnd_path: str = "dndexception"
    create_answer: str = "id"
    cloud_to_cloud_answer: str = "credentials"
    stale_list_changes: int = 0

    @property
    def zone(self) -> ZoneInfo:
        """The zone OpenSpecimen keeps its dates in."""
        return ZoneInfo(self.time_zone)

    def changed(self, values: Mapping[str, object]) -> Switches:
        """A copy with `values` set.

        Raises:
            SwitchRefused: a name or a value is not allowed.
        """
        known = {entry.name: type(entry.default) for entry in fields(self)}
        for name, value in values.items():
            if name not in known:
                raise SwitchRefused(f"no switch {name!r}; there are: {', '.join(sorted(known))}")
            _check(name, value, known[name])
        return replace(self, **values)  # type: ignore[arg-type]  # names and types were checked above


def _check(name: str, value: object, wanted: type) -> None:
    if name in CHOICES and value not in CHOICES[name]:
        raise SwitchRefused(f"{name} must be one of: {', '.join(CHOICES[name])}")
    if wanted is bool or isinstance(value, bool):
        suitable = wanted is bool and isinstance(value, bool)
    elif wanted is float:
        suitable = isinstance(value, int | float) and value >= 0
    elif wanted is int:
        suitable = isinstance(value, int) and value >= 0
    else:
        suitable = isinstance(value, str)
    if not suitable:
        raise SwitchRefused(f"{name} must be of type {wanted.__name__}, and not negative")
    if name == "time_zone":
        try:
            ZoneInfo(str(value))
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise SwitchRefused(f"time_zone: no zone {value!r}") from error
