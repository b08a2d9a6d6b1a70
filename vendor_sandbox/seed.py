"""Seed data: what the stand-ins know before the first request.

A seed is plain JSON (see `DEFAULT`); its default holds the examples of the vendors' documentation, and one subject per
rule. `many` adds subjects for load tests.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from vendor_sandbox.clinical_one import RIGHTS
from vendor_sandbox.clinical_one_world import CLOUD_TO_CLOUD, DEVICE_TO_CLOUD, NO_CONNECTION
from vendor_sandbox.uuids import derived

Seed = dict[str, Any]

STUDY_ID = "1BC29B36F5D64B1B95F4BDBBCEA481BE"
OTHER_STUDY_ID = "57D10000000000000000000000000002"
VISIT_ID = "71510000000000000000000000000001"
KIT_TYPE_ID = "6AF54DB79B764662B685D68C52AB0B84"
SITE_ID = "517E0000000000000000000000000001"

CP_ID = 3
CP_WITHOUT_RIGHTS, CP_AUTO_PPID, CP_SPECIMEN_CENTRIC = 4, 5, 6

USERNAME, PASSWORD = "onboarding", "onboarding-password"
CLIENT_ID, CLIENT_SECRET = "onboarding-client", "onboarding-secret"
SCOPE = "sandbox.ec-ors-svc.all"


def subject_id(number: int) -> str:
    """Id of the n-th subject of the default seed; the first is the documentation's."""
    return "0A1B2C3D4E5F67890123456789ABCDEF" if number == 1 else f"5B{number:030d}"


def inventory_id(number: int) -> str:
    """Id of the n-th kit of the default seed; the first is the documentation's."""
    return "B1B8327AFAA6412287106192AB5984EF" if number == 1 else f"C1{number:030d}"


def _kit(number: int, connection: str | None, holder: int | None, **given: Any) -> dict[str, Any]:
    kit: dict[str, Any] = {"inventory_id": inventory_id(number), "kit_number": 1000 + number}
    if connection is not None:
        kit |= {"connection": connection, "device_type": "ActivityWatch"}
    if holder is not None:
        place = {"subject_id": subject_id(holder), "visit_id": VISIT_ID, "at": "2024-05-01T09:00:00.000Z"}
        kit["dispensed_to"] = {**place, **given}
    return kit


# Subject n holds kit n, except where said: 5's kit is not dispensed, 6 holds 6 and 7, 7's kit (8) was lost,
# 8's kit (9) was recorded as not dispensed to the subject.
_TEST_KITS = [
    _kit(1, DEVICE_TO_CLOUD, 1),
    _kit(2, CLOUD_TO_CLOUD, 2),
    _kit(3, NO_CONNECTION, 3),
    _kit(4, None, 4),
    _kit(5, DEVICE_TO_CLOUD, None),
    _kit(6, DEVICE_TO_CLOUD, 6),
    _kit(7, DEVICE_TO_CLOUD, 6),
    _kit(8, DEVICE_TO_CLOUD, 7, status=13),
    _kit(9, DEVICE_TO_CLOUD, 8, status=17),
]


def _subject(number: int) -> dict[str, str]:
    return {"subject_id": subject_id(number), "subject_number": f"siteA-{number}"}


def _participant(participant_id: int, number: int) -> dict[str, Any]:
    return {
        "id": participant_id,
        "firstName": f"First{number}",
        "lastName": f"Last{number}",
        "birthDate": f"1971-01-{number:02d}",
        "gender": "Female" if number % 2 else "Male",
        "vitalStatus": "Alive",
        "uid": f"UID-{number:04d}",
        "empi": f"EMPI-{number:04d}",
        "pmis": [{"mrn": f"MRN-{number:04d}", "siteName": "Site A"}],
    }


def _registration(registration_id: int, participant_id: int, cp_id: int = CP_ID, **given: Any) -> dict[str, Any]:
    ppid = f"ASCI{registration_id - 1:03d}"
    plain = {"id": registration_id, "participant_id": participant_id, "cp_id": cp_id, "ppid": ppid}
    return {**plain, "registration_date": "2014-01-15", **given}


# Registration n belongs to participant 2n: the documentation's example is registration 1 with participant 2.
_OPENSPECIMEN: Seed = {
    "sites": ["Site A", "Site B"],
    "permissible": {
        "gender": ["Female", "Male", "Undifferentiated", "Unknown", "Unspecified"],
        "vitalStatus": ["Alive", "Dead", "Unknown", "Unspecified"],
        "races": ["Asian", "Black or African American", "White", "Unknown", "Not Reported"],
        "ethnicities": ["Hispanic or Latino", "Not Hispanic or Latino", "Unknown", "Not Reported"],
    },
    "users": [
        {
            "id": 1,
            "login_name": USERNAME,
            "password": PASSWORD,
            "protocols": {"3": ["read", "update"], "5": ["read", "update"], "6": ["read", "update"]},
        },
        {"id": 2, "login_name": "reader", "password": "reader-password", "phi": False, "protocols": {"3": ["read"]}},
        {
            "id": 3,
            "login_name": "masked",
            "password": "masked-password",
            "phi": False,
            "protocols": {"3": ["read", "update"]},
        },
        {"id": 4, "login_name": "newcomer", "password": "newcomer-password", "must_reset": True},
        {"id": 5, "login_name": "expired", "password": "expired-password", "expired": True},
    ],
    "protocols": [
        {
            "id": CP_ID,
            "title": "Assessment of Clinical Indicators",
            "short_title": "ASCI",
            "ppid_pattern": "[A-Z]{2,8}-?[0-9]{1,8}",
        },
        {"id": CP_WITHOUT_RIGHTS, "title": "Another Group's Protocol", "short_title": "OTHER"},
        {"id": CP_AUTO_PPID, "title": "Protocol With Generated PPIDs", "short_title": "AUTO", "ppid": "auto"},
        {
            "id": CP_SPECIMEN_CENTRIC,
            "title": "Specimen Centric Protocol",
            "short_title": "SPEC",
            "specimen_centric": True,
        },
    ],
    "participants": [_participant(2 * number, number) for number in range(1, 14)],
    "registrations": [
        *(_registration(number, 2 * number) for number in range(1, 10)),
        _registration(10, 20, visits=2),
        _registration(11, 22, CP_WITHOUT_RIGHTS),
        _registration(12, 24, CP_AUTO_PPID),
        _registration(13, 26, CP_SPECIMEN_CENTRIC),
    ],
}

_CLINICAL_ONE: Seed = {
    "clients": [
        {
            "client_id": CLIENT_ID,
            "secret": CLIENT_SECRET,
            "scopes": [SCOPE, "sandbox.ec-dc-svc.all"],
            "grants": ["client_credentials", "password"],
            "rights": {"test": RIGHTS, "training": RIGHTS, "active": RIGHTS},
        },
        {"client_id": "test-only-client", "secret": "test-only-secret", "scopes": [SCOPE], "rights": {"test": RIGHTS}},
        {
            "client_id": "reader-client",
            "secret": "reader-secret",
            "scopes": [SCOPE],
            "rights": {"test": [right for right in RIGHTS if right.endswith("Get")]},
        },
    ],
    "users": {"integration.user": "integration-password"},
    "studies": [
        {
            "study_id": STUDY_ID,
            "modes": {
                "test": {"subjects": [_subject(number) for number in range(1, 10)], "kits": _TEST_KITS},
                "training": {"subjects": [_subject(20)], "kits": [_kit(20, DEVICE_TO_CLOUD, 20)]},
                "active": {"subjects": [_subject(30)], "kits": [_kit(30, DEVICE_TO_CLOUD, 30)]},
            },
        },
        {
            "study_id": OTHER_STUDY_ID,
            "modes": {
                "test": {
                    "mhealth_settings": False,
                    "subjects": [_subject(40)],
                    "kits": [_kit(40, DEVICE_TO_CLOUD, 40)],
                }
            },
        },
    ],
}

DEFAULT: Seed = {"openspecimen": _OPENSPECIMEN, "clinical_one": _CLINICAL_ONE}


def default() -> Seed:
    """A copy of the default seed, free to be changed."""
    return deepcopy(DEFAULT)


@dataclass(frozen=True, slots=True)
class SeededSubject:
    """The ids of the n-th subject that `many` adds."""

    number: int

    @property
    def registration_id(self) -> int:
        """Its registration on the default protocol."""
        return 1_000_000 + self.number

    @property
    def participant_id(self) -> int:
        """Its participant."""
        return 2_000_000 + self.number

    @property
    def ppid(self) -> str:
        """Its participant protocol id, which the protocol gives to nobody else."""
        return f"LOAD{self.number}"

    @property
    def subject_id(self) -> str:
        """Its Clinical One subject."""
        return derived("subject", self.number)

    @property
    def inventory_id(self) -> str:
        """Its kit, dispensed to it."""
        return derived("kit", self.number)

    @property
    def m_subject_id(self) -> str:
        """An id in mHealth, which the stand-ins take as given."""
        return derived("m-subject", self.number)

    @property
    def connection(self) -> str:
        """Every other device is cloud-to-cloud."""
        return CLOUD_TO_CLOUD if self.number % 2 == 0 else DEVICE_TO_CLOUD

    @property
    def subject_number(self) -> str:
        """The subject's number at its site."""
        return f"siteL-{self.number}"


def many(count: int, *, first: int = 1, mode: str = "test", dispensed: bool = True) -> Seed:
    """The default seed with `count` more subjects: registrations, participants, subjects and kits.

    Args:
        count: how many.
        first: number of the first, see `SeededSubject`.
        mode: the study mode they are in.
        dispensed: whether their kits are dispensed to them.
    """
    seed = default()
    place = seed["clinical_one"]["studies"][0]["modes"][mode]
    for one in (SeededSubject(number) for number in range(first, first + count)):
        person = {"id": one.participant_id, "firstName": f"Many{one.number}", "vitalStatus": "Alive"}
        seed["openspecimen"]["participants"].append(person)
        registration = _registration(one.registration_id, one.participant_id, ppid=one.ppid)
        seed["openspecimen"]["registrations"].append(registration)
        place["subjects"].append({"subject_id": one.subject_id, "subject_number": one.subject_number})
        kit: dict[str, Any] = {
            "inventory_id": one.inventory_id,
            "kit_number": 1_000_000 + one.number,
            "connection": one.connection,
            "device_type": "ActivityWatch",
        }
        if dispensed:
            at = "2024-05-01T09:00:00.000Z"
            kit["dispensed_to"] = {"subject_id": one.subject_id, "visit_id": VISIT_ID, "at": at}
        place["kits"].append(kit)
    return seed
