"""The data of the OpenSpecimen stand-in, with the uniqueness rules of its database."""

from __future__ import annotations

import base64
import uuid
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import date
from typing import Any

ALL_PROTOCOLS = "all"


@dataclass(frozen=True, slots=True)
class Protocol:
    """A collection protocol. `ppid` tells who makes PPIDs: `manual` (the caller) or `auto` (the server)."""

    id: int
    title: str
    short_title: str
    ppid: str = "manual"
    ppid_pattern: str | None = None
    specimen_centric: bool = False


@dataclass(frozen=True, slots=True)
class Registration:
    """A participant on a protocol. `visits` counts what hangs on it and keeps it from being deleted."""

    id: int
    participant_id: int
    cp_id: int
    ppid: str
    registration_date: date
    external_subject_id: str | None = None
    site: str | None = None
    barcode: str | None = None
    activity_status: str = "Active"
    visits: int = 0


@dataclass(slots=True)
class User:
    """An account. `protocols` maps a protocol id, or `all`, to the operations allowed: `read`, `update`."""

    id: int
    login_name: str
    password: str
    domain: str = "openspecimen"
    first_name: str = ""
    last_name: str = ""
    admin: bool = False
    phi: bool = True
    protocols: dict[str, list[str]] = field(default_factory=dict)
    must_reset: bool = False
    expired: bool = False
    locked: bool = False
    failures: int = 0

    def may(self, operation: str, cp_id: int) -> bool:
        """Whether the account has this right on this protocol."""
        granted = self.protocols.get(str(cp_id), []) + self.protocols.get(ALL_PROTOCOLS, [])
        return self.admin or operation in granted


@dataclass(slots=True)
class Session:
    """A log-in; `last_used` is monotonic, in seconds."""

    user: User
    last_used: float


@dataclass(slots=True)
class OpenSpecimenWorld:
    """All data of the stand-in.

    A participant is a plain mapping of the vendor's own field names; dates in it are `date`, absent means null.
    """

    sites: set[str] = field(default_factory=set)
    permissible: dict[str, list[str]] = field(default_factory=dict)
    users: dict[tuple[str, str], User] = field(default_factory=dict)
    protocols: dict[int, Protocol] = field(default_factory=dict)
    participants: dict[int, dict[str, Any]] = field(default_factory=dict)
    registrations: dict[int, Registration] = field(default_factory=dict)
    sessions: dict[str, Session] = field(default_factory=dict)
    _of_participant: defaultdict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    _unique: dict[tuple[str, object], int] = field(default_factory=dict)
    _identifiers: dict[tuple[str, str], int] = field(default_factory=dict)

    def put_registration(self, new: Registration) -> None:
        """Store a registration in place of the one with its id."""
        self.remove_registration(new.id)
        self.registrations[new.id] = new
        self._of_participant[new.participant_id].add(new.id)
        self._unique.update(dict.fromkeys(_unique_keys(new), new.id))

    def remove_registration(self, registration_id: int) -> None:
        """Drop a registration if it exists."""
        old = self.registrations.pop(registration_id, None)
        if old is not None:
            self._of_participant[old.participant_id].discard(old.id)
            for key in _unique_keys(old):
                self._unique.pop(key, None)

    def put_participant(self, participant_id: int, values: dict[str, Any]) -> None:
        """Store a participant in place of the one with its id."""
        self.remove_participant(participant_id)
        self.participants[participant_id] = values
        self._identifiers.update(dict.fromkeys(identifiers(values), participant_id))

    def remove_participant(self, participant_id: int) -> None:
        """Drop a participant if it exists; its registrations are the caller's business."""
        for key in identifiers(self.participants.pop(participant_id, {})):
            self._identifiers.pop(key, None)

    def registrations_of(self, participant_id: int) -> list[Registration]:
        """A participant's registrations by ascending id."""
        return [self.registrations[one] for one in sorted(self._of_participant.get(participant_id, ()))]

    def taken_by_another(self, registration: Registration, field_name: str) -> bool:
        """Whether another registration already has this one's `ppid`, `barcode` or `external_subject_id`."""
        keys = [key for key in _unique_keys(registration) if key[0] == field_name]
        return any(self._unique.get(key, registration.id) != registration.id for key in keys)

    def owner_of(self, identifier: tuple[str, str]) -> int | None:
        """The participant with this `uid`, `empi` or MRN (see `identifiers`)."""
        return self._identifiers.get(identifier)

    def open_session(self, user: User, now: float) -> str:
        """A new token: the base64 form of a UUID, like the server's."""
        token = base64.b64encode(str(uuid.uuid4()).encode()).decode()
        self.sessions[token] = Session(user, now)
        return token


def _unique_keys(registration: Registration) -> list[tuple[str, object]]:
    keys: list[tuple[str, object]] = [("ppid", (registration.cp_id, registration.ppid))]
    if registration.barcode:
        keys.append(("barcode", registration.barcode))
    if registration.external_subject_id:
        keys.append(("external_subject_id", (registration.cp_id, registration.external_subject_id)))
    return keys


def identifiers(values: dict[str, Any]) -> list[tuple[str, str]]:
    """What identifies a person: `("uid", ...)`, `("empi", ...)`, `("mrn", "site/number")`."""
    found = [(name, values[name]) for name in ("uid", "empi") if values.get(name)]
    found += [("mrn", f"{pmi['siteName']}/{pmi['mrn']}") for pmi in values.get("pmis") or [] if pmi.get("mrn")]
    return found
