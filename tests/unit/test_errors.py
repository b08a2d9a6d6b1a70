"""What an error says to a person, and what it keeps to itself."""

import pytest

from onboarding.errors import (
    CLINICAL_ONE,
    AnswerError,
    BadInput,
    BadSettings,
    IdentityConflict,
    InDoubt,
    LoginRefused,
    NotYet,
    OnboardedElsewhere,
    Refused,
    RequestConflict,
    Unavailable,
)

KNOWN = {
    Refused: "Nothing was applied.",
    LoginRefused: "Nothing was sent; no further log-in is tried until the connection's settings change.",
    Unavailable: "Nothing was applied; it is tried again later.",
    InDoubt: "Whether it was applied is not known yet.",
    NotYet: "The case waits until the device is dispensed.",
    IdentityConflict: "Nothing was sent.",
}


@pytest.mark.parametrize("kind", KNOWN)
def test_the_message_ends_with_what_is_known_of_the_effect(kind: type[AnswerError]) -> None:
    error = kind(CLINICAL_ONE, "CODE", "What happened.", http_status=409, vendor_text="Miller", retry_after_s=4.0)
    assert str(error) == f"Clinical One: CODE (HTTP 409): What happened. {KNOWN[kind]}"
    assert (error.system, error.code, error.what, error.http_status) == (CLINICAL_ONE, "CODE", "What happened.", 409)
    assert (error.vendor_text, error.retry_after_s) == ("Miller", 4.0)


def test_without_a_status_the_message_names_none() -> None:
    error = AnswerError(CLINICAL_ONE, "CUT", "The connection broke.")
    assert str(error) == "Clinical One: CUT: The connection broke."
    assert (error.http_status, error.vendor_text, error.retry_after_s) == (None, None, None)


def test_problems_of_the_input_stand_one_to_a_line() -> None:
    for kind in (BadInput, BadSettings):
        error = kind(["a: is missing", "b: is wrong"])
        assert (str(error), error.problems) == ("a: is missing\nb: is wrong", ["a: is missing", "b: is wrong"])


def test_a_conflict_names_the_case_and_its_sections() -> None:
    error = RequestConflict("K1", ["registration", "device"], "they were sent")
    assert str(error) == (
        "case K1 exists for this study, mode, subject and device, and registration, device cannot be replaced: "
        "they were sent. Look at it with 'onboard show K1'."
    )
    assert (error.case_id, error.sections) == ("K1", ["registration", "device"])


def test_what_was_done_elsewhere_names_the_case_and_no_section_and_says_what_to_do() -> None:
    error = OnboardedElsewhere("K1")
    assert str(error) == (
        "case K1 onboarded this subject at other systems (addresses) than the ones set now, where nothing was done. "
        "Set those addresses again; or, if these are really other systems, give them a ledger of their own."
    )
    assert (error.case_id, error.sections) == ("K1", [])
