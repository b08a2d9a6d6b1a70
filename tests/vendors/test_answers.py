"""What each answer says about the effect: the whole table, without a network."""

import contextlib
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onboarding.errors import CLINICAL_ONE, OPENSPECIMEN, AnswerError, InDoubt, NotYet, Refused, Unavailable
from onboarding.explanations import explain
from onboarding.vendors import Answer, Kind, NoAnswer, classify, phrases
from onboarding.vendors.answers import unwrapped, vendor_error
from onboarding.vendors.wire import Unreadable

OPENSPECIMEN_SHAPE = [{"code": "CPR_DUP_PPID", "message": "A participant with same PPID Miller exists."}]
CLINICAL_ONE_SHAPE = {
    "status": "Error",
    "version": 1,
    "result": None,
    "errorData": {"errorCode": "C1-003", "errorMessage": "Something about Miller", "details": {}},
}
SHAPES = {OPENSPECIMEN: OPENSPECIMEN_SHAPE, CLINICAL_ONE: CLINICAL_ONE_SHAPE}
SYSTEMS = [OPENSPECIMEN, CLINICAL_ONE]
BODIES_WITHOUT_SHAPE: list[object] = [
    b"",
    b"<html>Bad gateway</html>",
    b"{",
    b"[" * 100_000,
    {},
    [],
    None,
    "text",
    {"error": "x"},
    [1],
    [{"message": "no code"}],
    {"errorData": None},
    {"errorData": {}},
    {"errorData": {"errorCode": None, "errorMessage": "  "}},
    {"errorData": "text"},
]


def answer(status: int, body: object = b"", **how: object) -> Answer:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(status, body=content, **how)  # type: ignore[arg-type]


def phrased(text: str | None, code: str = "C1-003", details: object = None) -> dict[str, object]:
    return {"status": "Error", "errorData": {"errorCode": code, "errorMessage": text, "details": details}}


def outcome_class(system: str, kind: Kind, outcome: Answer | NoAnswer) -> type[AnswerError] | None:
    error = classify(system, kind, outcome)
    return None if error is None else type(error)


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("status", [400, 402, 403, 404, 405, 409, 410, 413, 415, 422, 423])
def test_the_vendors_own_4xx_is_a_refusal_for_every_kind(system: str, status: int) -> None:
    for kind in Kind:
        assert outcome_class(system, kind, answer(status, SHAPES[system])) is Refused


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("status", [400, 403, 404, 408, 409, 413, 431])
@pytest.mark.parametrize("body", BODIES_WITHOUT_SHAPE)
def test_another_4xx_leaves_an_effect_in_doubt(system: str, status: int, body: object) -> None:
    assert outcome_class(system, Kind.EFFECT, answer(status, body)) is InDoubt
    assert outcome_class(system, Kind.READ, answer(status, body)) is Unavailable
    assert outcome_class(system, Kind.LOGIN, answer(status, body)) is Unavailable


def test_the_other_vendors_shape_is_not_the_vendors_own() -> None:
    assert outcome_class(OPENSPECIMEN, Kind.EFFECT, answer(400, CLINICAL_ONE_SHAPE)) is InDoubt
    assert outcome_class(CLINICAL_ONE, Kind.EFFECT, answer(400, OPENSPECIMEN_SHAPE)) is InDoubt


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_429_of_any_shape_was_not_applied(system: str) -> None:
    for kind in Kind:
        for body in [*BODIES_WITHOUT_SHAPE, SHAPES[system]]:
            assert outcome_class(system, kind, answer(429, body)) is Unavailable
        assert outcome_class(system, kind, Answer(429, flaw="truncated")) is Unavailable


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("status", [500, 501, 502, 503, 504, 507, 520, 599])
def test_a_5xx_leaves_an_effect_in_doubt_unless_it_is_the_vendors_own_503(system: str, status: int) -> None:
    for body in [*BODIES_WITHOUT_SHAPE, SHAPES[system]]:
        own_503 = status == 503 and body is SHAPES[system]
        assert outcome_class(system, Kind.EFFECT, answer(status, body)) is (Unavailable if own_503 else InDoubt)
        assert outcome_class(system, Kind.READ, answer(status, body)) is Unavailable
        assert outcome_class(system, Kind.LOGIN, answer(status, body)) is Unavailable


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
def test_a_redirect_leaves_an_effect_in_doubt(system: str, status: int) -> None:
    assert outcome_class(system, Kind.EFFECT, answer(status, SHAPES[system])) is InDoubt
    assert outcome_class(system, Kind.READ, answer(status)) is Unavailable


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("status", [200, 201, 204])
def test_a_success_that_is_json_or_empty_is_left_to_its_call(system: str, status: int) -> None:
    for kind in Kind:
        for body in (b"", b"  ", b"null", b"{}", b"[]", b"7", b'{"id": 1}', b'\xef\xbb\xbf{"id": 1}'):
            assert classify(system, kind, answer(status, body)) is None


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize(
    "success",
    [
        answer(200, b"<html>welcome</html>"),
        answer(200, b'{"id": NaN}'),
        answer(200, b"\xff\xfe\x00"),
        answer(200, b'{"a":' * 50_000),
        answer(202, {"id": 1}),
        answer(206, {"id": 1}),
        Answer(200, flaw="truncated"),
        Answer(200, flaw="oversized"),
        Answer(200, flaw="compressed"),
        Answer(200, flaw="deadline_passed"),
    ],
)
def test_a_success_that_cannot_be_read_leaves_an_effect_in_doubt(system: str, success: Answer) -> None:
    assert outcome_class(system, Kind.EFFECT, success) is InDoubt
    assert outcome_class(system, Kind.READ, success) is Unavailable
    assert outcome_class(system, Kind.LOGIN, success) is Unavailable


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_success_with_the_body_of_an_error_cannot_be_read(system: str) -> None:
    assert outcome_class(system, Kind.EFFECT, answer(200, SHAPES[system])) is InDoubt
    assert outcome_class(system, Kind.READ, answer(200, SHAPES[system])) is Unavailable


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_second_401_of_any_shape_is_a_refusal(system: str) -> None:
    for kind in Kind:
        for body in [*BODIES_WITHOUT_SHAPE, SHAPES[system]]:
            assert outcome_class(system, kind, answer(401, body)) is Refused
    error = classify(system, Kind.READ, answer(401, b"<html>"))
    assert error is not None
    assert error.code == "NOT_AUTHORISED"


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("reason", ["cut", "deadline_passed", "connect_refused", "answer_not_http"])
def test_only_whether_a_byte_may_have_left_decides_without_an_answer(system: str, reason: str) -> None:
    left = NoAnswer(may_have_left=True, reason_code=reason)
    kept = NoAnswer(may_have_left=False, reason_code=reason)
    assert outcome_class(system, Kind.EFFECT, left) is InDoubt
    assert outcome_class(system, Kind.EFFECT, kept) is Unavailable
    for kind in (Kind.READ, Kind.LOGIN):
        assert outcome_class(system, kind, left) is Unavailable
        assert outcome_class(system, kind, kept) is Unavailable


PHRASES = {
    "Invalid subject Id": phrases.INVALID_SUBJECT_ID,
    "Invalid Subject ID": phrases.INVALID_SUBJECT_ID,
    "Device is not dispensed to the subject": phrases.DEVICE_NOT_DISPENSED,
    "device is not dispensed to subject.": phrases.DEVICE_NOT_DISPENSED,
    "Device is dispensed to different subject": phrases.DEVICE_DISPENSED_TO_DIFFERENT_SUBJECT,
    "Device is dispensed to a different subject": phrases.DEVICE_DISPENSED_TO_DIFFERENT_SUBJECT,
    "Invalid device Id": phrases.INVALID_DEVICE_ID,
    "Cloud to cloud connection type device is already registered": phrases.DEVICE_ALREADY_REGISTERED,
    "The cloud-to-cloud connection type device is already registered": phrases.DEVICE_ALREADY_REGISTERED,
    "Device does not have a connection type": phrases.DEVICE_WITHOUT_CONNECTION_TYPE,
    "Vendor code is missing for cloud to cloud connection type of devices": phrases.VENDOR_CODE_MISSING,
    "Vendor code has been specified for device-to-cloud connection type of devices": phrases.VENDOR_CODE_NOT_ALLOWED,
    "Subject number is missing for device to cloud connection type of devices": phrases.SUBJECT_NUMBER_MISSING,
    "Device is of no-connection connection type": phrases.NO_CONNECTION_DEVICE,
    "Device has a no-connection connection type": phrases.NO_CONNECTION_DEVICE,
    "mHealth device is not registered": phrases.DEVICE_NOT_REGISTERED,
    "Invalid study ID or version": phrases.INVALID_STUDY_OR_VERSION,
    "For Invalid study ID or version": phrases.INVALID_STUDY_OR_VERSION,
    "Subject not found": phrases.SUBJECT_NOT_FOUND,
    "Invalid parameters": phrases.INVALID_PARAMETERS,
    "Dispensation Logic (Dynamic DND) Request is not valid": phrases.DND_REQUEST_NOT_VALID,
    "mHealth setttings are not found": phrases.MHEALTH_SETTINGS_NOT_FOUND,
    "mHealth settings are not found.": phrases.MHEALTH_SETTINGS_NOT_FOUND,
}


@pytest.mark.parametrize(("text", "code"), PHRASES.items())
def test_a_documented_phrase_has_its_code_however_it_is_spelt(text: str, code: str) -> None:
    for spelling in (text, text.upper(), text.lower(), f"Bad Request: {text}", text.replace(" ", "  ")):
        assert phrases.phrase_code(spelling) == code
    expected = NotYet if code == phrases.DEVICE_NOT_DISPENSED else Refused
    error = classify(CLINICAL_ONE, Kind.EFFECT, answer(400, phrased(text)))
    assert error is not None
    assert (type(error), error.code) == (expected, code)


@pytest.mark.parametrize("code", sorted(set(PHRASES.values())))
def test_every_code_is_explained(code: str) -> None:
    assert explain(code) != explain("NO_SUCH_CODE")


def test_a_text_that_names_several_reasons_names_none() -> None:
    text = "Invalid subject Id OR Device is not dispensed to the subject OR Device is dispensed to different subject"
    assert phrases.phrase_code(text) is None
    assert outcome_class(CLINICAL_ONE, Kind.EFFECT, answer(400, phrased(text))) is Refused


@pytest.mark.parametrize("text", ["", "Internal server error", "The device isn't dispensed", "invalid subject ideas"])
def test_a_text_without_a_documented_phrase_has_no_code(text: str) -> None:
    assert phrases.phrase_code(text) is None


def test_an_unknown_phrase_is_kept_beside_the_vendors_code() -> None:
    error = vendor_error(CLINICAL_ONE, phrased("Kit is asleep", details={"field": "inventoryId"}))
    assert error is not None
    assert (error.code, error.text) == ("C1-003", 'C1-003: Kit is asleep: {"field": "inventoryId"}')
    nameless = vendor_error(CLINICAL_ONE, phrased("Kit is asleep", code="What a Miller"))
    assert nameless is not None
    assert nameless.code == "CLINICAL_ONE_ERROR"


def test_details_as_text_can_name_the_reason() -> None:
    error = vendor_error(CLINICAL_ONE, phrased("Validation failed", details="Invalid device ID"))
    assert error is not None
    assert error.code == phrases.INVALID_DEVICE_ID


def test_settings_missing_is_a_refusal_only_in_the_vendors_500() -> None:
    missing = phrased("mHealth setttings are not found")
    assert outcome_class(CLINICAL_ONE, Kind.EFFECT, answer(500, missing)) is Refused
    assert outcome_class(CLINICAL_ONE, Kind.EFFECT, answer(502, missing)) is InDoubt
    assert outcome_class(CLINICAL_ONE, Kind.EFFECT, answer(500, b"mHealth setttings are not found")) is InDoubt
    assert outcome_class(CLINICAL_ONE, Kind.READ, answer(500, missing)) is Unavailable


def test_not_dispensed_counts_only_in_a_4xx() -> None:
    text = phrased("Device is not dispensed to the subject")
    assert outcome_class(CLINICAL_ONE, Kind.EFFECT, answer(400, text)) is NotYet
    assert outcome_class(CLINICAL_ONE, Kind.EFFECT, answer(500, text)) is InDoubt
    assert outcome_class(CLINICAL_ONE, Kind.EFFECT, answer(200, text)) is InDoubt


def test_a_403_of_clinical_one_is_about_rights() -> None:
    error = classify(CLINICAL_ONE, Kind.EFFECT, answer(403, phrased("User is missing DeviceActionsPost")))
    assert error is not None
    assert (type(error), error.code) == (Refused, "ACCESS_DENIED")


def test_the_first_of_several_openspecimen_codes_counts_and_all_are_kept() -> None:
    body = [{"code": "SITE_NOT_FOUND", "message": "a"}, {"code": "CPR_DUP_PPID", "message": None}]
    error = vendor_error(OPENSPECIMEN, body)
    assert error is not None
    assert (error.code, error.text) == ("SITE_NOT_FOUND", "SITE_NOT_FOUND: a; CPR_DUP_PPID: ")


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_vendors_words_are_kept_but_never_shown(system: str) -> None:
    for status in (400, 401, 429, 500, 503):
        error = classify(system, Kind.EFFECT, answer(status, SHAPES[system]))
        assert error is not None
        assert "Miller" in (error.vendor_text or "")
        assert "Miller" not in str(error) + repr(error)


def test_a_wait_that_the_vendor_asks_for_is_told_and_bounded() -> None:
    now = datetime(2026, 11, 21, 12, tzinfo=UTC)
    throttled = answer(429, {}, headers={"retry-after": "40"})
    for ceiling_s, expected in ((3600.0, 40.0), (10.0, 10.0)):
        error = classify(CLINICAL_ONE, Kind.EFFECT, throttled, now=now, ceiling_s=ceiling_s)
        assert error is not None
        assert error.retry_after_s == expected
    busy = answer(503, SHAPES[CLINICAL_ONE], headers={"retry-after": "5"})
    error = classify(CLINICAL_ONE, Kind.EFFECT, busy)
    assert error is not None
    assert error.retry_after_s == 5


def test_a_wait_until_a_date_is_counted_from_the_moment_that_is_given_or_from_the_present() -> None:
    until = {"retry-after": "Sat, 21 Nov 2026 12:00:40 GMT"}
    now = datetime(2026, 11, 21, 12, tzinfo=UTC)
    error = classify(CLINICAL_ONE, Kind.EFFECT, answer(429, headers=until), now=now)
    assert error is not None
    assert error.retry_after_s == 40
    far_off = {"retry-after": "Fri, 21 Nov 2177 12:00:00 GMT"}
    error = classify(CLINICAL_ONE, Kind.EFFECT, answer(429, headers=far_off))
    assert error is not None
    assert error.retry_after_s == 3600


def test_a_success_is_taken_bare_or_under_result() -> None:
    assert unwrapped({"status": "Success", "version": 1, "result": [1], "errorData": None}) == [1]
    assert unwrapped({"result": {"id": 1}}) == {"id": 1}
    assert unwrapped({"id": 1, "result": "bare"}) == {"id": 1, "result": "bare"}
    assert unwrapped([1]) == [1]
    assert unwrapped({"status": "Success", "version": 1}) == {"status": "Success", "version": 1}


@given(st.sampled_from(SYSTEMS), st.sampled_from(Kind), st.integers(100, 599), st.binary(max_size=200))
def test_any_bytes_are_classified(system: str, kind: Kind, status: int, body: bytes) -> None:
    error = classify(system, kind, Answer(status, body=body))
    assert error is None or isinstance(error, AnswerError)
    if kind is not Kind.EFFECT:
        assert not isinstance(error, InDoubt)


C1_TEXT = "C1-003: Something about Miller"
NOT_DISPENSED = phrased("Device is not dispensed to the subject")
NO_SETTINGS = phrased("mHealth settings are not found")
ASLEEP = {"retry-after": "40"}
TOLD: dict[str, tuple[str, Kind, Answer, tuple[type[AnswerError], str, str | None, float | None]]] = {
    "throttled, in the vendor's form": (
        CLINICAL_ONE,
        Kind.EFFECT,
        answer(429, CLINICAL_ONE_SHAPE, headers=ASLEEP),
        (Unavailable, "THROTTLED", C1_TEXT, 40),
    ),
    "throttled, in no form": (CLINICAL_ONE, Kind.READ, answer(429, {}), (Unavailable, "THROTTLED", None, None)),
    "throttled, with the wait in the body": (
        OPENSPECIMEN,
        Kind.LOGIN,
        answer(429, {"retryAfter": 7}),
        (Unavailable, "THROTTLED", None, 7),
    ),
    "not authorised, in the vendor's form": (
        CLINICAL_ONE,
        Kind.EFFECT,
        answer(401, CLINICAL_ONE_SHAPE, headers=ASLEEP),
        (Refused, "C1-003", C1_TEXT, None),
    ),
    "not authorised, in no form": (OPENSPECIMEN, Kind.EFFECT, answer(401), (Refused, "NOT_AUTHORISED", None, None)),
    "not dispensed": (
        CLINICAL_ONE,
        Kind.EFFECT,
        answer(400, NOT_DISPENSED, headers=ASLEEP),
        (NotYet, "DEVICE_NOT_DISPENSED", "C1-003: Device is not dispensed to the subject", None),
    ),
    "not dispensed, whatever the status among the 4xx": (
        CLINICAL_ONE,
        Kind.EFFECT,
        answer(403, NOT_DISPENSED),
        (NotYet, "DEVICE_NOT_DISPENSED", "C1-003: Device is not dispensed to the subject", None),
    ),
    "no rights in Clinical One": (
        CLINICAL_ONE,
        Kind.EFFECT,
        answer(403, CLINICAL_ONE_SHAPE),
        (Refused, "ACCESS_DENIED", C1_TEXT, None),
    ),
    "no rights in OpenSpecimen": (
        OPENSPECIMEN,
        Kind.EFFECT,
        answer(403, [{"code": "RBAC_ACCESS_DENIED", "message": "no"}]),
        (Refused, "RBAC_ACCESS_DENIED", "RBAC_ACCESS_DENIED: no", None),
    ),
    "refused with the last 4xx": (
        CLINICAL_ONE,
        Kind.EFFECT,
        answer(499, CLINICAL_ONE_SHAPE),
        (Refused, "C1-003", C1_TEXT, None),
    ),
    "settings missing": (
        CLINICAL_ONE,
        Kind.EFFECT,
        answer(500, NO_SETTINGS, headers=ASLEEP),
        (Refused, "MHEALTH_SETTINGS_NOT_FOUND", "C1-003: mHealth settings are not found", None),
    ),
    "a failure with the vendor's code": (
        CLINICAL_ONE,
        Kind.EFFECT,
        answer(500, CLINICAL_ONE_SHAPE, headers=ASLEEP),
        (InDoubt, "C1-003", C1_TEXT, None),
    ),
    "a failure of Clinical One without a usable code": (
        CLINICAL_ONE,
        Kind.EFFECT,
        answer(500, phrased("lost", code="a sentence")),
        (InDoubt, "SERVER_ERROR", "a sentence: lost", None),
    ),
    "a failure of OpenSpecimen without a usable code": (
        OPENSPECIMEN,
        Kind.EFFECT,
        answer(500, [{"code": "a sentence", "message": "lost"}]),
        (InDoubt, "SERVER_ERROR", "a sentence: lost", None),
    ),
    "a failed read": (OPENSPECIMEN, Kind.READ, answer(500, b"<html>"), (Unavailable, "SERVER_ERROR", None, None)),
    "unavailable, in the vendor's form": (
        CLINICAL_ONE,
        Kind.EFFECT,
        answer(503, CLINICAL_ONE_SHAPE, headers=ASLEEP),
        (Unavailable, "SERVICE_UNAVAILABLE", C1_TEXT, 40),
    ),
    "unavailable, says somebody in between": (
        CLINICAL_ONE,
        Kind.EFFECT,
        answer(503, b"<html>", headers=ASLEEP),
        (InDoubt, "SERVICE_UNAVAILABLE", None, None),
    ),
    "the first redirect": (CLINICAL_ONE, Kind.EFFECT, answer(300), (InDoubt, "REDIRECTED", None, None)),
    "the last redirect": (CLINICAL_ONE, Kind.EFFECT, answer(399), (InDoubt, "REDIRECTED", None, None)),
    "the first 4xx in no form": (CLINICAL_ONE, Kind.EFFECT, answer(400), (InDoubt, "UNEXPECTED_ANSWER", None, None)),
    "the last 4xx in no form": (CLINICAL_ONE, Kind.EFFECT, answer(499), (InDoubt, "UNEXPECTED_ANSWER", None, None)),
    "no final answer": (CLINICAL_ONE, Kind.EFFECT, answer(199), (InDoubt, "UNEXPECTED_ANSWER", None, None)),
    "a failure that broke off": (
        CLINICAL_ONE,
        Kind.EFFECT,
        Answer(500, flaw="truncated"),
        (InDoubt, "TRUNCATED", None, None),
    ),
    "a refusal that broke off": (
        CLINICAL_ONE,
        Kind.READ,
        Answer(400, flaw="oversized"),
        (Unavailable, "OVERSIZED", None, None),
    ),
    "a success that broke off": (
        OPENSPECIMEN,
        Kind.EFFECT,
        Answer(200, flaw="truncated"),
        (InDoubt, "TRUNCATED", None, None),
    ),
    "a success that is no JSON": (
        OPENSPECIMEN,
        Kind.READ,
        answer(200, b"<html>", headers=ASLEEP),
        (Unavailable, "UNREADABLE_ANSWER", None, None),
    ),
}


@pytest.mark.parametrize("name", TOLD)
def test_an_error_tells_its_class_code_status_words_and_wait(name: str) -> None:
    system, kind, got, (kind_of_error, code, text, wait_s) = TOLD[name]
    error = classify(system, kind, got)
    assert error is not None
    assert (type(error), error.system, error.code, error.http_status) == (kind_of_error, system, code, got.status)
    assert (error.vendor_text, error.retry_after_s, error.what) == (text, wait_s, explain(code))


@pytest.mark.parametrize("system", SYSTEMS)
def test_without_an_answer_the_reason_and_its_detail_are_told(system: str) -> None:
    bare = classify(system, Kind.EFFECT, NoAnswer(may_have_left=True, reason_code="cut"))
    assert bare is not None
    assert (bare.system, bare.code, bare.what, bare.http_status) == (system, "CUT", explain("CUT"), None)
    detailed = classify(
        system, Kind.READ, NoAnswer(may_have_left=False, reason_code="tls_certificate_refused", detail="expired")
    )
    assert detailed is not None
    code = "TLS_CERTIFICATE_REFUSED"
    assert (detailed.system, detailed.code, detailed.what) == (system, code, f"{explain(code)} (expired)")


@pytest.mark.parametrize("system", SYSTEMS)
def test_what_came_before_an_answer_broke_off_refuses_nothing(system: str) -> None:
    for status in (200, 400, 503):
        broken = Answer(status, body=json.dumps(SHAPES[system]).encode(), flaw="truncated")
        error = classify(system, Kind.EFFECT, broken)
        assert error is not None
        assert (type(error), error.code, error.vendor_text) == (InDoubt, "TRUNCATED", None)


@pytest.mark.parametrize("body", [[{"code": "A"}, 1], [{"code": "A"}, {"code": 1}], [{"code": "A"}, {}], {"code": "A"}])
def test_a_list_in_which_an_entry_has_no_code_is_not_openspecimens_error(body: object) -> None:
    assert vendor_error(OPENSPECIMEN, body) is None


def test_a_message_or_a_code_alone_is_clinical_ones_error() -> None:
    message = vendor_error(CLINICAL_ONE, {"errorData": {"errorMessage": "Kit is asleep"}})
    assert message is not None
    assert (message.code, message.text) == ("CLINICAL_ONE_ERROR", "Kit is asleep")
    code = vendor_error(CLINICAL_ONE, {"errorData": {"errorCode": "C1-9", "details": ["é"]}})
    assert code is not None
    assert (code.code, code.text) == ("C1-9", 'C1-9: ["é"]')


def test_only_a_word_counts_as_a_code() -> None:
    for code in ("C1-003", "a.b_c", "A" * 64):
        error = vendor_error(OPENSPECIMEN, [{"code": code}])
        assert error is not None
        assert error.code == code
    for code in ("", "1A", "A B", "A" * 65, "A\n"):
        error = vendor_error(OPENSPECIMEN, [{"code": code}])
        assert error is not None
        assert error.code == "OPENSPECIMEN_ERROR"


@pytest.mark.parametrize(
    ("system", "body"), [(OPENSPECIMEN, [{"code": "A", "message": "x" * 5000}]), (CLINICAL_ONE, phrased("x" * 5000))]
)
def test_of_the_vendors_words_the_first_4000_characters_are_kept(system: str, body: object) -> None:
    error = vendor_error(system, body)
    assert error is not None
    assert len(error.text) == 4000


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["errorData", "errorCode", "errorMessage", "details", "code", "message", "result"]), inner
        )
    ),
    max_leaves=12,
)


@given(st.sampled_from(SYSTEMS), st.sampled_from([200, 400, 401, 429, 500, 503]), JSON)
def test_any_json_is_classified(system: str, status: int, body: object) -> None:
    error = classify(system, Kind.EFFECT, answer(status, body))
    assert error is None or error.code


def test_what_is_no_json_is_not_repeated() -> None:
    for body in (b"Miller", b'{"Miller": NaN}'):
        with pytest.raises(Unreadable, match=r"^the body is not JSON$") as caught:
            _ = Answer(200, body=body).content
        assert caught.value.__suppress_context__


@given(st.binary(max_size=100))
def test_any_bytes_are_json_or_unreadable(body: bytes) -> None:
    with contextlib.suppress(Unreadable):
        _ = Answer(200, body=body).content


def test_a_body_is_read_once() -> None:
    found = answer(200, {"id": 1})
    assert classify(SYSTEMS[0], Kind.READ, found) is None
    assert found.content is found.content == {"id": 1}
