"""Bad input: one clear line per problem, exit status 2, nothing sent, nothing stored."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.installation import Installation, Ran
from tests.support.requests import INVENTORY_ID, LEFT_OUT, MARKER, PARTICIPANT, SUBJECT_ID, VISIT_ID, example

ID_FORM = "must be an id of 32 hexadecimal digits"
COUNT_FORM = "must be a whole number from 1"


def refused(installation: Installation, *words: str, given: bytes = b"") -> list[str]:
    """What a command says that must be refused as bad input, having done nothing at all."""
    ran = installation.run(*words, given=given)
    assert_nothing_happened(installation, ran)
    return ran.said


def assert_nothing_happened(installation: Installation, ran: Ran) -> None:
    assert (ran.status, ran.out) == (2, ""), ran
    assert ran.err.count("\n") == len(ran.said) > 0
    assert installation.requests() == []
    assert not installation.ledger_file.exists(), "nothing is stored"


FIELDS: list[tuple[dict[str, Any], str, str]] = [
    ({"registration__id": 0}, "registration.id", COUNT_FORM),
    ({"registration__id": True}, "registration.id", COUNT_FORM),
    ({"registration__id": 1.5}, "registration.id", COUNT_FORM),
    ({"registration__id": None}, "registration.id", COUNT_FORM),
    ({"registration__id": LEFT_OUT}, "registration.id", "is missing"),
    ({"registration__id": 10**30}, "registration.id", "within range"),
    ({"registration__cp_id": LEFT_OUT}, "registration", "exactly one of cp_id, cp_title and cp_short_title"),
    ({"registration__cp_title": "x"}, "registration", "exactly one of cp_id, cp_title and cp_short_title"),
    ({"registration__participant": []}, "registration.participant", "must be an object, not a list"),
    ({"registration__participant": {}}, "registration.participant.id", "is missing"),
    ({"registration__participant__firstname": "x"}, "registration.participant.firstname", "did you mean first_name?"),
    ({"registration__participant__birthDate": "1961-02-30"}, "registration.participant.birthDate", "YYYY-MM-DD"),
    ({"registration__participant__birth_date": "2999-01-01"}, "registration.participant.birth_date", "between"),
    ({"registration__participant__race": ["x"]}, "registration.participant.race", "use races"),
    ({"registration__participant__pmis": [{"mrn": "x"}]}, "registration.participant.pmis[0].site_name", "is missing"),
    ({"registration__participant__emailAddress": 5}, "registration.participant.emailAddress", "must be text"),
    ({"registration__participant__lastName": "###"}, "registration.participant.lastName", "give the real value"),
    ({"registration__ppid": ""}, "registration.ppid", "must not be blank"),
    ({"registration__ppid": None}, "registration.ppid", "must not be null"),
    ({"registration__registration_date": "21.04.2014"}, "registration.registration_date", "YYYY-MM-DD"),
    ({"registration__registration_date": "2014-02-30"}, "registration.registration_date", "YYYY-MM-DD"),
    ({"registration__registration_date": None}, "registration.registration_date", "must not be null"),
    ({"registration__activity_status": "Disabled"}, "registration.activity_status", 'must be "Active"'),
    ({"registration__site": ""}, "registration.site", "must not be blank"),
    ({"registration__allow_merge": "yes"}, "registration.allow_merge", "true or false"),
    ({"registration__unknown": 1}, "registration.unknown", "known here are id, cp_id"),
    ({"registration": "x"}, "registration", "must be an object, not text"),
    ({"subject": LEFT_OUT}, "subject", "is missing"),
    ({"subject__study_id": "123"}, "subject.study_id", ID_FORM),
    ({"subject__mode": "prod"}, "subject.mode", "'test', 'training' or 'active'"),
    ({"subject__mode": "active"}, "subject.mode", "ONBOARDING_MODES"),
    ({"subject__subject_id": SUBJECT_ID[:8] + "-" + SUBJECT_ID[8:]}, "subject.subject_id", ID_FORM),
    ({"device__inventory_id": ""}, "device.inventory_id", ID_FORM),
    ({"device__inventoryId": INVENTORY_ID}, "device.inventoryId", "two spellings"),
    ({"device__m_subject_id": "  "}, "device.m_subject_id", "must not be blank"),
    ({"device__subject_number": LEFT_OUT}, "device", "exactly one of subject_number"),
    ({"device__vendor_code": "X"}, "device", "exactly one of subject_number"),
    ({"device__subject_number": "x" * 101}, "device.subject_number", "at most 100 characters"),
    ({"dnd_exception__all_countries": "no"}, "dnd_exception.all_countries", "true or false"),
    ({"dnd_exception__all_countries": True}, "dnd_exception", "give neither countries nor site_ids"),
    ({"dnd_exception__countries": ["XX"]}, "dnd_exception.countries[0]", "ISO 3166-1"),
    ({"dnd_exception__countries": ["US", "us"]}, "dnd_exception.countries", "[1] repeats [0]"),
    ({"dnd_exception__site_ids": ["x"]}, "dnd_exception.site_ids[0]", ID_FORM),
    ({"dnd_exception__kit_type_src_ids": []}, "dnd_exception.kit_type_src_ids", "at least 1 entry"),
    (
        {"dnd_exception__visit_dnd": [{"visit_src_id": VISIT_ID, "dnd": 100000}]},
        "dnd_exception.visit_dnd[0].dnd",
        "from 0 to 99999",
    ),
    ({"dnd_exception__visit_dnd": [{"dnd": 2}]}, "dnd_exception.visit_dnd[0].visit_src_id", "is missing"),
    (
        {"registration": LEFT_OUT, "device": LEFT_OUT, "dnd_exception": LEFT_OUT},
        "request",
        "at least one of registration, device and dnd_exception",
    ),
    ({"extra": 1}, "extra", "known here are registration, subject, device, dnd_exception"),
]


@pytest.mark.parametrize(
    ("changes", "field", "allowed"), FIELDS, ids=[f"{field}-{number}" for number, (_, field, _) in enumerate(FIELDS)]
)
def test_a_wrong_field_is_named_with_what_is_allowed(
    installation: Installation, changes: dict[str, Any], field: str, allowed: str
) -> None:
    (line,) = refused(installation, "subject", installation.request(**changes))
    assert line.startswith(f"{field}: ")
    assert allowed in line


def test_every_problem_has_a_line_of_its_own(installation: Installation) -> None:
    file = installation.request(registration__id=0, subject__mode="prod", device__m_subject_id="", extra=1)
    fields = [line.split(":")[0] for line in refused(installation, "subject", file)]
    assert sorted(fields) == ["device.m_subject_id", "extra", "registration.id", "subject.mode"]


def test_no_line_repeats_a_personal_value(installation: Installation) -> None:
    wrong = {
        name: {"wrong": f"{MARKER}"} if isinstance(value, str) else f"{MARKER}"
        for name, value in PARTICIPANT.items()
        if name not in ("id", "extensionDetail")
    }
    file = installation.request(registration__participant={"id": 2, **wrong}, registration__op_comments=[MARKER])
    lines = refused(installation, "subject", file)
    assert len(lines) == len(wrong) + 1
    assert MARKER not in "\n".join(lines)


TEXTS: list[tuple[str, bytes, str]] = [
    ("empty", b"", "is empty"),
    ("blank", b" \n\t", "is empty"),
    ("binary", bytes(range(256)), "not text in UTF-8"),
    ("utf16", json.dumps(example()).encode("utf-16"), "not text in UTF-8"),
    ("csv", b"registration.id,subject.mode\n1,test\n", "not valid JSON: line 1, column 1"),
    ("csv-with-a-number-first", b"1,2,3\n4,5,6\n", "not valid JSON: line 1, column 2"),
    ("cut", json.dumps(example()).encode()[:-20], "not valid JSON"),
    ("two-objects", b"{}\n{}", "not valid JSON: line 2"),
    ("trailing-comma", b'{"subject": {},}', "not valid JSON"),
    ("a-list", b"[]", "must be a JSON object"),
    ("a-text", b'"x"', "must be a JSON object"),
    ("null", b"null", "must be a JSON object"),
    ("repeated-keys", b'{"subject": {}, "subject": {}}', "is given more than once"),
    ("not-a-number", b'{"registration": {"id": NaN}}', "NaN and Infinity are no numbers"),
    ("nul-character", b'{"subject": {"study_id": "\\u0000"}}', "NUL character"),
    ("half-a-surrogate", b'{"subject": {"study_id": "\\ud800"}}', "surrogate"),
    ("deep", b"[" * 100_000, "nested deeper"),
    ("huge", b'{"subject": "' + b"x" * (2 * 1024 * 1024) + b'"}', "larger than 512 KiB"),
    ("huge-number", b'{"registration": {"id": ' + b"9" * 5000 + b"}}", "within range"),
]


@pytest.mark.parametrize(("text", "problem"), [row[1:] for row in TEXTS], ids=[row[0] for row in TEXTS])
def test_a_file_that_is_no_request_is_said_so(installation: Installation, text: bytes, problem: str) -> None:
    file = installation.folder / "given"
    file.write_bytes(text)
    from_file = refused(installation, "subject", str(file))
    assert problem in from_file[0]
    assert refused(installation, "subject", "-", given=text) == from_file


def test_a_request_with_a_byte_order_mark_is_taken(installation: Installation) -> None:
    given = b"\xef\xbb\xbf" + json.dumps(example()).encode()
    assert installation.run("subject", "-", "--dry-run", given=given).status == 0


def test_a_file_that_cannot_be_read_is_named(installation: Installation, tmp_path: Path) -> None:
    for place in (tmp_path / "missing.json", tmp_path, Path("\udcff"), Path("x" * 300)):
        (line,) = refused(installation, "subject", str(place))
        assert "cannot be read" in line


def test_a_request_that_never_ends_is_not_read_to_its_end(installation: Installation) -> None:
    (line,) = refused(installation, "subject", "/dev/zero")
    assert "larger than 512 KiB" in line


def test_bad_input_is_found_before_bad_settings_and_an_unreachable_vendor(installation: Installation) -> None:
    file = installation.request(registration__id=0)
    ran = installation.run(
        "subject", file, variables={"ONBOARDING_OPENSPECIMEN_URL": "http://127.0.0.1:1/openspecimen"}
    )
    assert_nothing_happened(installation, ran)
    for words in (("subject", file, "--dry-run"), ("subject", file, "--json")):
        assert_nothing_happened(installation, installation.run(*words))
