"""How OpenSpecimen reads and writes JSON: lenient, unknown keys dropped, dates as midnights of its own zone.

Sources: the vendor's pages and the behaviour of the open-source server (its Jackson set-up and date deserializer).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from vendor_sandbox.openspecimen_world import OpenSpecimenWorld, Registration

MASK = "###"

_PLAIN_DATE = re.compile(r"(\d{1,4})-(\d{1,2})-(\d{1,2})")
_INSTANT = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:?\d{2})")
_MILLIS = re.compile(r"-?\d+")

Reader = Callable[[Any, ZoneInfo], Any]


class Unreadable(ValueError):
    """The server answers 400 INVALID_REQUEST: malformed JSON, or a value of the wrong type."""


def _text(value: Any, _zone: ZoneInfo) -> str | None:
    if value is None:
        return None
    if isinstance(value, dict | list):
        raise Unreadable("JSON parse error: Cannot deserialize value of type `java.lang.String`")
    return str(value).lower() if isinstance(value, bool) else str(value).strip() or None


def _integer(value: Any, _zone: ZoneInfo) -> int | None:
    if value is None or value == "":
        return None
    try:
        return int(float(value) if isinstance(value, bool) else value)
    except (TypeError, ValueError, OverflowError) as error:
        raise Unreadable("JSON parse error: Cannot deserialize value of type `java.lang.Long`") from error


def read_count(value: Any, default: int) -> int:
    """A number of rows, `default` where none is given.

    Raises:
        Unreadable: it is not a whole number.
    """
    number = _integer(value, ZoneInfo("UTC"))
    return default if number is None else max(number, 0)


def _flag(value: Any, _zone: ZoneInfo) -> bool:
    return value is True or (isinstance(value, str) and value.strip().lower() == "true")


def _list(value: Any, zone: ZoneInfo, item: Reader) -> list[Any] | None:
    if value is None:
        return None
    if not isinstance(value, list):
        raise Unreadable("JSON parse error: Cannot deserialize value of type `java.util.Set`")
    return [item(one, zone) for one in value]


def _texts(value: Any, zone: ZoneInfo) -> list[str] | None:
    return _list(value, zone, _text)


def _pmi(value: Any, zone: ZoneInfo) -> dict[str, str | None]:
    if not isinstance(value, dict):
        raise Unreadable("JSON parse error: Cannot construct instance of `PmiDetail`")
    return {"mrn": _text(value.get("mrn"), zone), "siteName": _text(value.get("siteName"), zone)}


def _pmis(value: Any, zone: ZoneInfo) -> list[dict[str, str | None]] | None:
    return _list(value, zone, _pmi)


def _anything(value: Any, _zone: ZoneInfo) -> Any:
    return value


def read_date(value: Any, zone: ZoneInfo) -> date | None:
    """`yyyy-MM-dd` (leniently: 30 February is 2 March), an ISO instant, or epoch milliseconds as number or string.

    Raises:
        Unreadable: it is none of these.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    text = str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""
    try:
        if found := _PLAIN_DATE.fullmatch(text):
            year, month, day = map(int, found.groups())
            years, month0 = divmod(month - 1, 12)
            return date(year + years, month0 + 1, 1) + timedelta(days=day - 1)
        if _INSTANT.fullmatch(text):
            return datetime.fromisoformat(text).astimezone(zone).date()
        if _MILLIS.fullmatch(text):
            return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=int(text))).astimezone(zone).date()
    except (ValueError, OverflowError):
        pass
    raise Unreadable("JSON parse error: Invalid date format")


PARTICIPANT_READERS: Mapping[str, Reader] = {
    "id": _integer,
    "firstName": _text,
    "middleName": _text,
    "lastName": _text,
    "birthDate": read_date,
    "deathDate": read_date,
    "gender": _text,
    "vitalStatus": _text,
    "races": _texts,
    "ethnicities": _texts,
    "sexGenotype": _text,
    "uid": _text,
    "empi": _text,
    "pmis": _pmis,
    "emailAddress": _text,
    "phoneNumber": _text,
    "extensionDetail": _anything,
}


def read_participant(value: Any, zone: ZoneInfo) -> dict[str, Any] | None:
    """A participant's known keys; `race` and `ethnicity` are among the unknown ones."""
    if value is None:
        return None
    if not isinstance(value, dict):
        raise Unreadable("JSON parse error: Cannot construct instance of `ParticipantDetail`")
    return {key: read(value[key], zone) for key, read in PARTICIPANT_READERS.items() if key in value}


REGISTRATION_READERS: Mapping[str, Reader] = {
    "id": _integer,
    "cpId": _integer,
    "cpTitle": _text,
    "cpShortTitle": _text,
    "participant": read_participant,
    "ppid": _text,
    "barcode": _text,
    "activityStatus": _text,
    "registrationDate": read_date,
    "externalSubjectId": _text,
    "site": _text,
    "opComments": _text,
    "forceDelete": _flag,
}


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def read_object(body: bytes) -> dict[str, Any]:
    """A request body that must be a JSON object.

    Raises:
        Unreadable: it is something else.
    """
    try:
        value = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Unreadable("JSON parse error: Unexpected character") from error
    if not isinstance(value, dict):
        raise Unreadable("JSON parse error: Cannot deserialize instance out of START_ARRAY token")
    return value


def read_registration(body: bytes, zone: ZoneInfo) -> dict[str, Any]:
    """The known keys of an update, each in the type the server gives it; unknown keys are dropped without a word."""
    value = read_object(body)
    return {key: read(value[key], zone) for key, read in REGISTRATION_READERS.items() if key in value}


def midnight_ms(day: date, zone: ZoneInfo) -> int:
    """A date as the server writes it: its own zone's midnight in epoch milliseconds."""
    return int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()) * 1000


def write_participant(values: Mapping[str, Any], participant_id: int, zone: ZoneInfo, *, phi: bool) -> dict[str, Any]:
    """A participant as answered; without the right to personal data names and numbers are masked, dates left out."""
    written: dict[str, Any] = {"id": participant_id}
    for key, value in values.items():
        if isinstance(value, date):
            if phi:
                written[key] = midnight_ms(value, zone)
        elif phi or value is None:
            written[key] = value
        elif key == "pmis":
            written[key] = [{**pmi, "mrn": MASK} for pmi in value]
        else:
            masked = key in {"firstName", "middleName", "lastName", "uid", "empi", "emailAddress", "phoneNumber"}
            written[key] = MASK if masked else value
    return {**written, "phiAccess": phi}


def write_registration(
    world: OpenSpecimenWorld, registration: Registration, zone: ZoneInfo, *, phi: bool, nulls: str
) -> dict[str, Any]:
    """The registration object that GET and PUT answer."""
    protocol = world.protocols[registration.cp_id]
    values = world.participants[registration.participant_id]
    participant = write_participant(values, registration.participant_id, zone, phi=phi)
    written: dict[str, Any] = {
        "id": registration.id,
        "cpId": protocol.id,
        "cpTitle": protocol.title,
        "cpShortTitle": protocol.short_title,
        "ppid": registration.ppid,
        "activityStatus": registration.activity_status,
        "registrationDate": midnight_ms(registration.registration_date, zone),
        "externalSubjectId": registration.external_subject_id,
        "site": registration.site,
        "barcode": registration.barcode,
        "opComments": None,
    }
    if nulls == "omit":
        participant = {key: value for key, value in participant.items() if value is not None}
        written = {key: value for key, value in written.items() if value is not None}
    return {**written, "participant": participant}
