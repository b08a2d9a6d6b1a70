from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from onboarding.intake import IntakeParticipant, IntakeRegistration, IntakeRequest, Pmi, parse_request
from tests.support.requests import LEFT_OUT, MARKER, PARTICIPANT, example, problems, problems_if_any
from tests.support.requests import request as plain_request


def intake(**participant: Any) -> IntakeRequest:
    return parse_request(example(registration__participant={"id": 2, **participant}))


def participant_problems(**participant: Any) -> list[str]:
    return problems(example(registration__participant={"id": 2, **participant}))


# A person's details


def test_every_detail_is_sent_as_the_vendor_spells_it() -> None:
    asked = parse_request(example(registration__participant=PARTICIPANT, registration__opComments=f"why {MARKER}"))
    assert asked.registration
    body = asked.registration.body()
    assert body["participant"] == PARTICIPANT
    assert body["opComments"] == f"why {MARKER}"


def test_our_spelling_of_the_details_is_taken_too() -> None:
    asked = intake(first_name="A", birth_date="1961-07-03", pmis=[{"mrn": "1", "site_name": "S"}])
    assert asked == intake(firstName="A", birthDate="1961-07-03", pmis=[{"mrn": "1", "siteName": "S"}])


def test_no_detail_shows_in_what_is_printed() -> None:
    asked = parse_request(example(registration__participant=PARTICIPANT, registration__op_comments=MARKER))
    for shown in (repr(asked), str(asked), f"{asked}", repr(asked.registration)):
        assert MARKER not in shown
        assert "1961" not in shown
        assert "ASCI123" in shown


def test_every_field_of_a_person_but_the_id_is_hidden() -> None:
    shown = {name for name, field in IntakeParticipant.model_fields.items() if field.repr}
    assert shown == {"id"}
    assert not any(field.repr for field in Pmi.model_fields.values())
    assert not IntakeRegistration.model_fields["op_comments"].repr


def test_every_detail_can_be_cleared() -> None:
    assert IntakeParticipant.null_clears == IntakeParticipant.model_fields.keys() - {"id"}
    asked = intake(firstName=None, pmis=None, races=[])
    assert asked.registration
    assert asked.registration.body()["participant"] == {"id": 2, "firstName": None, "races": [], "pmis": None}


def test_without_personal_data_the_id_alone_is_left() -> None:
    asked = parse_request(example(registration__participant=PARTICIPANT, registration__op_comments=MARKER))
    assert asked.without_personal_data() == plain_request()
    assert MARKER not in asked.without_personal_data().model_dump_json()
    bare = parse_request(example(registration=LEFT_OUT))
    assert bare.without_personal_data() == plain_request(registration=LEFT_OUT)


def test_a_stored_request_reads_back_as_it_was() -> None:
    asked = parse_request(
        example(registration__participant=PARTICIPANT, registration__site=None, registration__op_comments="x")
    )
    again = parse_request(asked.model_dump_json())
    assert again == asked
    assert asked.registration
    assert again.registration
    assert again.registration.body() == asked.registration.body()


def test_a_day_that_has_not_begun_anywhere_is_in_the_future() -> None:
    today = datetime.now(UTC).date()
    for key in ("birthDate", "deathDate"):
        intake(**{key: today.isoformat()})
        assert participant_problems(**{key: (today + timedelta(days=2)).isoformat()}) == [
            f"registration.participant.{key}: must not lie in the future"
        ]


def test_nobody_dies_before_being_born() -> None:
    intake(birthDate="1961-07-03", deathDate="1961-07-03")
    assert participant_problems(birthDate="1961-07-03", deathDate="1961-07-02") == [
        "registration.participant: the death date must not lie before the birth date"
    ]


@pytest.mark.parametrize(
    ("key", "value", "place"),
    [
        ("lastName", "###", "lastName"),
        ("empi", " ### ", "empi"),
        ("races", ["###"], "races[0]"),
        ("pmis", [{"mrn": "###", "siteName": "S"}], "pmis[0].mrn"),
        ("extensionDetail", {"attrs": [{"name": "a", "value": "###"}]}, "extensionDetail"),
    ],
)
def test_a_mask_is_never_written_back(key: str, value: object, place: str) -> None:
    (problem,) = participant_problems(**{key: value})
    assert problem.startswith(f"registration.participant.{place}: is the mask")


@pytest.mark.parametrize(("key", "instead"), [("race", "races"), ("ethnicity", "ethnicities")])
def test_a_key_of_older_documentation_names_todays(key: str, instead: str) -> None:
    assert participant_problems(**{key: ["x"]}) == [
        f"registration.participant.{key}: is not a known key; use {instead}"
    ]


def test_lists_of_a_person_name_each_entry_once() -> None:
    twice = {"mrn": "1", "siteName": "S"}
    assert participant_problems(races=["A", "B", "A "], pmis=[twice, twice]) == [
        "registration.participant.races: every entry may be given once, but [2] repeats [0]",
        "registration.participant.pmis: every entry may be given once, but [1] repeats [0]",
    ]


@pytest.mark.parametrize("key", sorted(PARTICIPANT.keys() - {"id"}))
@pytest.mark.parametrize(
    "wrong_value", [{MARKER: MARKER}, [MARKER, [MARKER]], f"{MARKER}\x07", 7.25, True, MARKER * 100, [{"mrn": MARKER}]]
)
def test_no_error_repeats_a_persons_value(key: str, wrong_value: object) -> None:
    for problem in problems_if_any(example(registration__participant={"id": 2, key: wrong_value})):
        assert problem.startswith("registration.participant.")
        assert "7.25" not in problem
        # An unknown key is named, since the user must find it; a value is not.
        assert MARKER not in problem.replace(f".{MARKER}: is not a known key", "")


# One clear line per problem


def test_every_problem_is_named_at_once_in_the_users_spelling() -> None:
    content = {
        "registration": {
            "id": True,
            "cpId": 1,
            "cp_id": 2,
            "participant": {"id": 1, "pmis": [{"mrn": "1"}], "emailAddres": "x"},
            "registrationDate": "2014-02-30",
            "activityStatus": "Disabled",
        },
        "subject": {"study_id": "x", "mode": "prod"},
        "device": {"inventoryId": 1, "mSubjectId": " ", "subjectNumber": "x" * 101},
        "dnd_exception": {
            "allCountries": 1,
            "countries": ["XX"],
            "kitTypeSrcId": "a",
            "visitDND": [{"dnd": True}, 3],
        },
        "registraton": {},
    }
    assert problems(content) == [
        "registration.id: must be a whole number from 1 to 9223372036854775807",
        (
            "registration.participant.pmis[0].siteName: is missing: Name of the site that gave the number. "
            "Example: Berlin Centre"
        ),
        "registration.participant.emailAddres: is not a known key; did you mean emailAddress?",
        "registration.registrationDate: is not a day of the calendar; write a real one as YYYY-MM-DD",
        'registration.activityStatus: must be "Active" or left out: another status could delete the registration',
        "registration.cpId: is given twice, in two spellings; give it once",
        "subject.study_id: must be an id of 32 hexadecimal digits, or the same with dashes as 8-4-4-4-12",
        "subject.mode: must be 'test', 'training' or 'active'",
        (
            "subject.subject_id: is missing: Id of the subject, 32 hexadecimal digits. "
            "Example: 0A1B2C3D4E5F67890123456789ABCDEF"
        ),
        "device.inventoryId: must be text, not a number",
        "device.mSubjectId: must not be blank",
        "device.subjectNumber: must have at most 100 characters",
        "dnd_exception.allCountries: must be true or false",
        "dnd_exception.countries[0]: must be a country code of ISO 3166-1 alpha-2, for example US",
        "dnd_exception.kitTypeSrcId: must be a list, not text",
        (
            "dnd_exception.visitDND[0].visitSrcId: is missing: Id of the visit, 32 hexadecimal digits. "
            "Example: 6AF54DB79B764662B685D68C52AB0B84"
        ),
        "dnd_exception.visitDND[0].dnd: must be a number of days from 0 to 99999, with at most 6 decimals",
        "dnd_exception.visitDND[1]: must be an object, not a number",
        "registraton: is not a known key; did you mean registration?",
    ]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"device__vendor_code": "X"}, "device: give exactly one of subject_number (device-to-cloud) and vendor_code"),
        ({"registration": {"id": 1}}, "registration: give exactly one of cp_id, cp_title and cp_short_title, but none"),
        ({"dnd_exception__countries": []}, ""),
        ({"dnd_exception__kit_type_src_ids": []}, "dnd_exception.kit_type_src_ids: must have at least 1 entry"),
        ({"dnd_exception__site_ids": ["0" * 32] * 5001}, "dnd_exception.site_ids: must have at most 5000 entries"),
        ({"subject": LEFT_OUT}, "subject: is missing: The subject to onboard: study, mode and subject id."),
        ({"subject": []}, "subject: must be an object, not a list"),
        ({"device": "x"}, "device: must be an object, not text"),
        ({"registration__site": True}, "registration.site: must be text, not true or false"),
        ({"registration__ppid": None}, "registration.ppid: must not be null; leave the key out to keep what stands"),
        ({"registration__ppdi": "x"}, "registration.ppdi: is not a known key; did you mean ppid?"),
        ({"registration__PPID": "x"}, "registration.PPID: is not a known key; did you mean ppid?"),
        ({"mode": "test"}, "mode: is not a known key; known here are registration, subject, device, dnd_exception"),
        ({"device__a\nb": "x"}, 'device."a\\nb": is not a known key; known here are inventory_id, m_subject_id'),
    ],
)
def test_a_problem_says_where_what_and_what_is_allowed(changes: dict[str, Any], problem: str) -> None:
    content = example(**changes)
    if not problem:
        assert parse_request(content).warnings()
        return
    (said,) = problems(content)
    assert said.startswith(problem)
    assert "\n" not in said


def test_a_request_for_nothing_is_refused() -> None:
    assert problems({"subject": example()["subject"]}) == [
        "request: asks for nothing: give at least one of registration, device and dnd_exception"
    ]


def test_problems_without_end_are_cut() -> None:
    said = problems(example(dnd_exception__site_ids=["x"] * 1000))
    assert len(said) == 101
    assert said[-1] == "... and 900 more problems"
