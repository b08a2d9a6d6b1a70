"""What an answer says about the effect. Pure functions: no I/O, no clock of their own.

The classes are those of the effect protocol: a refusal counts only in the vendor's own error shape, a throttled request
was not applied, and whatever may have been applied is in doubt. Reads and log-ins change nothing, so never are.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Final

from onboarding.clocks import utc_now
from onboarding.errors import CLINICAL_ONE, OPENSPECIMEN, AnswerError, InDoubt, NotYet, Refused, Unavailable
from onboarding.explanations import explain
from onboarding.vendors import phrases
from onboarding.vendors.retry_after import DEFAULT_CEILING_S, retry_after
from onboarding.vendors.wire import Answer, NoAnswer, Unreadable

_CODE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_TEXT_LIMIT: Final = 4000
_APPLIED: Final = frozenset({200, 201, 204})
_ENVELOPE: Final = frozenset({"status", "version", "result", "errorData"})


class Kind(Enum):
    """What a request is for; only an effect can be in doubt."""

    READ = "read"
    EFFECT = "effect"
    LOGIN = "login"


@dataclass(frozen=True, slots=True)
class VendorError:
    """An error in the vendor's own shape: a stable code, and the vendor's words, which may hold personal data."""

    code: str
    text: str


def unwrapped(value: object) -> object:
    """The content of a Clinical One success: bare, or under ``result`` of the envelope that its siblings use."""
    if isinstance(value, Mapping) and "result" in value and set(value) <= _ENVELOPE:
        return value["result"]
    return value


def vendor_error(system: str, body: object) -> VendorError | None:
    """The error that a JSON body states in the vendor's own shape, or None if it has another shape."""
    return _openspecimen_error(body) if system == OPENSPECIMEN else _clinical_one_error(body)


def _openspecimen_error(body: object) -> VendorError | None:
    """``[{"code": ..., "message": ...}, ...]``; the first code counts, since messages are localised."""
    if not isinstance(body, list) or not body:
        return None
    if not all(isinstance(entry, Mapping) and isinstance(entry.get("code"), str) for entry in body):
        return None
    text = "; ".join(f"{entry['code']}: {entry.get('message') or ''}" for entry in body)
    return VendorError(_safe_code(body[0]["code"]) or "OPENSPECIMEN_ERROR", text[:_TEXT_LIMIT])


def _clinical_one_error(body: object) -> VendorError | None:
    """``{"errorData": {"errorCode", "errorMessage", "details": text or object}, ...}``."""
    data = body.get("errorData") if isinstance(body, Mapping) else None
    if not isinstance(data, Mapping):
        return None
    code, message, details = data.get("errorCode"), data.get("errorMessage"), data.get("details")
    if not any(isinstance(part, str) and part.strip() for part in (code, message)):
        return None
    words = [part for part in (message, details) if isinstance(part, str) and part]
    phrase = next((found for text in words if (found := phrases.phrase_code(text)) is not None), None)
    if isinstance(details, Mapping | list) and details:
        words.append(json.dumps(details, ensure_ascii=False))
    text = ": ".join([code, *words] if isinstance(code, str) else words)
    return VendorError(phrase or _safe_code(code) or "CLINICAL_ONE_ERROR", text[:_TEXT_LIMIT])


def _safe_code(code: object) -> str | None:
    """A vendor's code if it looks like one; anything else could be a sentence with somebody's name in it."""
    return code if isinstance(code, str) and _CODE.fullmatch(code) else None


def classify(
    system: str,
    kind: Kind,
    outcome: Answer | NoAnswer,
    *,
    now: datetime | None = None,
    ceiling_s: float = DEFAULT_CEILING_S,
) -> AnswerError | None:
    """What an answer, or the lack of one, says about the effect; None for a success that can be read as JSON.

    Whether a success has the shape of its call is for the caller to see (``unreadable``). A 401 is taken for the second
    one in a row: the caller has logged in anew and sent again by then.

    Args:
        system: name of the system.
        kind: what the request was for.
        outcome: the answer, or why there is none.
        now: for a ``Retry-After`` that is a date; the present by default.
        ceiling_s: longest wait that a vendor can ask for.
    """
    if isinstance(outcome, NoAnswer):
        return _without_answer(system, kind, outcome)
    body, error = _parsed(system, outcome)
    status = outcome.status
    if 200 <= status < 300:
        readable = status in _APPLIED and outcome.flaw is None and error is None and not isinstance(body, Unreadable)
        return None if readable else unreadable(system, kind, outcome)
    wait_s = retry_after(outcome.headers, body, now=now or utc_now(), ceiling_s=ceiling_s)
    text = error.text if error else None
    if status == 429:
        return _error(Unavailable, system, "THROTTLED", status, text=text, wait_s=wait_s)
    if status == 401:
        return _error(Refused, system, error.code if error else "NOT_AUTHORISED", status, text=text)
    if error is not None and 400 <= status < 500:
        return _refusal(system, status, error)
    if status == 500 and kind is Kind.EFFECT and error and error.code == phrases.MHEALTH_SETTINGS_NOT_FOUND:
        return _error(Refused, system, error.code, status, text=text)
    code = _code_without_refusal(status, error, outcome)
    if kind is not Kind.EFFECT or (status == 503 and error is not None):
        return _error(Unavailable, system, code, status, text=text, wait_s=wait_s)
    return _error(InDoubt, system, code, status, text=text)


def unreadable(system: str, kind: Kind, answer: Answer) -> AnswerError:
    """The error for a success that cannot be understood: an effect is in doubt then, a read has failed."""
    code = answer.flaw.upper() if answer.flaw else "UNREADABLE_ANSWER"
    return _error(InDoubt if kind is Kind.EFFECT else Unavailable, system, code, answer.status)


def _without_answer(system: str, kind: Kind, silence: NoAnswer) -> AnswerError:
    code = silence.reason_code.upper()
    what = f"{explain(code)} ({silence.detail})" if silence.detail else explain(code)
    return (InDoubt if silence.may_have_left and kind is Kind.EFFECT else Unavailable)(system, code, what)


def _parsed(system: str, answer: Answer) -> tuple[object, VendorError | None]:
    try:
        body = None if answer.flaw else answer.content
    except Unreadable as problem:
        return problem, None
    return body, vendor_error(system, body)


def _refusal(system: str, status: int, error: VendorError) -> AnswerError:
    if system == CLINICAL_ONE:
        if error.code == phrases.DEVICE_NOT_DISPENSED:
            return _error(NotYet, system, error.code, status, text=error.text)
        if status == 403:
            return _error(Refused, system, "ACCESS_DENIED", status, text=error.text)
    return _error(Refused, system, error.code, status, text=error.text)


def _code_without_refusal(status: int, error: VendorError | None, answer: Answer) -> str:
    if answer.flaw:
        return answer.flaw.upper()
    if 300 <= status < 400:
        return "REDIRECTED"
    if status == 503:
        return "SERVICE_UNAVAILABLE"
    if status >= 500:
        return (
            error.code if error and error.code not in ("CLINICAL_ONE_ERROR", "OPENSPECIMEN_ERROR") else "SERVER_ERROR"
        )
    return "UNEXPECTED_ANSWER"


def _error(
    kind: type[AnswerError],
    system: str,
    code: str,
    status: int,
    *,
    text: str | None = None,
    wait_s: float | None = None,
) -> AnswerError:
    return kind(system, code, explain(code), http_status=status, vendor_text=text, retry_after_s=wait_s)
