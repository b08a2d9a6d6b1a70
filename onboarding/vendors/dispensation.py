"""What Clinical One says about a kit: which subject it was dispensed to, and what is known of it from the history.

Source: vendor documentation, "dispensation" of a kit (v1.0) and "dispensation-history" of a subject (v10.0). One copy
of the first page documents another answer for the same path, a status without a subject; it proves no pairing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from onboarding.identifiers import normalise_id
from onboarding.vendors.wire import Unreadable

DISPENSED: Final = 4
"""``inventoryStatus`` of a kit that a subject has."""

NOT_DISPENSED_TO_SUBJECT: Final = 17
"""``inventoryStatus`` of a kit that never reached its subject."""


class ConnectionType(StrEnum):
    """How a device's data travels (``deviceConnection``)."""

    CLOUD_TO_CLOUD = "CloudtoCloud"
    DEVICE_TO_CLOUD = "DevicetoCloud"
    NONE = "NoConnection"


class SubjectNotStated(Unreadable):
    """A kit is dispensed, but the answer does not say to whom."""


@dataclass(frozen=True, slots=True)
class Dispensation:
    """To whom a kit is dispensed, and at which visit. Ids are 32 upper-case hexadecimal digits.

    Attributes:
        subject_id: the subject that has the kit.
        visit_id: the visit it was dispensed at (``visitSrcId``), or None if the answer has none.
        instance_number: which instance of the visit, or None.
        kit_number: the kit's printed number as text, or None.
    """

    subject_id: str
    visit_id: str | None
    instance_number: int | None
    kit_number: str | None


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """A kit in a subject's history. A row is no proof that the subject has the kit now.

    Attributes:
        inventory_id: the kit, 32 upper-case hexadecimal digits.
        connection: its ``deviceConnection``; None if it has none, or one that is not documented.
        status: ``inventoryStatus``, such as ``DISPENSED``, or None.
        confirmed: ``dispensationConfirmed``, or None.
        dispensed_at: ``dispensationDate`` as the vendor writes it, or None.
        instance_number: which instance of the visit, or None.
        device_type: ``deviceType`` as the vendor writes it, or None.
    """

    inventory_id: str
    connection: ConnectionType | None
    status: int | None
    confirmed: bool | None
    dispensed_at: str | None
    instance_number: int | None
    device_type: str | None


def read_dispensation(content: object) -> Dispensation | None:
    """The answer of a kit's dispensation; None says that it is not dispensed (yet).

    What an undispensed kit answers is not documented: nothing, ``null``, something empty, or no ``subjectSrcId``.

    Raises:
        SubjectNotStated: the kit is dispensed, but the answer names no subject.
        Unreadable: it is something else.
    """
    if content is None or content == []:
        return None
    if not isinstance(content, Mapping):
        raise Unreadable("a dispensation is an object")
    subject = content.get("subjectSrcId")
    if subject is None or (isinstance(subject, str) and not subject.strip()):
        if _status_of_kit(content) == DISPENSED:
            raise SubjectNotStated("the kit is dispensed, but to whom is not said")
        return None
    return Dispensation(
        subject_id=_id(subject),
        visit_id=None if content.get("visitSrcId") is None else _id(content["visitSrcId"]),
        instance_number=_whole(content.get("instanceNumber")),
        kit_number=_text(content.get("kitNumber")),
    )


def read_history(content: object) -> list[HistoryRow]:
    """The rows of a dispensation history that name a kit; an empty list says that nothing was dispensed at the visit.

    Raises:
        Unreadable: it is no list of objects, or an id is none.
    """
    if not isinstance(content, list) or not all(isinstance(row, Mapping) for row in content):
        raise Unreadable("a history is a list of objects")
    # Kits without a serial number have no inventory id; no device is one of them.
    return [_row(row) for row in content if row.get("inventoryId") is not None]


def as_of_text(moment: datetime) -> str:
    """``asofdate`` as the vendor writes its pattern: UTC with milliseconds and ``Z``."""
    if moment.tzinfo is None:
        raise ValueError("as_of needs a time zone")
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _row(row: Mapping[str, object]) -> HistoryRow:
    confirmed = row.get("dispensationConfirmed")
    return HistoryRow(
        inventory_id=_id(row["inventoryId"]),
        connection=_connection(row.get("deviceConnection")),
        status=_whole(row.get("inventoryStatus")),
        confirmed=confirmed if isinstance(confirmed, bool) else None,
        dispensed_at=_text(row.get("dispensationDate")),
        instance_number=_whole(row.get("instanceNumber")),
        device_type=_text(row.get("deviceType")),
    )


def _connection(value: object) -> ConnectionType | None:
    plain = "".join(letter for letter in value.lower() if letter.isalpha()) if isinstance(value, str) else ""
    return next((kind for kind in ConnectionType if kind.value.lower() == plain), None)


def _status_of_kit(content: Mapping[str, object]) -> int | None:
    """The status in the other documented answer: a number, or a name that can have spaces around it."""
    for key in ("inventoryStatusId", "inventoryStatus"):
        value = content.get(key)
        if isinstance(value, str) and value.strip().lower() == "dispensed":
            return DISPENSED
        if (number := _whole(value)) is not None:
            return number
    return None


def _id(value: object) -> str:
    try:
        return normalise_id(value if isinstance(value, str) else "")
    except ValueError:
        raise Unreadable("an id is not 32 hexadecimal digits") from None


def _whole(value: object) -> int | None:
    if isinstance(value, str) and value.strip().isdecimal() and len(value) < 20:
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        return None
    return int(value)


def _text(value: object) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    return str(_whole(value)) if isinstance(value, float) and _whole(value) is not None else str(value)
