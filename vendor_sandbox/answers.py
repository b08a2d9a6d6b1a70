"""What a stand-in answers, before it is put on the wire."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Literal

JSON = "application/json"
HTML = "text/html;charset=utf-8"


@dataclass(frozen=True, slots=True)
class Whole:
    """The answer is sent as it should be."""


@dataclass(frozen=True, slots=True)
class Cut:
    """No answer: the connection is reset (RST) or closed (FIN)."""

    how: Literal["reset", "close"] = "reset"


@dataclass(frozen=True, slots=True)
class Truncated:
    """The headers announce the whole body, `keep_bytes` of it follow, then the connection is closed."""

    keep_bytes: int


@dataclass(frozen=True, slots=True)
class Dripped:
    """The body comes `bytes_each` bytes at a time with a pause between."""

    interval_seconds: float
    bytes_each: int


@dataclass(frozen=True, slots=True)
class Oversized:
    """A valid JSON string of `total_bytes` bytes, streamed in place of the body."""

    total_bytes: int


Delivery = Whole | Cut | Truncated | Dripped | Oversized


@dataclass(slots=True)
class Answer:
    """One HTTP answer: status, body (bytes, already encoded) and how it is delivered."""

    status: int = 200
    body: bytes = b""
    content_type: str = JSON
    headers: dict[str, str] = field(default_factory=dict)
    delivery: Delivery = field(default_factory=Whole)


def json_answer(value: object, status: int = 200) -> Answer:
    """An answer whose body is `value` as JSON."""
    return Answer(status, json.dumps(value, separators=(",", ":")).encode())


def html_answer(status: int, text: str = "") -> Answer:
    """An error page of a servlet container, a gateway or a proxy: HTML where the caller expects JSON."""
    phrase = HTTPStatus(status).phrase
    page = (
        f"<!doctype html><html><head><title>{status} {phrase}</title></head>"
        f"<body><h1>HTTP Status {status} - {phrase}</h1><p>{html.escape(text)}</p></body></html>"
    )
    return Answer(status, page.encode(), HTML)


def openspecimen_errors(status: int, errors: list[tuple[str, str]]) -> Answer:
    """OpenSpecimen's error shape: a JSON array of `{code, message}`, messages HTML-escaped (server behaviour)."""
    return json_answer([{"code": code, "message": html.escape(message)} for code, message in errors], status)


def oauth_error(status: int, code: str, description: str) -> Answer:
    """A token endpoint's error (RFC 6749, 5.2)."""
    answer = json_answer({"error": code, "error_description": description}, status)
    answer.headers["Cache-Control"] = "no-store"
    if status == 401:
        answer.headers["WWW-Authenticate"] = 'Basic realm="sandbox"'
    return answer


def ors_error(status: int, phrase: str, code: str, details: object) -> Answer:
    """Clinical One's `ORSResponse` with `errorData`; `details` is a string or an object, editions differ."""
    error = {"errorCode": code, "errorMessage": phrase, "details": details}
    return json_answer({"status": "Error", "version": 1, "result": None, "errorData": error}, status)
