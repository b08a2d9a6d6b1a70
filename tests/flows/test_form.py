"""The parameters as the page's form and the API show them."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools import validate
from prefect.utilities.schema_tools.validation import ValidationError as RefusedBySchema

from flows import decide_case, onboard_batch, onboard_chunk, onboard_subject, resume_cases, take_inbox
from flows.asked import NOT_STORED, name_of_run, read_asked
from onboarding.errors import BadInput
from onboarding.request import OnboardingRequest
from tasks.faults import told
from tests.support.requests import MARKER, SUBJECT_ID, example, request

FLOWS = (decide_case, onboard_batch, onboard_chunk, onboard_subject, resume_cases, take_inbox)
SCHEMA: dict[str, Any] = parameter_schema(onboard_subject).model_dump()


def objects(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "the run", schema
    yield from schema["definitions"].items()


def test_every_parameter_and_field_has_a_title_and_a_description() -> None:
    for name, one in objects(SCHEMA):
        for field, facts in one.get("properties", {}).items():
            required = SCHEMA["definitions"][facts["$ref"].rsplit("/", 1)[1]] if "$ref" in facts else facts
            assert required.get("title"), f"{name}.{field}"
            assert facts.get("description"), f"{name}.{field}"


def test_the_parameters_of_the_run_have_titles_for_people() -> None:
    titles = {name: facts["title"] for name, facts in SCHEMA["properties"].items()}
    assert titles == {
        "request": "Request",
        "case_id": "Case",
        "dry_run": "Dry run",
        "retry_refused": "Try refused steps again",
    }


def test_nothing_is_called_field_or_by_its_type() -> None:
    """So the page calls an optional object without a title, and the choices of a field that may be null."""
    for flow in FLOWS:
        for name, one in objects(parameter_schema(flow).model_dump()):
            for field, facts in one.get("properties", {}).items():
                assert not {"anyOf", "oneOf", "allOf"} & facts.keys(), f"{flow.name}: {name}.{field}"
                assert facts.get("title") != "Field"
                assert facts.get("type") != "null"


def test_the_form_sends_nothing_that_nobody_chose_but_the_flags_and_limits_of_the_run() -> None:
    """A default inside the request would be sent, and its section would count as asked for."""
    defaults = {
        f"{name}.{field}": facts["default"]
        for flow in FLOWS
        for name, one in objects(parameter_schema(flow).model_dump())
        for field, facts in one.get("properties", {}).items()
        if "default" in facts
    }
    assert defaults.pop("the run.limit") > 0
    assert defaults == dict.fromkeys(("the run.dry_run", "the run.retry_refused", "the run.skip_bad"), False)


def test_whole_words_and_numbers_have_their_limits_in_the_form() -> None:
    batch = parameter_schema(onboard_batch).model_dump()["properties"]
    assert (batch["concurrency"]["minimum"], batch["concurrency"]["maximum"]) == (1, 1000)
    for facts in (SCHEMA["properties"]["case_id"], batch["batch_id"]):
        assert re.fullmatch(facts["pattern"], " 7k3q9m2xw4tb")
        assert not re.fullmatch(facts["pattern"], "7K3Q9M2XW4T")
    activity = SCHEMA["definitions"]["RegistrationSection"]["properties"]["activity_status"]
    assert activity["enum"] == ["Active"]


@pytest.mark.parametrize("name", ["site", "ppid", "cp_title"])
def test_the_api_takes_null_for_a_field_and_asks_to_leave_a_section_out(name: str) -> None:
    validate({"request": example(**{f"registration__{name}": None}), "case_id": None}, SCHEMA, raise_on_error=True)
    with pytest.raises(RefusedBySchema) as refused:
        validate({"request": {**example(), "device": None}}, SCHEMA, raise_on_error=True)
    assert "'request.device'" in str(refused.value)


def test_the_form_asks_for_the_sections_in_the_order_of_the_steps() -> None:
    positions = {name: facts["position"] for name, facts in SCHEMA["properties"].items()}
    assert sorted(positions, key=lambda name: positions[name]) == ["request", "case_id", "dry_run", "retry_refused"]
    sections = list(SCHEMA["definitions"]["OnboardingRequest"]["properties"])
    assert sections == ["registration", "subject", "device", "dnd_exception"]


def test_nothing_is_required_but_the_choice_is_checked() -> None:
    assert not SCHEMA["required"]
    assert SCHEMA["properties"]["dry_run"]["default"] is False


def test_unknown_keys_and_wrong_values_are_refused_by_the_schema_itself() -> None:
    for flow in FLOWS:
        for name, one in objects(parameter_schema(flow).model_dump()):
            if "properties" in one:
                assert one["additionalProperties"] is False, f"{flow.name}: {name}"
    assert SCHEMA["definitions"]["Mode"]["enum"] == ["test", "training", "active"]


def test_the_forms_of_flows_of_others_stay_as_prefect_makes_them() -> None:
    def of_others(number: int) -> None: ...

    assert set(parameter_schema(of_others).model_dump(exclude_unset=True)) == {
        "title",
        "type",
        "properties",
        "required",
    }


def test_no_field_of_the_form_asks_for_a_person() -> None:
    participant = SCHEMA["definitions"]["ParticipantSection"]["properties"]
    assert list(participant) == ["id"]
    words = {field.lower() for _, one in objects(SCHEMA) for field in one.get("properties", {})}
    assert not words & {"firstname", "first_name", "birth_date", "birthdate", "op_comments", "opcomments", "pmis"}


def test_a_request_is_taken_as_a_model_as_an_object_and_in_the_vendors_spelling() -> None:
    camel = {
        "subject": {"studyId": example()["subject"]["study_id"], "mode": "test", "subjectId": SUBJECT_ID.lower()},
        "registration": {"id": 1, "cpId": 3, "ppid": "ASCI123"},
    }
    asked = read_asked({"request": camel}).request
    assert asked is not None
    assert asked.subject.subject_id == SUBJECT_ID
    assert read_asked({"request": request()}).request == read_asked({"request": example()}).request == request()


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({}, "give either a request or a case_id."),
        ({"request": example(), "case_id": "7K3Q9M2XW4TB"}, "give either a request or a case_id."),
        ({"request": []}, "request: must be an object, not a list"),
        ({"request": "not stored"}, "request: must be an object, not text"),
        ({"request": example(subject__mode="live")}, "subject.mode: must be"),
        ({"request": example(registration__ppId="X")}, "registration.ppId: is not a known key; did you mean ppid?"),
        ({"request": {"subject": {"study_id": MARKER}}}, "subject.study_id: must be an id of 32 hexadecimal digits"),
        (
            {"request": example(registration__registration_date="2014-02-30")},
            "registration.registration_date: is not a",
        ),
        ({"case_id": "1"}, "case_id: must be the 12 letters and digits of a case"),
        ({"case_id": f"{MARKER}''"}, "case_id: must be the 12 letters and digits of a case"),
        ({"case_id": 12}, "case_id: must be the 12 letters and digits of a case"),
        ({"case_id": "7K3Q9M2XW4TB", "dry_run": "false"}, "dry_run: must be true or false, not text."),
        ({"case_id": "7K3Q9M2XW4TB", "retry_refused": 1}, "retry_refused: must be true or false, not a number."),
        ({"case_id": "7K3Q9M2XW4TB", "dry_run": None}, "dry_run: must be true or false, not null."),
    ],
)
def test_wrong_parameters_are_named_without_their_values(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(BadInput) as refused:
        read_asked(given)
    assert any(line.startswith(problem) for line in refused.value.problems), refused.value.problems
    assert MARKER not in str(refused.value)
    assert refused.value.__context__ is None or "input" not in str(refused.value.__context__)


def test_the_name_of_a_run_holds_no_more_than_the_end_of_an_id() -> None:
    end = SUBJECT_ID[-8:]
    assert name_of_run({"case_id": " 7k3q9m2xw4tb"}) == "case 7K3Q9M2XW4TB"
    assert name_of_run({"request": request()}) == f"subject ..{end}"
    assert name_of_run({"request": {"subject": {"subject_id": SUBJECT_ID}}}) == f"subject ..{end}"
    assert name_of_run({"request": {"subject": {"subjectId": SUBJECT_ID.lower()}}}) == f"subject ..{end}"


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"request": None, "case_id": None},
        {"case_id": MARKER},
        {"request": MARKER},
        {"request": {"subject": MARKER}},
        {"request": {"subject": {"subject_id": MARKER}}},
        {"request": {"subject": {"subject_id": None}}},
        {"request": {"subject": {"subject_id": [SUBJECT_ID]}}},
    ],
)
def test_a_run_of_nothing_usable_has_a_name_that_says_nothing(given: dict[str, Any]) -> None:
    assert name_of_run(given) == "no request"


def test_what_the_server_is_given_is_what_the_model_reads() -> None:
    stored = onboard_subject.serialize_parameters({"request": example(), "case_id": None, "dry_run": True})
    assert OnboardingRequest.model_validate(stored["request"]) == request()
    assert stored["dry_run"] is True


def test_a_copy_of_the_flow_with_other_options_keeps_people_out_too() -> None:
    copy = onboard_subject.with_options(name="another")
    assert copy.serialize_parameters({"request": {"firstName": MARKER}}) == {"request": NOT_STORED}
    assert parameter_schema(copy).model_dump() == SCHEMA


def test_an_unforeseen_fault_is_told_by_its_place_in_our_code_and_not_by_its_text() -> None:
    with pytest.raises(AttributeError) as ours:
        read_asked([MARKER])  # type: ignore[arg-type]
    assert told(ours.value).startswith("an unexpected AttributeError in flows/asked.py, line ")
    assert told(ValueError(MARKER)).startswith("an unexpected ValueError. The case can be resumed;")
    assert MARKER not in told(ValueError(MARKER))
    assert told(ExceptionGroup(MARKER, [ValueError(MARKER)])) == told(ValueError(MARKER)), (
        "what a group of one is about"
    )
