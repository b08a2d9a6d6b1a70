"""The subjects and the calls that onboard them: the same for every contender, to the byte.

Each subject needs five calls of its own: read and update the registration, read the dispensation and its history,
register the device (cloud-to-cloud for every other subject). All of them share two log-ins, one reading of the list of
DND exceptions and one new exception, since they belong to one site.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlencode

from onboarding.intake import IntakeRequest, parse_request
from onboarding.vendors.transport import json_bytes
from vendor_sandbox import seed
from vendor_sandbox.clinical_one_world import CLOUD_TO_CLOUD
from vendor_sandbox.seed import SeededSubject

MODE: Final = "test"
SITE_ID: Final = "7BF54DB79B764662B685D68C52AB0B85"
KIT_TYPE_ID: Final = "6AF54DB79B764662B685D68C52AB0B84"
OPENSPECIMEN: Final = "openspecimen"
CLINICAL_ONE: Final = "clinical_one"
PER_SUBJECT: Final = (
    "read_registration",
    "update_registration",
    "dispensation",
    "dispensation_history",
    "register_device",
)
SHARED: Final = ("login", "token", "list_exceptions", "create_exception")


@dataclass(frozen=True)
class Call:
    """One HTTP request without its credentials; ``system`` says whose token it needs."""

    name: str
    system: str
    method: str
    url: str
    body: bytes | None = None


def request_json(number: int) -> dict[str, Any]:
    """What is asked for a subject, as an onboarding request."""
    subject = SeededSubject(number)
    by = "vendor_code" if subject.connection == CLOUD_TO_CLOUD else "subject_number"
    return {
        "registration": {
            "id": subject.registration_id,
            "cp_id": seed.CP_ID,
            "participant": {"id": subject.participant_id},
            "registration_date": "2014-04-21",
            "external_subject_id": f"SITE-L-{number}",
            "activity_status": "Active",
        },
        "subject": {"study_id": seed.STUDY_ID, "mode": MODE, "subject_id": subject.subject_id},
        "device": {
            "inventory_id": subject.inventory_id,
            "m_subject_id": subject.m_subject_id,
            by: "VENDOR-1" if by == "vendor_code" else subject.subject_number,
        },
        "dnd_exception": {
            "all_countries": False,
            "countries": ["US"],
            "site_ids": [SITE_ID],
            "kit_type_src_ids": [KIT_TYPE_ID],
            "visit_dnd": [{"visit_src_id": seed.VISIT_ID, "dnd": 2}],
        },
    }


def request_of(number: int) -> IntakeRequest:
    """``request_json``, read and checked."""
    return parse_request(request_json(number))


class Calls:
    """The requests themselves, for contenders that bring an HTTP client of their own."""

    def __init__(self, addresses: Mapping[str, str]) -> None:
        self.addresses = addresses
        self._registrations = f"{addresses['openspecimen_url']}/rest/ng/collection-protocol-registrations"
        self._service = f"{addresses['clinical_one_url']}/ec-ors-svc/rest"
        self._as_of = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def of_subject(self, number: int) -> list[Call]:
        """The five of one subject, in order."""
        request, subject = request_of(number), SeededSubject(number)
        assert request.registration is not None
        assert request.device is not None
        registration = f"{self._registrations}/{subject.registration_id}"
        update, device = json_bytes(request.registration.body()), json_bytes(request.device.body())
        history = urlencode({"visitId": seed.VISIT_ID, "asofdate": self._as_of})
        person = f"subjects/{subject.subject_id}"
        return [
            Call("read_registration", OPENSPECIMEN, "GET", registration),
            Call("update_registration", OPENSPECIMEN, "PUT", registration, update),
            self._clinical("dispensation", "GET", f"inventory/kits/{subject.inventory_id}/dispensation"),
            self._clinical("dispensation_history", "GET", f"{person}/dispensation-history?{history}", version="v10.0"),
            self._clinical("register_device", "POST", f"{person}/register-device", device),
        ]

    def exceptions(self) -> list[Call]:
        """Listing the exceptions, and creating the one that all need."""
        section = request_of(1).dnd_exception
        assert section is not None
        return [
            self._clinical("list_exceptions", "GET", "dndexception"),
            self._clinical("create_exception", "POST", "dndexception", json_bytes(section.body())),
        ]

    def login(self) -> Call:
        """OpenSpecimen's log-in; the answer's ``token`` goes into ``X-OS-API-TOKEN``."""
        body = {"loginName": seed.USERNAME, "password": seed.PASSWORD, "domainName": "openspecimen"}
        return Call(
            "login", OPENSPECIMEN, "POST", f"{self.addresses['openspecimen_url']}/rest/ng/sessions", json_bytes(body)
        )

    def _clinical(self, name: str, method: str, rest: str, body: bytes | None = None, *, version: str = "v1.0") -> Call:
        url = f"{self._service}/{version}/studies/{seed.STUDY_ID}/{MODE}/{rest}"
        return Call(name, CLINICAL_ONE, method, url, body)


def token_form() -> dict[str, str]:
    """The form of Clinical One's token call; client id and secret go as HTTP Basic."""
    return {"grant_type": "client_credentials", "scope": seed.SCOPE}


def digest(body: bytes | None) -> str:
    """A body's digest, as the effect log has it."""
    return hashlib.sha256(body or b"").hexdigest()
