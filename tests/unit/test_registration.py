import json
from datetime import UTC, datetime

import pytest
from fastapi.encoders import jsonable_encoder
from pydantic import ValidationError

from onboarding.request import (
    OnboardingRequest,
    RegistrationSection,
)
from tests.support.requests import (
    device,
    example,
    refusal,
    registration,
    request,
)

# Which keys were given


def test_a_key_that_is_absent_stays_absent_through_every_dump() -> None:
    asked = OnboardingRequest.model_validate(
        {"registration": {"id": 1, "cpId": 3, "site": None}, "subject": example()["subject"]}
    )
    expected = {"id": 1, "cp_id": 3, "site": None}
    assert asked.model_dump()["registration"] == expected
    assert json.loads(asked.model_dump_json())["registration"] == expected
    assert jsonable_encoder(asked)["registration"] == expected  # how Prefect stores the parameters of a run
    again = OnboardingRequest.model_validate_json(asked.model_dump_json())
    assert again.registration
    assert again.registration.body() == {"id": 1, "cpId": 3, "site": None}


@pytest.mark.parametrize("key", ["external_subject_id", "site", "barcode"])
def test_null_clears_where_the_server_takes_it(key: str) -> None:
    asked = registration(**{key: None})
    assert asked.given() == ["id", "cp_id", key]
    assert list(asked.body().values()) == [1, 3, None]


@pytest.mark.parametrize("key", ["ppid", "registration_date", "activity_status"])
def test_null_is_refused_where_it_must_not_clear(key: str) -> None:
    assert f"registration.{key}: must not be null" in refusal(**{f"registration__{key}": None})


@pytest.mark.parametrize("key", ["ppid", "external_subject_id", "site", "barcode", "cp_title"])
@pytest.mark.parametrize("blank", ["", "  \t"])
def test_blank_is_refused_since_it_does_not_say_whether_to_clear(key: str, blank: str) -> None:
    assert f"registration.{key}: String should have at least 1 character" in refusal(**{f"registration__{key}": blank})


def test_null_that_clears_nothing_is_as_good_as_absent() -> None:
    assert registration(cp_title=None, participant=None).body() == {"id": 1, "cpId": 3}
    assert device(subject_number="A-1", vendor_code=None).body().keys() == {
        "inventoryId",
        "mSubjectId",
        "subjectNumber",
    }


# What each may hold


def test_allow_merge_is_a_word_to_us_and_not_sent() -> None:
    asked = registration(allow_merge=True)
    assert asked.allow_merge
    assert asked.body() == {"id": 1, "cpId": 3}
    assert registration(allow_merge="TRUE").allow_merge
    assert not registration().allow_merge


@pytest.mark.parametrize("value", [1, 0, "yes", "", None, []])
def test_a_flag_is_true_or_false_and_nothing_like_it(value: object) -> None:
    assert "must be true or false" in refusal(registration__allow_merge=value)


@pytest.mark.parametrize(
    ("protocol", "given"),
    [
        ({}, "none"),
        ({"cp_id": 3, "cp_title": "Heart"}, "cp_id and cp_title"),
        ({"cp_title": "Heart", "cp_short_title": "H"}, "cp_title and cp_short_title"),
    ],
)
def test_exactly_one_name_of_the_protocol_is_needed(protocol: dict[str, object], given: str) -> None:
    with pytest.raises(ValidationError, match=f"but {given} was given"):
        RegistrationSection.model_validate({"id": 1, **protocol})


@pytest.mark.parametrize(("key", "sent"), [("cp_title", "cpTitle"), ("cp_short_title", "cpShortTitle")])
def test_the_protocol_may_be_named_by_title(key: str, sent: str) -> None:
    assert RegistrationSection.model_validate({"id": 1, key: "Heart"}).body() == {"id": 1, sent: "Heart"}


@pytest.mark.parametrize("status", ["Disabled", "Closed", "active", "", 1, True])
def test_an_activity_status_that_could_delete_is_refused(status: object) -> None:
    assert 'must be "Active" or left out' in refusal(registration__activity_status=status)


@pytest.mark.parametrize("number", [0, -1, True, 1.0, 1.5, "", "x", "-1", "1.0", "٣", 2**63, "9" * 19, None, [1]])
def test_a_record_id_is_a_whole_number_from_one(number: object) -> None:
    assert "registration.id: must be a whole number from 1" in refusal(registration__id=number)
    assert "participant.id: must be a whole number from 1" in refusal(registration__participant={"id": number})


@pytest.mark.parametrize("number", [1, "1", " 1 ", 2**63 - 1])
def test_a_record_id_may_be_written_as_text(number: int | str) -> None:
    assert registration(id=number).id == int(number)


@pytest.mark.parametrize("day", ["2014-02-30", "2015-02-29", "2014-13-01", "2014-00-10", "0000-01-01"])
def test_a_day_that_the_calendar_does_not_have_is_refused(day: str) -> None:
    assert "registration_date: is not a day of the calendar" in refusal(registration__registration_date=day)


@pytest.mark.parametrize(
    "day",
    [
        "2014-4-21",
        "20140421",
        "2014-04-21T00:00:00Z",
        "21.04.2014",
        "2014-W17-1",
        "",
        1398105000000,
        "٢٠١٤-04-21",
        True,
        datetime(2014, 4, 21, tzinfo=UTC),
    ],
)
def test_a_date_in_any_other_spelling_is_refused(day: object) -> None:
    assert "registration_date: must be a date as YYYY-MM-DD" in refusal(registration__registration_date=day)


@pytest.mark.parametrize("day", ["0214-04-21", "1799-12-31", "2200-01-01", "9999-12-31"])
def test_a_date_out_of_any_reason_is_refused(day: str) -> None:
    assert "must lie between 1800-01-01 and 2199-12-31" in refusal(registration__registration_date=day)


def test_a_leap_day_is_a_day() -> None:
    assert registration(registration_date="2016-02-29").body()["registrationDate"] == "2016-02-29"


def test_space_around_text_is_dropped_as_the_server_does() -> None:
    assert registration(ppid=" ASCI123\n").ppid == "ASCI123"


@pytest.mark.parametrize("text", ["A\nB", "A\0B", "A\x1bB", "A\u2028B", "A\x85B"])
def test_text_of_more_than_one_line_or_with_control_characters_is_refused(text: str) -> None:
    assert "must be one line of text without control characters" in refusal(registration__ppid=text)
    assert "must be one line of text without control characters" in refusal(device__m_subject_id=text)


@pytest.mark.parametrize("value", [5, True, ["x"], {}])
def test_text_must_be_text(value: object) -> None:
    assert "registration.ppid: Input should be a valid string" in refusal(registration__ppid=value)


def test_a_registration_that_changes_nothing_is_allowed_with_a_warning() -> None:
    asked = request(registration={"id": 1, "cp_id": 3})
    assert asked.warnings() == ["registration: asks for no change of the registration."]
