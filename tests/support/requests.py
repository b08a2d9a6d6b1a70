"""The documented example of a whole request, and ways to vary it."""

from copy import deepcopy
from typing import Any

import pytest
from pydantic import ValidationError

from onboarding.errors import BadInput
from onboarding.intake import parse_request
from onboarding.request import DeviceSection, DndExceptionSection, OnboardingRequest, RegistrationSection

STUDY_ID = "1BC29B36F5D64B1B95F4BDBBCEA481BE"
SUBJECT_ID = "0A1B2C3D4E5F67890123456789ABCDEF"
INVENTORY_ID = "B1B8327AFAA6412287106192AB5984EF"
INVENTORY_ID_DASHED = "b1b8327a-faa6-4122-8710-6192ab5984ef"
KIT_TYPE_ID = "6AF54DB79B764662B685D68C52AB0B84"
SITE_ID = "7BF54DB79B764662B685D68C52AB0B85"
VISIT_ID = "8CF54DB79B764662B685D68C52AB0B86"

MARKER = "Mrkr-7f3a"
"""In every text of ``PARTICIPANT``; wherever it shows, personal data does."""

PARTICIPANT: dict[str, Any] = {
    "id": 2,
    "firstName": f"First {MARKER}",
    "middleName": f"Middle {MARKER}",
    "lastName": f"Last {MARKER}",
    "birthDate": "1961-07-03",
    "deathDate": "2019-11-30",
    "gender": f"Gender {MARKER}",
    "vitalStatus": f"Dead {MARKER}",
    "races": [f"Race {MARKER}"],
    "ethnicities": [f"Ethnicity {MARKER}"],
    "sexGenotype": f"XX {MARKER}",
    "uid": f"uid {MARKER}",
    "empi": f"empi {MARKER}",
    "pmis": [{"mrn": f"mrn {MARKER}", "siteName": f"Site {MARKER}"}],
    "emailAddress": f"{MARKER}@example.org",
    "phoneNumber": f"+49 {MARKER}",
    "extensionDetail": {"useUdn": True, "attrsMap": {"hobby": f"Chess {MARKER}"}},
}

_EXAMPLE: dict[str, Any] = {
    "registration": {
        "id": 1,
        "cp_id": 3,
        "participant": {"id": 2},
        "ppid": "ASCI123",
        "registration_date": "2014-04-21",
        "external_subject_id": "TEST_001",
        "activity_status": "Active",
    },
    "subject": {"study_id": STUDY_ID, "mode": "test", "subject_id": SUBJECT_ID},
    "device": {"inventory_id": INVENTORY_ID, "m_subject_id": "M-001", "subject_number": "siteA-1"},
    "dnd_exception": {
        "all_countries": False,
        "countries": ["US"],
        "site_ids": [SITE_ID],
        "kit_type_src_ids": [KIT_TYPE_ID],
        "visit_dnd": [{"visit_src_id": VISIT_ID, "dnd": 2}],
    },
}

LEFT_OUT: Any = object()
"""As a value of ``example``: the key is not there."""


def example(**changes: Any) -> dict[str, Any]:
    """The example, with values set by path (``device__vendor_code="X"``) or taken out (``LEFT_OUT``)."""
    content = deepcopy(_EXAMPLE)
    for path, value in changes.items():
        *sections, key = path.split("__")
        place = content
        for section in sections:
            place = place[section]
        if value is LEFT_OUT:
            place.pop(key)
        else:
            place[key] = value
    return content


def request(**changes: Any) -> OnboardingRequest:
    """The example as a request, changed as by ``example``."""
    return OnboardingRequest.model_validate(example(**changes))


def registration(**changes: Any) -> RegistrationSection:
    """A registration with no more than it needs, and these keys."""
    return RegistrationSection.model_validate({"id": 1, "cp_id": 3, **changes})


def device(**changes: Any) -> DeviceSection:
    """A device that does not say how it connects, and these keys."""
    return DeviceSection.model_validate({"inventory_id": INVENTORY_ID, "m_subject_id": "M-001", **changes})


def dnd_exception(**changes: Any) -> DndExceptionSection:
    """The example's exception with these keys set or left out."""
    content = example()["dnd_exception"]
    content.update(changes)
    return DndExceptionSection.model_validate({name: value for name, value in content.items() if value is not LEFT_OUT})


def refusal(**changes: Any) -> str:
    """What pydantic says against the example so changed."""
    with pytest.raises(ValidationError) as refused:
        request(**changes)
    return " / ".join(f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in refused.value.errors())


def problems(source: str | bytes | dict[Any, Any]) -> list[str]:
    """What is said against this input, which must be refused, by an error that carries nothing of it."""
    with pytest.raises(BadInput) as refused:
        parse_request(source)
    assert refused.value.__context__ is None, "the error underneath holds the values"
    assert refused.value.__cause__ is None
    return refused.value.problems


def problems_if_any(source: str | bytes | dict[Any, Any]) -> list[str]:
    """What is said against this input; empty if it is taken."""
    try:
        parse_request(source)
    except BadInput as refused:
        return refused.problems
    return []
