import json
from copy import deepcopy
from typing import Any

import pytest
from fastapi.encoders import jsonable_encoder
from pydantic import BaseModel, ValidationError

from onboarding.intake import parse_request
from onboarding.request import (
    Mode,
    OnboardingRequest,
    SectionName,
    canonical_json,
    section_json,
)
from tests.support.requests import (
    INVENTORY_ID,
    INVENTORY_ID_DASHED,
    KIT_TYPE_ID,
    LEFT_OUT,
    SITE_ID,
    STUDY_ID,
    SUBJECT_ID,
    VISIT_ID,
    example,
    refusal,
    request,
)


def test_the_documented_example_gives_the_documented_bodies() -> None:
    asked = request()
    assert asked.registration
    assert asked.registration.body() == {
        "participant": {"id": 2},
        "id": 1,
        "cpId": 3,
        "ppid": "ASCI123",
        "activityStatus": "Active",
        "registrationDate": "2014-04-21",
        "externalSubjectId": "TEST_001",
    }
    assert asked.device
    assert asked.device.body() == {"inventoryId": INVENTORY_ID, "mSubjectId": "M-001", "subjectNumber": "siteA-1"}
    assert asked.dnd_exception
    assert asked.dnd_exception.body() == {
        "allCountries": False,
        "countries": ["US"],
        "siteIds": [SITE_ID],
        "kitTypeSrcId": [KIT_TYPE_ID],
        "visitDND": [{"visitSrcId": VISIT_ID, "dnd": 2}],
    }
    assert (asked.subject.study_id, asked.subject.mode, asked.subject.subject_id) == (STUDY_ID, Mode.TEST, SUBJECT_ID)
    assert asked.warnings() == []


def test_the_vendors_spellings_ask_for_the_same() -> None:
    content = {
        "registration": {
            "id": 1,
            "cpId": 3,
            "participant": {"id": 2},
            "ppid": "ASCI123",
            "registrationDate": "2014-04-21",
            "externalSubjectId": "TEST_001",
            "activityStatus": "Active",
        },
        "subject": {"studyId": STUDY_ID.lower(), "mode": "test", "subjectId": SUBJECT_ID},
        "device": {"inventoryId": INVENTORY_ID_DASHED, "mSubjectId": "M-001", "subjectNumber": "siteA-1"},
        "dndException": {
            "allCountries": False,
            "countries": ["us"],
            "siteIds": [SITE_ID],
            "kitTypeSrcId": [KIT_TYPE_ID],
            "visitDND": [{"visitSrcId": VISIT_ID, "dnd": 2}],
        },
    }
    assert OnboardingRequest.model_validate(content) == request()


def test_a_request_needs_a_subject_and_something_to_do() -> None:
    assert "subject: Field required" in refusal(subject=LEFT_OUT)
    assert "asks for nothing" in refusal(registration=None, device=LEFT_OUT, dnd_exception=LEFT_OUT)


@pytest.mark.parametrize(
    ("section", "kept"), [("device", "registration"), ("registration", "device"), ("dnd_exception", "device")]
)
def test_a_section_may_be_left_out_or_null(section: str, kept: str) -> None:
    for value in (LEFT_OUT, None):
        asked = request(**{section: value})
        assert getattr(asked, section) is None
        assert getattr(asked, kept) is not None
        assert section not in asked.model_dump()


@pytest.mark.parametrize(
    "path",
    [
        "typo",
        "registration__typo",
        "registration__participant__typo",
        "subject__typo",
        "device__typo",
        "dnd_exception__typo",
    ],
)
def test_an_unknown_key_is_refused_everywhere(path: str) -> None:
    assert "Extra inputs are not permitted" in refusal(**{path: 1})


@pytest.mark.parametrize("key", ["first_name", "lastName", "birthDate", "uid", "pmis", "extensionDetail"])
def test_no_personal_data_enters_the_request(key: str) -> None:
    assert "Extra inputs are not permitted" in refusal(**{f"registration__participant__{key}": "x"})
    assert "Extra inputs are not permitted" in refusal(registration__op_comments="x")


def test_a_request_with_a_persons_details_is_not_taken_for_one_without() -> None:
    class Parameters(BaseModel):
        request: OnboardingRequest

    intake = parse_request(example(registration__participant={"id": 2, "firstName": "Marker"}))
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Parameters.model_validate({"request": intake})
    assert Parameters(request=intake.without_personal_data()).request == request()


def test_an_error_does_not_print_the_input() -> None:
    with pytest.raises(ValidationError) as refused:
        request(device__inventory_id="Marker")
    assert "Marker" not in str(refused.value)


def test_nothing_of_a_request_changes_later() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(request().subject, "mode", Mode.ACTIVE)  # noqa: B010 - mypy knows it, too


@pytest.mark.parametrize("mode", ["test", "training", "active"])
def test_the_study_modes_are_known(mode: str) -> None:
    assert request(subject__mode=mode).subject.mode == mode


@pytest.mark.parametrize("mode", ["Test", "prod", "", None, 1])
def test_another_mode_is_refused(mode: object) -> None:
    assert "subject.mode: Input should be 'test', 'training' or 'active'" in refusal(subject__mode=mode)


# What is equal


def test_a_request_has_one_digest_however_it_is_written() -> None:
    shuffled = dict(reversed(example(registration__id="1", device__inventory_id=INVENTORY_ID_DASHED).items()))
    shuffled["registration"] = dict(reversed(shuffled["registration"].items())) | {
        "allow_merge": False,
        "cpTitle": None,
    }
    shuffled["dnd_exception"]["visit_dnd"][0]["dnd"] = 2.0
    assert canonical_json(OnboardingRequest.model_validate(shuffled)) == canonical_json(request())
    assert canonical_json(parse_request(json.dumps(shuffled))) == canonical_json(request())


@pytest.mark.parametrize(
    ("section", "changes"),
    [
        ("registration", {"registration__ppid": "ASCI124"}),
        ("registration", {"registration__site": None}),
        ("registration", {"registration__allow_merge": True}),
        ("registration", {"registration": None}),
        ("subject", {"subject__mode": "training"}),
        ("device", {"device__m_subject_id": "M-002"}),
        ("dnd_exception", {"dnd_exception__countries": ["DE"]}),
    ],
)
def test_a_change_shows_in_its_own_section_alone(section: SectionName, changes: dict[str, Any]) -> None:
    before, after = request(), request(**changes)
    assert canonical_json(before) != canonical_json(after)
    sections: list[SectionName] = ["registration", "subject", "device", "dnd_exception"]
    assert [name for name in sections if section_json(before, name) != section_json(after, name)] == [section]


def test_an_absent_section_is_null() -> None:
    assert section_json(request(device=LEFT_OUT), "device") == b"null"


# The form


def test_every_field_of_the_form_is_explained_and_sections_come_in_order() -> None:
    schema = OnboardingRequest.model_json_schema()
    assert list(schema["properties"]) == ["registration", "subject", "device", "dnd_exception"]
    for name, model in schema["$defs"].items():
        for key, field in model.get("properties", {}).items():
            assert field.get("description"), f"{name}.{key}"
            assert field.get("title") or "$ref" in field, f"{name}.{key}"
            assert "Example: " in field["description"] or "$ref" in str(field), f"{name}.{key}"
        assert "enum" in model or model["additionalProperties"] is False
    for optional in ("registration", "device", "dnd_exception"):
        assert schema["properties"][optional]["title"]


def test_the_form_starts_no_field_as_null() -> None:
    schema = OnboardingRequest.model_json_schema()
    for model in [schema, *schema["$defs"].values()]:
        for key, field in model.get("properties", {}).items():
            assert field.get("default", "none given") is not None, key


def test_the_schema_that_guards_the_api_takes_every_example_and_dump() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = OnboardingRequest.model_json_schema()
    dumped = jsonable_encoder(request(dnd_exception__visit_dnd=[{"visitSrcId": VISIT_ID, "dnd": 2.5}]))
    for content in (example(), dumped):
        jsonschema.validate(content, schema)
    broken = deepcopy(dumped)
    broken["registration"]["participant"]["firstName"] = "x"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, schema)
