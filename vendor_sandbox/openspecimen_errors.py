"""OpenSpecimen's error codes, their messages, and the status of each in both columns of the documentation."""

from __future__ import annotations

from vendor_sandbox.answers import Answer, openspecimen_errors

MESSAGES: dict[str, str] = {
    "CPR_M_NOT_FOUND": "Participant {} does not exist.",
    "CPR_NOT_FOUND": "Participant does not exist.",
    "CPR_DUP_PPID": "A participant with same PPID {} already exists in this protocol.",
    "CPR_INVALID_PPID": "PPID {} format is invalid.",
    "CPR_MANUAL_PPID_NOT_ALLOWED": "Since PPID is auto generated, manual input is not allowed.",
    "CPR_PPID_REQUIRED": "PPID is required.",
    "CPR_REG_DATE_REQUIRED": "Registration date is required to register participant.",
    "CPR_DUP_BARCODE": "A participant with same barcode already exists in this protocol.",
    "CPR_CANNOT_MERGE_PARTICIPANT": (
        "User does not have participant update permission on collection protocol {} to perform merge"
    ),
    "CPR_PARTICIPANT_DETAIL_REQUIRED": "Participant details are required.",
    "SITE_NOT_FOUND": "Site specified does not exist.",
    "ACTIVITY_STATUS_INVALID": "Invalid activity status.",
    "PARTICIPANT_NOT_FOUND": "Participant specified in request does not exist.",
    "PARTICIPANT_DUP_UID": "A participant with same UID already exists.",
    "PARTICIPANT_DUP_EMPI": "A participant with same eMPI already exists.",
    "PARTICIPANT_DUP_MRN": "A participant with same MRN already exists.",
    "PARTICIPANT_DUP_MRN_SITE": "More than one MRN is specified for one site.",
    "PARTICIPANT_MULTI_MATCHES": "The identifiers match more than one participant.",
    "PARTICIPANT_INVALID_GENDER": "Invalid gender.",
    "PARTICIPANT_INVALID_VITAL_STATUS": "Invalid vital status.",
    "PARTICIPANT_INVALID_RACE": "Invalid race.",
    "PARTICIPANT_INVALID_ETHNICITY": "Invalid ethnicity.",
    "PARTICIPANT_INVALID_EMAIL_ID": "Invalid email address.",
    "PARTICIPANT_INVALID_BIRTH_DATE": "Invalid birth date.",
    "PARTICIPANT_INVALID_DEATH_DATE": "Invalid death date.",
    "PARTICIPANT_REF_ENTITY_FOUND": "Participant can not be deleted, since there are dependent entities.",
    "CP_OP_NOT_ALLOWED_SC": "Requested operation is not allowed on specimen centric CP: {}.",
    "RBAC_ACCESS_DENIED": "User does not have sufficient rights.",
    "RBAC_ADMIN_RIGHTS_REQUIRED": "Administrator rights are required.",
    "AUTH_INVALID_CREDENTIALS": "Username or password is incorrect.",
    "AUTH_USER_LOCKED": "User account is locked.",
    "AUTH_PASSWD_EXPIRED": "Password has expired.",
    "AUTH_SYSTEM_LOCKDOWN": "The system is locked down for maintenance.",
    "AUTH_NA_IP_ADDRESS": "Access from this IP address is not allowed.",
    "INVALID_REQUEST": "Invalid request.",
    "COMMON_SERVER_ERROR": "Internal server error. Exception ID: {}",
    "COMMON_SQL_EXCEPTION": "SQL error: could not execute statement",
    "COMMON_DB_CONN_ERROR": "Could not connect to the database.",
}

_DOCUMENTED_STATUS = {"CPR_M_NOT_FOUND": 404, "CPR_NOT_FOUND": 404, "RBAC_ACCESS_DENIED": 401}


class OpenSpecimenRefusal(Exception):
    """The server refuses with these codes, each with the value its message names (or none)."""

    def __init__(self, *errors: tuple[str, object]) -> None:
        super().__init__([code for code, _ in errors])
        self.errors = errors


def status_of(code: str, column: str) -> int:
    """HTTP status of a code: in the `code` column user errors are 400, whatever they are; system errors are 500."""
    if code.startswith("COMMON_") or code == "internal_error":
        return 500
    return _DOCUMENTED_STATUS.get(code, 400) if column == "doc" else 400


def refusal(errors: tuple[tuple[str, object], ...], column: str, status: int | None = None) -> Answer:
    """The answer for some error codes."""
    worded = [(code, MESSAGES.get(code, "{}").format(value or code)) for code, value in errors]
    return openspecimen_errors(status or status_of(errors[0][0], column), worded)
