"""Clinical One's error phrases as codes of ours: its own codes are not published, and its wording varies by edition.

Source: vendor documentation, the answers listed for register-device, dispensation, dispensation-history, access-code,
device removal and DND exception. Editions differ in case, hyphens, articles and the spelling of "settings".
"""

import re
from typing import Final

INVALID_SUBJECT_ID: Final = "INVALID_SUBJECT_ID"
DEVICE_NOT_DISPENSED: Final = "DEVICE_NOT_DISPENSED"
DEVICE_DISPENSED_TO_DIFFERENT_SUBJECT: Final = "DEVICE_DISPENSED_TO_DIFFERENT_SUBJECT"
INVALID_DEVICE_ID: Final = "INVALID_DEVICE_ID"
DEVICE_ALREADY_REGISTERED: Final = "DEVICE_ALREADY_REGISTERED"
DEVICE_WITHOUT_CONNECTION_TYPE: Final = "DEVICE_WITHOUT_CONNECTION_TYPE"
VENDOR_CODE_MISSING: Final = "VENDOR_CODE_MISSING"
VENDOR_CODE_NOT_ALLOWED: Final = "VENDOR_CODE_NOT_ALLOWED"
SUBJECT_NUMBER_MISSING: Final = "SUBJECT_NUMBER_MISSING"
NO_CONNECTION_DEVICE: Final = "NO_CONNECTION_DEVICE"
DEVICE_NOT_REGISTERED: Final = "DEVICE_NOT_REGISTERED"
INVALID_STUDY_OR_VERSION: Final = "INVALID_STUDY_OR_VERSION"
SUBJECT_NOT_FOUND: Final = "SUBJECT_NOT_FOUND"
INVALID_PARAMETERS: Final = "INVALID_PARAMETERS"
DND_REQUEST_NOT_VALID: Final = "DND_REQUEST_NOT_VALID"
MHEALTH_SETTINGS_NOT_FOUND: Final = "MHEALTH_SETTINGS_NOT_FOUND"

_CODES: Final[tuple[tuple[str, str], ...]] = (
    ("invalid subject id", INVALID_SUBJECT_ID),
    ("device is not dispensed to subject", DEVICE_NOT_DISPENSED),
    ("device is dispensed to different subject", DEVICE_DISPENSED_TO_DIFFERENT_SUBJECT),
    ("invalid device id", INVALID_DEVICE_ID),
    ("device is already registered", DEVICE_ALREADY_REGISTERED),
    ("device does not have connection type", DEVICE_WITHOUT_CONNECTION_TYPE),
    ("vendor code is missing", VENDOR_CODE_MISSING),
    ("vendor code has been specified", VENDOR_CODE_NOT_ALLOWED),
    ("subject number is missing", SUBJECT_NUMBER_MISSING),
    ("no connection connection type", NO_CONNECTION_DEVICE),
    ("device is not registered", DEVICE_NOT_REGISTERED),
    ("invalid study id or version", INVALID_STUDY_OR_VERSION),
    ("subject not found", SUBJECT_NOT_FOUND),
    ("invalid parameters", INVALID_PARAMETERS),
    ("dnd request is not valid", DND_REQUEST_NOT_VALID),
    ("mhealth settings are not found", MHEALTH_SETTINGS_NOT_FOUND),
)
_ARTICLES: Final = frozenset({"a", "an", "the"})
_SETTINGS: Final = re.compile(r"set{2,}ings")  # "setttings" in some editions


def phrase_code(text: str) -> str | None:
    """The code of the one documented phrase that the text holds.

    None if it holds none, and also if it holds several: such a text does not say which of them happened.
    """
    words = [word for word in re.findall(r"[a-z0-9]+", text.lower()) if word not in _ARTICLES]
    plain = f" {_SETTINGS.sub('settings', ' '.join(words))} "
    found = {code for phrase, code in _CODES if f" {phrase} " in plain}
    return found.pop() if len(found) == 1 else None
