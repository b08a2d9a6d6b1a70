"""What to do about a code: one sentence for people, for the vendors' codes and for ours alike."""

from collections.abc import Mapping
from typing import Final

from onboarding.errors import CLINICAL_ONE, OPENSPECIMEN
from onboarding.explanations import explain

_OURS: Final[Mapping[str, str]] = {
    "IDENTITY_CONFLICT": "Another subject's case holds this registration or device; find out who is right, correct the "
    "wrong request, then resume this case.",
    "PARTICIPANT_DIFFERS": "The registration belongs to another participant; correct registration.participant.id, or set "
    "registration.allow_merge if the two people are really one.",
    "PROTOCOL_DIFFERS": "The registration belongs to another protocol; correct registration.id or the protocol.",
    "CHANGED_BY_SOMEONE_ELSE": "Our update may or may not have been applied, and the registration was edited meanwhile; "
    "look at it in OpenSpecimen, then decide.",
    "CANNOT_READ_BACK": "Our update may or may not have been applied, and this log-in cannot see the values; look at the "
    "registration in OpenSpecimen, then decide.",
    "MERGE_IN_DOUBT": "An update that merges people may or may not have been applied, and is never sent twice; look at both "
    "participants in OpenSpecimen, then decide.",
    "SENDS_USED_UP": "It was sent as often as allowed and never applied; find out why the vendor drops it, then resume.",
    "PROBES_USED_UP": "Whether it was applied could not be found out; ask the vendor, then decide.",
    "SEEN_TOO_LONG_AGO": "The request waited for its turn for so long that the dispensation is looked at again first.",
    "NOT_DISPENSED": "The device is not dispensed to the subject yet; dispense it in Clinical One, or wait.",
    "WAITED_TOO_LONG": "The device was not dispensed within ONBOARDING_MAX_WAIT_DAYS; dispense it, then resume, or cancel.",
    "VISIT_NOT_STATED": "The dispensation check of this installation names no visit, so the connection type cannot be found; "
    "ask the vendor for the edition that gives visitSrcId.",
    "CONNECTION_TYPE_UNKNOWN": "The device has a connection type that this version does not know; ask for an update.",
    "EXCEPTION_MISSING": "The exception was created but is not listed any more; find out who removed it, then resume.",
    "EXCEPTION_NOT_LISTED": "The vendor said that it created the exception, but it is not listed; look in Clinical One, then "
    "decide.",
    "UNEXPECTED_EXCEPTION": "Creating the exception is in doubt, and another one appeared meanwhile; compare them in Clinical "
    "One, then decide.",
    "EXCEPTION_UNKNOWN_IN_ANOTHER_CASE": "Another case that needs the same exception waits for a decision; decide that one.",
    "EXCEPTION_NOT_LISTED_YET": "The exception was created but is not listed yet; it is looked for again.",
    "APPLIED_WITHOUT_ID": "The exception was created; its id is looked up.",
    "HELD_BY_ANOTHER_CASE": "Another case works on the same thing; this one goes on after it.",
    "IN_DOUBT": "Whether it was applied is not known yet; it is looked at again after the quiet time.",
    "RUNNER_STOPPED": "A runner stopped between committing its intent and recording the answer; the outcome is looked up.",
    "INTERRUPTED": "The run was stopped; the case goes on where it stopped.",
    "NO_PROGRESS": "The case was tried many times without getting on; look at its history, mend the cause, then resume.",
    "REQUEST_UNREADABLE": "The case's request cannot be decrypted, or this version does not take it; restore the ledger and its "
    "key from the same backup, or install the version that took it in, then resume.",
    "SETTINGS_CHANGED": "The case was opened for other systems than the ones set now; set those again, or cancel the case.",
    "LATE_ANSWER_CONTRADICTS": "An answer that came late says otherwise than the ledger; look at the other system, then "
    "decide.",
    "ALREADY_SO": "It was so already; nothing was sent.",
    "UPDATED": "The registration was updated.",
    "DISPENSED": "The device is dispensed to the subject.",
    "REGISTERED": "The device was registered.",
    "CREATED": "The exception was created.",
    "PROBE_FOUND_APPLIED": "An earlier attempt had been applied; nothing was repeated.",
    "SETTLED_ON_THE_CLAIM": "The doubt was settled by another case with the same exception.",
    "PROVEN_NOT_APPLIED": "An earlier attempt was proven not applied; it is sent again.",
}
OUTCOME_WORDS: Final = frozenset({"ALREADY_SO", "UPDATED", "DISPENSED", "REGISTERED", "CREATED", "PROBE_FOUND_APPLIED"})


# The setting behind a system's address. A code is followed by it if the address could be what is wrong.
_ADDRESSES: Final[Mapping[str, str]] = {
    OPENSPECIMEN: "ONBOARDING_OPENSPECIMEN_URL or the block open-specimen/default",
    CLINICAL_ONE: "ONBOARDING_CLINICAL_ONE_URL and _TOKEN_URL or the block clinical-one/default",
}
_MAYBE_THE_ADDRESS: Final = frozenset(
    {
        "ANSWER_NOT_HTTP",
        "BAD_ADDRESS",
        "CONNECT_FAILED",
        "CONNECT_REFUSED",
        "CUT",
        "DEADLINE_PASSED",
        "DNS_FAILED",
        "LOGIN_REFUSED",
        "REDIRECTED",
        "TLS_CERTIFICATE_REFUSED",
        "TLS_FAILED",
        "UNEXPECTED_ANSWER",
        "UNREADABLE_ANSWER",
        "VENDOR_DOWN",
    }
)


def advice(code: str | None, system: str | None = None) -> str:
    """What a code means and what to do about it; an empty text for no code.

    With the ``system`` that was called, an address that could be wrong is named by its setting.
    """
    if code is None:
        return ""
    if system is not None and code in _MAYBE_THE_ADDRESS:
        return f"{system}: {explain(code)} Its address: {_ADDRESSES[system]}."
    if code.startswith("INVENTORY_STATUS_"):
        return (
            f"The device's inventory status is {code.rsplit('_', 1)[1]}, not 4 (Dispensed); find out what became of it, "
            "dispense another one if it is lost or damaged, then resume."
        )
    return _OURS.get(code) or explain(code)
