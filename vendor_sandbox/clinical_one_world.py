"""The data of the Clinical One stand-in: everything is held per study and mode, and nothing crosses over."""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from vendor_sandbox.requests import Staleness

MODES = ("test", "training", "active")
CLOUD_TO_CLOUD = "CloudtoCloud"
DEVICE_TO_CLOUD = "DevicetoCloud"
NO_CONNECTION = "NoConnection"
CONNECTIONS = (CLOUD_TO_CLOUD, DEVICE_TO_CLOUD, NO_CONNECTION)

DISPENSED = 4
NOT_DISPENSED_TO_SUBJECT = 17
MISALLOCATED = 7
STATUS_NAMES: Mapping[int, str] = {
    1: "Available",
    2: "Damaged",
    3: "Destroyed",
    4: "Dispensed",
    5: "Expired",
    6: "Not in Use",
    7: "Misallocated",
    8: "Missing",
    9: "In Transit",
    10: "Quarantined",
    11: "Pre-quarantined",
    12: "Pending Destruction",
    13: "Lost by Subject",
    14: "Temporarily Unavailable",
    15: "Damaged by Subject",
    16: "New",
    17: "Not Dispensed to Subject",
    18: "Returned to Site",
    19: "Conserved",
    20: "Received for Destruction",
}


@dataclass(slots=True)
class Dispensation:
    """A kit given to a subject at a visit. `status` is an id of `STATUS_NAMES`; rolled back ones stay as history."""

    inventory_id: str
    subject_id: str
    visit_id: str
    instance_number: int
    at: datetime
    status: int = DISPENSED
    confirmed: bool = True
    rolled_back: bool = False

    @property
    def attached(self) -> bool:
        """Whether the subject still holds the kit on record: lost or damaged ones are, never dispensed ones are not."""
        return not self.rolled_back and self.status not in {NOT_DISPENSED_TO_SUBJECT, MISALLOCATED}


@dataclass(slots=True)
class Kit:
    """A kit in inventory; `current` is its latest dispensation, whatever became of it."""

    inventory_id: str
    kit_number: int
    connection: str | None = None
    device_type: str | None = None
    current: Dispensation | None = None

    @property
    def holder(self) -> str | None:
        """The subject the kit is dispensed to now."""
        return self.current.subject_id if self.current is not None and self.current.attached else None


@dataclass(slots=True)
class Device:
    """A registered mHealth device. `codes` counts the one-time codes issued for it."""

    inventory_id: str
    subject_id: str
    m_subject_id: str
    connection: str
    codes: int = 1


@dataclass(frozen=True, slots=True)
class ListChange:
    """One change to the exceptions: what stood under the id before (None: nothing)."""

    monotonic: float
    exception_id: str
    before: dict[str, Any] | None


@dataclass(slots=True)
class Exceptions:
    """A mode's DND exceptions in the order they were made, and how to see the list as it was."""

    items: dict[str, dict[str, Any]] = field(default_factory=dict)
    changes: list[ListChange] = field(default_factory=list)

    def put(self, exception_id: str, content: dict[str, Any], now: float) -> None:
        """Create or replace an exception."""
        self.changes.append(ListChange(now, exception_id, self.items.get(exception_id)))
        self.items[exception_id] = content

    def remove(self, exception_id: str, now: float) -> None:
        """Delete an exception that exists."""
        self.changes.append(ListChange(now, exception_id, self.items.pop(exception_id)))

    def as_of(self, stale: Staleness | None, now: float) -> dict[str, dict[str, Any]]:
        """The list now, or as it was so many changes or seconds ago."""
        if stale is None:
            return self.items
        items = dict(self.items)
        for back, change in enumerate(reversed(self.changes)):
            undone = (
                back < stale.changes if stale.changes is not None else change.monotonic > now - (stale.seconds or 0)
            )
            if not undone:
                break
            if change.before is None:
                items.pop(change.exception_id, None)
            else:
                items[change.exception_id] = change.before
        return items


@dataclass(slots=True)
class StudyMode:
    """One study in one mode: subjects (id to number), kits, dispensations by subject, devices, exceptions."""

    subjects: dict[str, str] = field(default_factory=dict)
    kits: dict[str, Kit] = field(default_factory=dict)
    history: defaultdict[str, list[Dispensation]] = field(default_factory=lambda: defaultdict(list))
    devices: dict[str, Device] = field(default_factory=dict)
    device_to_cloud_of: dict[str, str] = field(default_factory=dict)
    exceptions: Exceptions = field(default_factory=Exceptions)
    mhealth_settings: bool = True

    def dispense(self, dispensation: Dispensation) -> None:
        """Give a kit that exists to a subject."""
        self.kits[dispensation.inventory_id].current = dispensation
        self.history[dispensation.subject_id].append(dispensation)


@dataclass(slots=True)
class Client:
    """An OAuth client; `rights` maps a mode to the rights held there."""

    client_id: str
    secret: str
    grants: list[str] = field(default_factory=lambda: ["client_credentials"])
    scopes: list[str] = field(default_factory=list)
    rights: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A bearer token; `expires` is monotonic, in seconds."""

    client: Client
    scopes: frozenset[str]
    expires: float


@dataclass(slots=True)
class ClinicalOneWorld:
    """All data of the stand-in, its token endpoint included."""

    studies: dict[str, dict[str, StudyMode]] = field(default_factory=dict)
    clients: dict[str, Client] = field(default_factory=dict)
    users: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, AccessToken] = field(default_factory=dict)

    def issue_token(self, client: Client, scopes: frozenset[str], now: float, seconds: float) -> str:
        """A new bearer token; those that have ended are dropped on the way."""
        if len(self.tokens) > 1000:
            self.tokens = {text: token for text, token in self.tokens.items() if token.expires > now}
        text = secrets.token_urlsafe(48)
        self.tokens[text] = AccessToken(client, scopes, now + seconds)
        return text
