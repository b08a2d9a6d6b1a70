"""Turns seeds into data, and says exactly what is wrong with a seed that cannot be used."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import MISSING, fields
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from vendor_sandbox.clinical_one_world import (
    CONNECTIONS,
    MODES,
    STATUS_NAMES,
    Client,
    ClinicalOneWorld,
    Dispensation,
    Kit,
    StudyMode,
)
from vendor_sandbox.dnd_exceptions import read_exception
from vendor_sandbox.openspecimen_json import read_date, read_participant
from vendor_sandbox.openspecimen_world import OpenSpecimenWorld, Protocol, Registration, User
from vendor_sandbox.uuids import derived, normalised


class SeedRefused(ValueError):
    """The seed cannot be used; the message names the place."""


def _checked(value: object, place: str, allowed: set[str], required: set[str]) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise SeedRefused(f"{place} must be an object")
    if unknown := set(value) - allowed:
        raise SeedRefused(f"{place} has unknown keys: {', '.join(sorted(unknown))}")
    if missing := required - set(value):
        raise SeedRefused(f"{place} lacks: {', '.join(sorted(missing))}")
    return dict(value)


def _built(kind: Any, value: object, place: str, *, without: frozenset[str] = frozenset()) -> dict[str, Any]:
    entries = [entry for entry in fields(kind) if entry.name not in without]
    required = {one.name for one in entries if one.default is MISSING and one.default_factory is MISSING}
    return _checked(value, place, {one.name for one in entries}, required)


def _items(value: Mapping[str, Any], name: str, place: str) -> list[tuple[str, Any]]:
    listed = value.get(name, [])
    if not isinstance(listed, list):
        raise SeedRefused(f"{place}.{name} must be a list")
    return [(f"{place}.{name}[{index}]", one) for index, one in enumerate(listed)]


def _uuid(value: object, place: str) -> str:
    found = normalised(value)
    if found is None:
        raise SeedRefused(f"{place} must be a UUID of 32 hex digits, with or without dashes")
    return found


def moment(value: object, place: str) -> datetime:
    """An ISO time, in whole milliseconds; without a zone it is UTC."""
    try:
        found = datetime.fromisoformat(str(value))
    except ValueError as error:
        raise SeedRefused(f"{place} must be an ISO time such as 2024-05-01T09:00:00.000Z") from error
    aware = found if found.tzinfo else found.replace(tzinfo=UTC)
    return aware.replace(microsecond=aware.microsecond // 1000 * 1000)


def plant(seed: object, openspecimen: OpenSpecimenWorld, clinical_one: ClinicalOneWorld, zone: ZoneInfo) -> None:
    """Add a seed's data to both worlds; what has the same id is replaced.

    Raises:
        SeedRefused: the seed is wrong; the worlds may have been changed in part.
    """
    parts = _checked(seed, "the seed", {"openspecimen", "clinical_one"}, set())
    _plant_openspecimen(parts.get("openspecimen", {}), openspecimen, zone)
    _plant_clinical_one(parts.get("clinical_one", {}), clinical_one)


def _plant_openspecimen(value: object, world: OpenSpecimenWorld, zone: ZoneInfo) -> None:
    known = {"sites", "permissible", "users", "protocols", "participants", "registrations"}
    part = _checked(value, "openspecimen", known, set())
    world.sites.update(part.get("sites", []))
    world.permissible.update(part.get("permissible", {}))
    for place, one in _items(part, "users", "openspecimen"):
        user = User(**_built(User, one, place, without=frozenset({"failures"})))
        world.users[user.domain, user.login_name] = user
    for place, one in _items(part, "protocols", "openspecimen"):
        protocol = Protocol(**_built(Protocol, one, place))
        world.protocols[protocol.id] = protocol
    for place, one in _items(part, "participants", "openspecimen"):
        person = read_participant(one, zone)
        if person is None or not isinstance(person.get("id"), int):
            raise SeedRefused(f"{place}.id must be a number")
        world.put_participant(person.pop("id"), person)
    for place, one in _items(part, "registrations", "openspecimen"):
        given = _built(Registration, one, place)
        given["registration_date"] = read_date(given["registration_date"], zone)
        if given["participant_id"] not in world.participants or given["cp_id"] not in world.protocols:
            raise SeedRefused(f"{place} names a participant_id or cp_id that is not seeded")
        world.put_registration(Registration(**given))


def _plant_clinical_one(value: object, world: ClinicalOneWorld) -> None:
    part = _checked(value, "clinical_one", {"clients", "users", "studies"}, set())
    world.users.update(part.get("users", {}))
    for place, one in _items(part, "clients", "clinical_one"):
        client = Client(**_built(Client, one, place))
        world.clients[client.client_id] = client
    for place, one in _items(part, "studies", "clinical_one"):
        study = _checked(one, place, {"study_id", "modes"}, {"study_id", "modes"})
        study_id = _uuid(study["study_id"], f"{place}.study_id")
        modes = world.studies.setdefault(study_id, {})
        for name, content in _checked(study["modes"], f"{place}.modes", set(MODES), set()).items():
            _plant_mode(content, f"{place}.modes.{name}", modes.setdefault(name, StudyMode()))


def _plant_mode(value: object, place: str, mode: StudyMode) -> None:
    part = _checked(value, place, {"subjects", "kits", "exceptions", "mhealth_settings"}, set())
    mode.mhealth_settings = bool(part.get("mhealth_settings", mode.mhealth_settings))
    for at, one in _items(part, "subjects", place):
        subject = _checked(one, at, {"subject_id", "subject_number"}, {"subject_id"})
        mode.subjects[_uuid(subject["subject_id"], f"{at}.subject_id")] = subject.get("subject_number", "")
    for at, one in _items(part, "kits", place):
        _plant_kit(one, at, mode)
    for at, one in _items(part, "exceptions", place):
        content = read_exception(_checked(one, at, set(one), {"dndExceptionId"}))
        mode.exceptions.items[_uuid(one["dndExceptionId"], f"{at}.dndExceptionId")] = content


def _plant_kit(value: object, place: str, mode: StudyMode) -> None:
    names = {"inventory_id", "kit_number", "connection", "device_type", "dispensed_to"}
    given = _checked(value, place, names, {"inventory_id", "kit_number"})
    holder = given.pop("dispensed_to", None)
    if given.get("connection") not in {None, *CONNECTIONS}:
        raise SeedRefused(f"{place}.connection must be null or one of: {', '.join(CONNECTIONS)}")
    given["inventory_id"] = _uuid(given["inventory_id"], f"{place}.inventory_id")
    mode.kits[given["inventory_id"]] = Kit(**given)
    if holder is not None:
        wanted = _checked(holder, f"{place}.dispensed_to", set(holder), {"subject_id", "visit_id"})
        dispense(mode, {"inventory_id": given["inventory_id"], **wanted}, f"{place}.dispensed_to")


def dispense(mode: StudyMode, value: object, place: str) -> Dispensation:
    """Give a kit to a subject: `{inventory_id, subject_id, visit_id?, instance_number?, at?, status?, confirmed?}`.

    Raises:
        SeedRefused: kit or subject is unknown, or a value is wrong.
    """
    names = {"inventory_id", "subject_id", "visit_id", "instance_number", "at", "status", "confirmed"}
    given = _checked(value, place, names, {"inventory_id", "subject_id"})
    inventory_id = _uuid(given["inventory_id"], f"{place}.inventory_id")
    subject_id = _uuid(given["subject_id"], f"{place}.subject_id")
    if inventory_id not in mode.kits or subject_id not in mode.subjects:
        raise SeedRefused(f"{place} names a kit or subject that this mode does not have")
    status = given.get("status", 4)
    if status not in STATUS_NAMES:
        raise SeedRefused(f"{place}.status must be one of: {', '.join(map(str, STATUS_NAMES))}")
    dispensation = Dispensation(
        inventory_id=inventory_id,
        subject_id=subject_id,
        visit_id=_uuid(given.get("visit_id", derived("visit", subject_id)), f"{place}.visit_id"),
        instance_number=given.get("instance_number", 1),
        at=moment(given.get("at", datetime.fromtimestamp(time.time(), UTC).isoformat()), f"{place}.at"),
        status=status,
        confirmed=given.get("confirmed", True),
    )
    mode.dispense(dispensation)
    return dispensation
