"""Clinical One's refusals: the stable part is the phrase in `errorMessage`; codes are not published (made up here)."""

from __future__ import annotations

from vendor_sandbox.answers import Answer, ors_error
from vendor_sandbox.switches import Switches

INVALID_SUBJECT = "Invalid subject Id"
NOT_DISPENSED = "Device is not dispensed to the subject"
DIFFERENT_SUBJECT = "Device is dispensed to different subject"
INVALID_DEVICE = "Invalid device Id"
ALREADY_REGISTERED = "Cloud to cloud connection type device is already registered"
NO_CONNECTION_TYPE = "Device does not have a connection type"
VENDOR_CODE_MISSING = "Vendor code is missing for cloud to cloud connection type of devices"
VENDOR_CODE_NOT_ALLOWED = "Vendor code has been specified for device to cloud connection type of devices"
SUBJECT_NUMBER_MISSING = "Subject number is missing for device to cloud connection type of devices"
NO_CONNECTION_DEVICE = "Device is of no-connection connection type"
NOT_REGISTERED = "mHealth device is not registered"
SECOND_DEVICE = "Subject already has a device of device to cloud connection type"
SETTINGS_NOT_FOUND = "mHealth setttings are not found"
STUDY_OR_VERSION = "Invalid study ID or version"
SUBJECT_NOT_FOUND = "Subject not found"
INVALID_PARAMETERS = "Invalid parameters"
DND_NOT_VALID = "Dispensation Logic (Dynamic DND) Request is not valid"
UNAUTHORIZED = "Unauthorized: the token is missing, invalid or expired"
FORBIDDEN = "Unauthorized: User does not have access to the requested resource"
SERVER_ERROR = "Internal server error"
THROTTLED = "Too Many Requests"

# The wording of newer pages, which change only hyphens, articles, case and the spelling of "settings" and "ID".
NEWER = {
    INVALID_SUBJECT: "Invalid subject ID",
    DIFFERENT_SUBJECT: "Device is dispensed to a different subject",
    INVALID_DEVICE: "Invalid device ID",
    ALREADY_REGISTERED: "Cloud-to-cloud connection type device is already registered",
    VENDOR_CODE_MISSING: "Vendor code is missing for cloud-to-cloud connection type of devices",
    VENDOR_CODE_NOT_ALLOWED: "Vendor code has been specified for device-to-cloud connection type of devices",
    SUBJECT_NUMBER_MISSING: "Subject number is missing for device-to-cloud connection type of devices",
    NO_CONNECTION_DEVICE: "Device has a no-connection connection type",
    SETTINGS_NOT_FOUND: "mHealth settings are not found",
    STUDY_OR_VERSION: "For Invalid study ID or version",
}

# Refusals that are not a 400.
STATUS_OF = {STUDY_OR_VERSION: 404, SUBJECT_NOT_FOUND: 404, UNAUTHORIZED: 401, FORBIDDEN: 403, SETTINGS_NOT_FOUND: 500}


class OrsRefusal(Exception):
    """The service refuses with this status and phrase; `detail` names the field or reason, never its value."""

    def __init__(self, status: int, phrase: str, detail: str = "") -> None:
        super().__init__(phrase)
        self.status, self.phrase, self.detail = status, phrase, detail


def ors_refusal(refused: OrsRefusal, switches: Switches, code: str | None = None) -> Answer:
    """The refusal in the service's shape, in the wording and with the `details` type that the switches ask for."""
    phrase = NEWER.get(refused.phrase, refused.phrase) if switches.phrases == "newer" else refused.phrase
    details: object = refused.detail if switches.error_details == "string" else {"reason": refused.detail}
    return ors_error(refused.status, phrase, code or f"C1-ORS-{refused.status}", details)
