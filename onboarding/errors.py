"""Errors, named by what is known about the effect on the other system rather than by HTTP status.

Every message is safe to log and to show: it never holds a secret, a person's details or a body. What the vendor wrote
travels beside it, in ``vendor_text``, which only the ledger stores, encrypted.
"""

from typing import ClassVar, Final

OPENSPECIMEN: Final = "OpenSpecimen"
CLINICAL_ONE: Final = "Clinical One"


class OnboardingError(Exception):
    """Base of every error a user can cause or meet; its text says what happened and what to do next."""


class BadInput(OnboardingError):
    """The input cannot be used; nothing was sent and nothing was stored. One line per problem."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


class BadSettings(BadInput):
    """A setting is missing or wrong; each line names the setting, what is wrong and what is allowed."""


class AnswerError(OnboardingError):
    """What one call to a vendor came to, other than success.

    Attributes:
        system: the system that was called, ``OpenSpecimen`` or ``Clinical One``.
        code: stable machine word: the vendor's own code, or ours for a phrase or a transport fault.
        what: one plain sentence of what happened, without personal data.
        http_status: status of the answer, or None when there was none.
        vendor_text: the vendor's own words; may hold personal data, so it is never part of ``str()``.
        retry_after_s: seconds the vendor asked us to wait, already bounded by the ceiling, or None.
    """

    known: ClassVar[str] = ""

    def __init__(
        self,
        system: str,
        code: str,
        what: str,
        *,
        http_status: int | None = None,
        vendor_text: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        self.system = system
        self.code = code
        self.what = what
        self.http_status = http_status
        self.vendor_text = vendor_text
        self.retry_after_s = retry_after_s
        status = f" (HTTP {http_status})" if http_status is not None else ""
        super().__init__(f"{system}: {code}{status}: {what} {self.known}".strip())


class Refused(AnswerError):
    """Not applied, and will not be: the vendor's own error says so (data, rights, set-up)."""

    known = "Nothing was applied."


class LoginRefused(Refused):
    """The log-in was refused, so nothing was sent; nobody tries again until address, name or secret change."""

    known = "Nothing was sent; no further log-in is tried until the connection's settings change."


class Unavailable(AnswerError):
    """Not applied, but it may work later."""

    known = "Nothing was applied; it is tried again later."


class InDoubt(AnswerError):
    """It may or may not have been applied; only a conclusive probe or a person ends the doubt."""

    known = "Whether it was applied is not known yet."


class NotYet(AnswerError):
    """The device is not dispensed to the subject (yet, or any more)."""

    known = "The case waits until the device is dispensed."


class LeaseLost(OnboardingError):
    """Another runner has taken the case over; this one sends nothing more and stops."""


class LedgerError(OnboardingError):
    """The ledger cannot be used as it is (key, schema, durability, place); says which and what to do."""


class RequestConflict(OnboardingError):
    """A changed request meets a case whose changed sections were already sent; names the case."""

    def __init__(self, case_id: str, sections: list[str], why: str) -> None:
        self.case_id = case_id
        self.sections = sections
        super().__init__(
            f"case {case_id} exists for this study, mode, subject and device, and {', '.join(sections)} cannot be "
            f"replaced: {why}. Look at it with 'onboard show {case_id}'."
        )


class OnboardedElsewhere(RequestConflict):
    """The request's case is done, at other systems than those set now, where nothing would be done for it."""

    def __init__(self, case_id: str) -> None:
        self.case_id = case_id
        self.sections = []
        OnboardingError.__init__(
            self,
            f"case {case_id} onboarded this subject at other systems (addresses) than the ones set now, where nothing was "
            "done. Set those addresses again; or, if these are really other systems, give them a ledger of their own.",
        )


class IdentityConflict(Refused):
    """Another subject holds what this case wants to touch; pairing the wrong person is the worst error here."""

    known = "Nothing was sent."


class CaseContradicted(LeaseLost):
    """An answer that came late says otherwise than the ledger; a person must look before anything else is sent."""
