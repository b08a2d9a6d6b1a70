"""The kinds of fault that put another answer in place of the right one.

Each class is a kind, its fields are the parameters of a rule. `when` is `before` (the request is not applied) or
`after` (it is applied and logged as an effect, then its answer is lost).
"""
# ruff: noqa: ARG002 - all kinds share one signature, and few need all of it

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate
from typing import TYPE_CHECKING, ClassVar

from vendor_sandbox import clinical_one_errors as phrases
from vendor_sandbox.answers import (
    HTML,
    Answer,
    Cut,
    Oversized,
    Truncated,
    html_answer,
    json_answer,
    oauth_error,
)
from vendor_sandbox.clinical_one_errors import OrsRefusal, ors_refusal
from vendor_sandbox.fault_kinds import AFTER, BEFORE, Fault
from vendor_sandbox.openspecimen_errors import refusal, status_of

if TYPE_CHECKING:
    from vendor_sandbox.sandbox import Exchange

SHAPES = ("vendor", "html", "json", "empty")
ELSEWHERE = "http://127.0.0.1:9/elsewhere"


def _vendor_error(exchange: Exchange, status: int, code: str | None, phrase: str) -> Answer:
    """An error in the shape of the system that was asked."""
    switches = exchange.sandbox.switches
    system = exchange.request.system
    if system == "openspecimen":
        known = code or "COMMON_SERVER_ERROR"
        column = switches.openspecimen_errors
        return refusal(((known, phrase),), column, status)
    if system == "token":
        return oauth_error(status, code or "invalid_request", phrase)
    return ors_refusal(OrsRefusal(status, phrase), switches, code)


@dataclass(kw_only=True, slots=True)
class Replacing(Fault):
    """A fault that puts another answer in place of the right one, before or after the request is applied."""

    when: str = BEFORE

    async def before(self, exchange: Exchange) -> Answer | None:
        """Answer in place of applying."""
        return self.answer(exchange, None) if self.when == BEFORE else None

    async def after(self, exchange: Exchange, answer: Answer) -> Answer:
        """Replace the answer of an applied request."""
        return self.answer(exchange, answer) if self.when == AFTER else answer

    def answer(self, exchange: Exchange, right: Answer | None) -> Answer:
        """The answer to send; `right` is what the vendor would have sent (None: it was not asked)."""
        raise AssertionError("every kind has its own")


@dataclass(kw_only=True, slots=True)
class Refuse(Replacing):
    """A refusal in the vendor's shape: `code` for OpenSpecimen and OAuth, `phrase` for Clinical One."""

    status: int | None = None
    code: str | None = None
    phrase: str = ""

    def answer(self, exchange: Exchange, right: Answer | None) -> Answer:
        """The refusal."""
        status = self.status or self._documented_status(exchange)
        return _vendor_error(exchange, status, self.code, self.phrase)

    def _documented_status(self, exchange: Exchange) -> int:
        system = exchange.request.system
        if system == "openspecimen":
            return status_of(self.code or "", exchange.sandbox.switches.openspecimen_errors)
        if system == "token":
            return 401 if self.code == "invalid_client" else 400
        return phrases.STATUS_OF.get(self.phrase, 400)

    def problem(self) -> str | None:
        """It needs one of the two."""
        return Fault.problem(self) if self.code or self.phrase else "code or phrase is needed"


@dataclass(kw_only=True, slots=True)
class Throttle(Replacing):
    """429. `hint` says where the waiting time is: `seconds` or `date` (header), `body`, or `none`."""

    retry_after: float = 1
    hint: str = "seconds"
    shape: str = "vendor"

    def answer(self, exchange: Exchange, right: Answer | None) -> Answer:
        """The 429."""
        if self.shape == "vendor":
            text = f"Retry after {self.retry_after:g} seconds" if self.hint == "body" else ""
            answer = _throttled(exchange, self.retry_after if self.hint == "body" else None, text)
        else:
            answer = _plain(429, self.shape)
        if self.hint == "seconds":
            answer.headers["Retry-After"] = f"{self.retry_after:g}"
        elif self.hint == "date":
            answer.headers["Retry-After"] = formatdate(time.time() + self.retry_after, usegmt=True)
        return answer

    def problem(self) -> str | None:
        """Allowed hints and shapes."""
        if self.hint not in {"seconds", "date", "body", "none"}:
            return "hint must be seconds, date, body or none"
        if self.shape not in SHAPES:
            return f"shape must be one of: {', '.join(SHAPES)}"
        return Fault.problem(self)


def _throttled(exchange: Exchange, seconds: float | None, text: str) -> Answer:
    if exchange.request.system != "clinical_one":
        return _vendor_error(exchange, 429, "TOO_MANY_REQUESTS", text)
    answer = _vendor_error(exchange, 429, None, phrases.THROTTLED)
    body = json.loads(answer.body)
    as_text = exchange.sandbox.switches.error_details == "string"
    if seconds is not None:
        body["errorData"]["details"] = text if as_text else {"retryAfter": seconds}
    return json_answer(body, 429)


def _plain(status: int, shape: str) -> Answer:
    """An error that is not in the vendor's shape."""
    if shape == "html":
        return html_answer(status, "The server was not able to complete your request.")
    return json_answer({"message": "upstream error"}, status) if shape == "json" else Answer(status)


@dataclass(kw_only=True, slots=True)
class ServerError(Replacing):
    """500, 502, 503 or 504, in the vendor's shape or another."""

    status: int = 500
    shape: str = "vendor"
    code: str | None = None
    retry_after: float | None = None

    def answer(self, exchange: Exchange, right: Answer | None) -> Answer:
        """The error."""
        if self.shape == "vendor":
            answer = _vendor_error(exchange, self.status, self.code, phrases.SERVER_ERROR)
        else:
            answer = _plain(self.status, self.shape)
        if self.retry_after is not None:
            answer.headers["Retry-After"] = f"{self.retry_after:g}"
        return answer

    def problem(self) -> str | None:
        """Allowed statuses and shapes."""
        if self.status not in range(500, 600):
            return "status must be 500 to 599"
        if self.shape not in SHAPES:
            return f"shape must be one of: {', '.join(SHAPES)}"
        return Fault.problem(self)


@dataclass(kw_only=True, slots=True)
class CutConnection(Replacing):
    """No answer at all: the connection is reset or closed, after the request has arrived."""

    how: str = "reset"

    def answer(self, exchange: Exchange, right: Answer | None) -> Answer:
        """Nothing."""
        return Answer(delivery=Cut("close" if self.how == "close" else "reset"))


@dataclass(kw_only=True, slots=True)
class Truncate(Replacing):
    """The headers promise the whole body, half of it comes (or `keep_bytes`), then the connection is closed."""

    when: str = AFTER
    keep_bytes: int | None = None

    def answer(self, exchange: Exchange, right: Answer | None) -> Answer:
        """The right answer, cut short."""
        whole = right if right is not None and right.body else json_answer({"status": "Success"})
        keep = len(whole.body) // 2 if self.keep_bytes is None else min(self.keep_bytes, len(whole.body) - 1)
        whole.delivery = Truncated(keep)
        return whole


@dataclass(kw_only=True, slots=True)
class WrongBody(Replacing):
    """A 200 that cannot be what was asked for: `shape`, `array`, `error_shape`, `invalid_json` or `content_type`."""

    when: str = AFTER
    variant: str = "shape"

    _VARIANTS: ClassVar[Mapping[str, bytes]] = {
        "shape": b'{"unexpected":true}',
        "array": b"[1,2,3]",
        "invalid_json": b'{"id": ',
        "content_type": b"OK",
    }

    def answer(self, exchange: Exchange, right: Answer | None) -> Answer:
        """The wrong body."""
        if self.variant == "error_shape":
            return _vendor_error(exchange, 200, None, phrases.SERVER_ERROR)
        kind = "text/plain" if self.variant == "content_type" else "application/json"
        return Answer(200, self._VARIANTS[self.variant], kind)

    def problem(self) -> str | None:
        """Allowed variants."""
        if self.variant not in {*self._VARIANTS, "error_shape"}:
            return f"variant must be one of: {', '.join([*self._VARIANTS, 'error_shape'])}"
        return Fault.problem(self)


@dataclass(kw_only=True, slots=True)
class Oversize(Replacing):
    """A body of so many mebibytes, streamed."""

    when: str = AFTER
    mebibytes: float = 64

    def answer(self, exchange: Exchange, right: Answer | None) -> Answer:
        """The flood."""
        return Answer(delivery=Oversized(int(self.mebibytes * 1024 * 1024)))


@dataclass(kw_only=True, slots=True)
class ProxyPage(Replacing):
    """A proxy's HTML page with any status, 200 among them."""

    status: int = 502

    def answer(self, exchange: Exchange, right: Answer | None) -> Answer:
        """The page."""
        page = b"<html><head><title>Gateway</title></head><body><h1>The proxy could not serve you</h1></body></html>"
        return Answer(self.status, page, HTML)


@dataclass(kw_only=True, slots=True)
class Empty(Replacing):
    """200 with nothing in it."""

    when: str = AFTER
    status: int = 200

    def answer(self, exchange: Exchange, right: Answer | None) -> Answer:
        """The empty answer."""
        return Answer(self.status)


@dataclass(kw_only=True, slots=True)
class Redirect(Replacing):
    """A redirect to somewhere nothing listens."""

    status: int = 302
    location: str = ELSEWHERE

    def answer(self, exchange: Exchange, right: Answer | None) -> Answer:
        """The redirect."""
        answer = Answer(self.status)
        answer.headers["Location"] = self.location
        return answer


@dataclass(kw_only=True, slots=True)
class SettingsMissing(Replacing):
    """500 "mHealth setttings are not found": the study's set-up lacks them."""

    def answer(self, exchange: Exchange, right: Answer | None) -> Answer:
        """The 500."""
        return ors_refusal(OrsRefusal(500, phrases.SETTINGS_NOT_FOUND), exchange.sandbox.switches)


@dataclass(kw_only=True, slots=True)
class ResetPassword(Replacing):
    """A log-in answers 200 without a token: the password must be reset first."""

    def answer(self, exchange: Exchange, right: Answer | None) -> Answer:
        """The reset token."""
        return json_answer({"resetPasswordToken": "cmVzZXQ="})
