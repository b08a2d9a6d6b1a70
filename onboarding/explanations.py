"""One plain sentence for each code, saying what happened and what to do about it; shown to people as it is.

Sources: vendor documentation and server behaviour of OpenSpecimen, vendor documentation of Clinical One.
"""

from collections.abc import Mapping
from typing import Final

_RIGHTS = "Ask for the right, in the mode of this study."

_SENTENCES: Final[Mapping[str, str]] = {
    # OpenSpecimen, update and read of a registration
    "CPR_M_NOT_FOUND": "There is no such registration; correct registration.id.",
    "CPR_NOT_FOUND": "There is no such registration; correct registration.id.",
    "CPR_DUP_PPID": "Another registration of the protocol has this PPID already; correct registration.ppid.",
    "CPR_INVALID_PPID": "The PPID does not have the protocol's format; correct registration.ppid.",
    "CPR_MANUAL_PPID_NOT_ALLOWED": "The protocol makes its PPIDs itself; leave registration.ppid out.",
    "CPR_PPID_REQUIRED": "The protocol needs a PPID; give registration.ppid.",
    "CPR_REG_DATE_REQUIRED": "A registration needs its date; give registration.registration_date.",
    "CPR_DUP_BARCODE": "Another registration of the protocol has this barcode already; correct registration.barcode.",
    "CPR_CANNOT_MERGE_PARTICIPANT": "The log-in may not merge these two people; ask for the right on both protocols.",
    "ACTIVITY_STATUS_INVALID": "The activity status is unknown there; use Active or leave it out.",
    "SITE_NOT_FOUND": "There is no such site; correct registration.site.",
    "CP_OP_NOT_ALLOWED_SC": "The protocol is specimen-centric, so it has nothing to update; check registration.id.",
    "RBAC_ACCESS_DENIED": "The log-in has no right to this registration's protocol; ask for it in OpenSpecimen.",
    "RBAC_ADMIN_RIGHTS_REQUIRED": "The log-in needs administrator rights for this; ask for them in OpenSpecimen.",
    "PARTICIPANT_MULTI_MATCHES": "The identifiers match several people; find out who is meant, then correct them.",
    "PARTICIPANT_NOT_FOUND": "There is no such participant; correct registration.participant.id.",
    "INVALID_REQUEST": "OpenSpecimen could not read the request, a date for example; check the registration's values.",
    "COMMON_SQL_EXCEPTION": "The database refused the change; maybe the external subject id exists already.",
    "COMMON_DB_CONN_ERROR": "OpenSpecimen has no connection to its database.",
    "COMMON_SERVER_ERROR": "OpenSpecimen failed on the request; its log says why.",
    # OpenSpecimen, log-in
    "AUTH_INVALID_CREDENTIALS": "The user name or the password is wrong; correct ONBOARDING_OPENSPECIMEN_USERNAME or "
    "_PASSWORD. Five failed log-ins lock the account.",
    "AUTH_USER_LOCKED": "The account is locked after failed log-ins; have it unlocked and change its password.",
    "AUTH_PASSWD_EXPIRED": "The password has expired; set a new one and put it in ONBOARDING_OPENSPECIMEN_PASSWORD.",
    "AUTH_NA_IP_ADDRESS": "The account may not log in from this machine's address; have the address allowed.",
    "AUTH_SYSTEM_LOCKDOWN": "OpenSpecimen is locked for maintenance.",
    "PASSWORD_RESET_REQUIRED": "The account must set a new password first; log in once in the browser, then put the "
    "new password in ONBOARDING_OPENSPECIMEN_PASSWORD.",
    # Clinical One, token service (OAuth 2.0, RFC 6749 section 5.2)
    "INVALID_CLIENT": "The client id or secret is wrong; correct ONBOARDING_CLINICAL_ONE_CLIENT_ID or _CLIENT_SECRET.",
    "UNAUTHORIZED_CLIENT": "The client may not use this kind of log-in; have client credentials allowed for it.",
    "INVALID_SCOPE": "The scope is unknown or not allowed; correct ONBOARDING_CLINICAL_ONE_SCOPE.",
    "INVALID_GRANT": "The token service does not accept this kind of log-in; have client credentials allowed.",
    "UNSUPPORTED_GRANT_TYPE": "The token service knows no client credentials; check ONBOARDING_CLINICAL_ONE_TOKEN_URL.",
    "LOGIN_REFUSED": "The log-in was refused; check the connection's address, name and secret.",
    # Clinical One, phrases
    "INVALID_SUBJECT_ID": "The subject's id is unknown in this study and mode; correct subject.subject_id.",
    "DEVICE_NOT_DISPENSED": "The device is not dispensed to the subject.",
    "DEVICE_DISPENSED_TO_DIFFERENT_SUBJECT": "The device is dispensed to a different subject; find out which of device "
    "and subject is right before anything else.",
    "INVALID_DEVICE_ID": "The device's id is unknown in this study and mode; correct device.inventory_id.",
    "DEVICE_ALREADY_REGISTERED": "The device is registered already, and not by this case as far as is known; find out "
    "by whom.",
    "DEVICE_WITHOUT_CONNECTION_TYPE": "The device has no connection type; have the study's kit set-up corrected.",
    "VENDOR_CODE_MISSING": "The device is cloud-to-cloud; give device.vendor_code instead of device.subject_number.",
    "VENDOR_CODE_NOT_ALLOWED": "The device is device-to-cloud; give device.subject_number, not device.vendor_code.",
    "SUBJECT_NUMBER_MISSING": "The device is device-to-cloud; give device.subject_number.",
    "NO_CONNECTION_DEVICE": "The device has no connection, so there is nothing to register; leave device out.",
    "DEVICE_NOT_REGISTERED": "The device is not registered for this subject.",
    "INVALID_STUDY_OR_VERSION": "The study's id is unknown in this mode; correct subject.study_id or subject.mode.",
    "SUBJECT_NOT_FOUND": "The subject is unknown in this study and mode; correct subject.subject_id.",
    "INVALID_PARAMETERS": "Clinical One did not accept the ids of the call; check the ids of the request.",
    "DND_REQUEST_NOT_VALID": "Clinical One did not accept the exception; check kit types, visits, places and days.",
    "MHEALTH_SETTINGS_NOT_FOUND": "The study has no mHealth settings in this mode; have its device service set up, "
    "then try again.",
    "SUBJECT_NOT_STATED": "The dispensation check of this installation names no subject, so nothing proves the "
    "pairing; ask the vendor for the edition that gives subjectSrcId.",
    "ACCESS_DENIED": f"The client has no right to this call. {_RIGHTS}",
    "NOT_AUTHORISED": f"A fresh log-in was not accepted for this call. {_RIGHTS}",
    "CLINICAL_ONE_ERROR": "Clinical One refused the call in words that are not documented; read them in the case.",
    "OPENSPECIMEN_ERROR": "OpenSpecimen refused the call without a code that can be shown; read its words in the case.",
    # What happened on the way
    "THROTTLED": "Too many requests; the vendor asked to wait.",
    "VENDOR_DOWN": "The system failed many times in a row, so it is left alone but for one call at a time that looks "
    "whether it is back; the case goes on by itself then.",
    "SERVICE_UNAVAILABLE": "The service is not available at present.",
    "SERVER_ERROR": "The server failed on the request.",
    "UNREADABLE_ANSWER": "The answer is not what the vendor documents; check the address, and for a proxy in between.",
    "UNEXPECTED_ANSWER": "The answer is an error, but not in the vendor's form; check the address, and for a proxy in "
    "between.",
    "REDIRECTED": "The answer points to another address, and redirects are not followed; check the address.",
    "DEADLINE_PASSED": "The time for the request ran out.",
    "CUT": "The connection broke before an answer came.",
    "SECOND_SEND_STOPPED": "The HTTP library was about to send the request again, and was stopped; report this.",
    "ANSWER_NOT_HTTP": "What came back is no HTTP; check the address.",
    "TRUNCATED": "The answer broke off.",
    "OVERSIZED": "The answer is larger than allowed.",
    "COMPRESSED": "The answer is compressed although that was not asked for; check for a proxy in between.",
    "CONNECT_REFUSED": "Nothing listens at the address; check that the system is up and the address is right.",
    "CONNECT_FAILED": "No connection could be made; check the network and the address.",
    "DNS_FAILED": "The host name could not be resolved; check the address.",
    "TLS_FAILED": "No secure connection could be made; check that the address speaks https.",
    "TLS_CERTIFICATE_REFUSED": "The server's certificate is not trusted; check the address, or name the authority in "
    "ONBOARDING_CA_FILE.",
    "BAD_ADDRESS": "The address cannot be used; check the connection's settings.",
    "CLIENT_CLOSED": "The connection was closed on this side.",
}


def explain(code: str) -> str:
    """The sentence for a code; one that points to the vendor's own words for a code that is not known here."""
    return _SENTENCES.get(code, "Look the vendor's code up; its own words are kept with the case.")
