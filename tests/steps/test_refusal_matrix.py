"""Every documented refusal of both vendors, at each call that can answer it, in every wording and column."""

from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.steps.faults import AFTER, BEFORE, refusal, switched
from tests.steps.matrix import Cell, Fault, Results, asked_for, check, play_all
from vendor_sandbox import clinical_one_errors as phrases

_LOGIN_REFUSALS: Final = ("AUTH_INVALID_CREDENTIALS", "AUTH_USER_LOCKED", "AUTH_PASSWD_EXPIRED", "AUTH_NA_IP_ADDRESS")
_OAUTH_REFUSALS: Final = (
    "invalid_client",
    "invalid_request",
    "invalid_grant",
    "invalid_scope",
    "unauthorized_client",
    "unsupported_grant_type",
    "access_denied",
)
_UPDATE_REFUSALS: Final = (
    "CPR_DUP_PPID",
    "CPR_INVALID_PPID",
    "CPR_MANUAL_PPID_NOT_ALLOWED",
    "CPR_PPID_REQUIRED",
    "CPR_REG_DATE_REQUIRED",
    "CPR_DUP_BARCODE",
    "CPR_CANNOT_MERGE_PARTICIPANT",
    "ACTIVITY_STATUS_INVALID",
    "SITE_NOT_FOUND",
    "PARTICIPANT_DUP_UID",
    "PARTICIPANT_INVALID_GENDER",
    "PARTICIPANT_INVALID_BIRTH_DATE",
    "PARTICIPANT_MULTI_MATCHES",
    "CP_OP_NOT_ALLOWED_SC",
    "INVALID_REQUEST",
)
_DEVICE_REFUSALS: Final = {
    phrases.INVALID_SUBJECT: "INVALID_SUBJECT_ID",
    phrases.DIFFERENT_SUBJECT: "DEVICE_DISPENSED_TO_DIFFERENT_SUBJECT",
    phrases.INVALID_DEVICE: "INVALID_DEVICE_ID",
    phrases.ALREADY_REGISTERED: "DEVICE_ALREADY_REGISTERED",
    phrases.NO_CONNECTION_TYPE: "DEVICE_WITHOUT_CONNECTION_TYPE",
    phrases.VENDOR_CODE_MISSING: "VENDOR_CODE_MISSING",
    phrases.VENDOR_CODE_NOT_ALLOWED: "VENDOR_CODE_NOT_ALLOWED",
    phrases.SUBJECT_NUMBER_MISSING: "SUBJECT_NUMBER_MISSING",
    phrases.NO_CONNECTION_DEVICE: "NO_CONNECTION_DEVICE",
    phrases.STUDY_OR_VERSION: "INVALID_STUDY_OR_VERSION",
    phrases.SETTINGS_NOT_FOUND: "MHEALTH_SETTINGS_NOT_FOUND",
    phrases.FORBIDDEN: "ACCESS_DENIED",
    phrases.SECOND_DEVICE: "C1-ORS-400",
}
_COMMON: Final = {
    phrases.INVALID_PARAMETERS: "INVALID_PARAMETERS",
    phrases.STUDY_OR_VERSION: "INVALID_STUDY_OR_VERSION",
    phrases.FORBIDDEN: "ACCESS_DENIED",
    "Something that no page documents": "C1-ORS-400",
}
_REFUSALS_BY_CALL: Final = {
    "dispensation": _COMMON,
    "dispensation_history": {**_COMMON, phrases.SUBJECT_NOT_FOUND: "SUBJECT_NOT_FOUND"},
    "register_device": _DEVICE_REFUSALS,
    "list_exceptions": _COMMON,
    "create_exception": {**_COMMON, phrases.DND_NOT_VALID: "DND_REQUEST_NOT_VALID"},
}
_IN_DOUBT: Final = ("register_device", Fault("cut", "cut", None, AFTER))
_LOST: Final = ("register_device", Fault("lost", "cut", None, BEFORE))


def _slug(text: str) -> str:
    return "_".join(text.lower().replace(":", "").replace("(", "").replace(")", "").split())


def openspecimen_cells() -> Iterator[Cell]:
    """Both columns of the documentation; in one of them a missing right is a 401, which costs a log-in and a replay."""
    for code in ("CPR_M_NOT_FOUND", "CPR_NOT_FOUND", "RBAC_ACCESS_DENIED"):
        for call in ("read_registration", "update_registration"):
            for column in ("code", "doc"):
                fault = switched(refusal(code, code, code=code), openspecimen_errors=column)
                yield Cell(call, fault, "refused", sent=2 if (code, column) == ("RBAC_ACCESS_DENIED", "doc") else 1)
    for code in _UPDATE_REFUSALS:
        yield Cell("update_registration", refusal(code, code, code=code), "refused")
    for code in ("COMMON_SERVER_ERROR", "COMMON_SQL_EXCEPTION", "COMMON_DB_CONN_ERROR"):
        yield Cell("update_registration", refusal(code, code, code=code), "in_doubt")
        yield Cell("read_registration", refusal(code, code, code=code), "unavailable")
    for code in _LOGIN_REFUSALS:
        yield Cell("login", refusal(code, code, code=code), "login_refused", final="blocked")
    yield Cell("login", refusal("lockdown", "AUTH_SYSTEM_LOCKDOWN", code="AUTH_SYSTEM_LOCKDOWN"), "unavailable")
    reset = Fault("password_reset", "reset_password", "PASSWORD_RESET_REQUIRED", BEFORE)
    yield Cell("login", reset, "login_refused", final="blocked")
    page = Fault("page_401", "proxy_page", "LOGIN_REFUSED", {"status": 401, **BEFORE})
    yield Cell("login", page, "login_refused", final="blocked")


def clinical_one_cells() -> Iterator[Cell]:
    """Every phrase, in the older and the newer wording, with details as text and as an object."""
    for code in _OAUTH_REFUSALS:
        yield Cell("token", refusal(code, code.upper(), code=code), "login_refused", final="blocked")
    for call, rows in _REFUSALS_BY_CALL.items():
        for phrase, code in rows.items():
            yield Cell(call, refusal(_slug(phrase), code, phrase=phrase), "refused")
            if phrase in phrases.NEWER:
                newer = switched(refusal(_slug(phrase), code, phrase=phrase), phrases="newer", error_details="string")
                yield Cell(call, newer, "refused")
    not_dispensed = refusal("not_dispensed", "DEVICE_NOT_DISPENSED", phrase=phrases.NOT_DISPENSED)
    for call in ("register_device", "dispensation", "dispensation_history"):
        yield Cell(call, not_dispensed, "not_yet")
    for call in ("list_exceptions", "create_exception"):  # never documented there: no device is spoken of
        yield Cell(call, not_dispensed, "refused")
    settings_on_read = refusal("settings", "MHEALTH_SETTINGS_NOT_FOUND", phrase=phrases.SETTINGS_NOT_FOUND)
    yield Cell("dispensation", settings_on_read, "unavailable")


def probe_cells() -> Iterator[Cell]:
    """What ends a doubt about a device, and what does not."""
    for phrase, code in _DEVICE_REFUSALS.items():
        if phrase not in (phrases.ALREADY_REGISTERED, phrases.NOT_DISPENSED):
            fault = refusal(_slug(phrase), code, phrase=phrase)
            yield Cell("access_code", fault, "unknown", final="unknown", lead_in=_IN_DOUBT)
    fault = refusal("not_dispensed", "DEVICE_NOT_DISPENSED", phrase=phrases.NOT_DISPENSED)
    yield Cell("access_code", fault, "not_yet", lead_in=_IN_DOUBT)
    two = Fault("two_expired_tokens", "expire_token", "C1-ORS-401", {"times": 2})
    yield Cell("access_code", two, "unknown", final="unknown", sent=2, lead_in=_IN_DOUBT)
    for phrase, code in _DEVICE_REFUSALS.items():
        if phrase != phrases.ALREADY_REGISTERED:
            again: dict[str, Any] = {"phrase": phrase, "nth": 2, "times": None}
            fault = refusal(f"{_slug(phrase)}_the_second_time", code, **again)
            cell = Cell("register_device", fault, "unknown", "unknown", 2, "cloud_to_cloud", _LOST)
            yield cell


CELLS = [*openspecimen_cells(), *clinical_one_cells(), *probe_cells()]


@pytest.fixture(scope="module")
def played(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The cells that this run asks for, played together."""
    return play_all(asked_for(request, CELLS), tmp_path_factory.mktemp("refusals"))


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_a_refusal_leads_to_its_class_and_the_case_goes_on(cell: Cell, played: Results) -> None:
    check(cell, played[str(cell)])
