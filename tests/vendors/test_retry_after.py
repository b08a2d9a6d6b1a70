"""How long a vendor asks us to wait, wherever it says so."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onboarding.vendors.retry_after import retry_after

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)


def wait(header: str | None = None, body: object = None, **how: object) -> float | None:
    headers = {} if header is None else {"retry-after": header}
    return retry_after(headers, body, now=NOW, **how)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("30", 30.0),
        (" 30 ", 30.0),
        ("0", 0.0),
        ("1.5", 1.5),
        ("999999999999", 3600.0),
        ("Sat, 21 Nov 2026 12:00:20 GMT", 20.0),
        ("Sat, 21 Nov 2026 13:00:20 +0100", 20.0),
        ("Sat, 21 Nov 2026 12:00:20", 20.0),
        ("Sat, 21 Nov 2026 11:00:00 GMT", 0.0),
        ("Sun, 21 Nov 2077 12:00:00 GMT", 3600.0),
        ("-5", None),
        ("soon", None),
        ("", None),
        ("nan", None),
        ("1e9", None),
        ("Sat, 99 Nov 2026 12:00:20 GMT", None),
    ],
)
def test_the_header_is_seconds_or_a_date(header: str, seconds: float | None) -> None:
    assert wait(header) == seconds


def test_a_date_is_compared_with_the_answers_own_clock() -> None:
    headers = {"retry-after": "Sat, 21 Nov 2026 09:00:20 GMT", "date": "Sat, 21 Nov 2026 09:00:00 GMT"}
    assert retry_after(headers, None, now=NOW + timedelta(hours=5)) == 20


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        ({"retryAfter": 12}, 12.0),
        ({"retry_after": "12"}, 12.0),
        ({"errorData": {"details": {"retryAfterSeconds": 12.5}}}, 12.5),
        ({"errorData": {"errorMessage": "Too many requests, retry after 30 seconds."}}, 30.0),
        ({"errorData": {"errorMessage": "Please try again in 2 minutes"}}, 120.0),
        ({"errorData": {"details": "retry in 500 ms"}}, 0.5),
        ("Retry after 7", 7.0),
        ({"retryAfter": None, "message": "retry after 3s"}, 3.0),
        ({"retryAfter": True}, None),
        ({"retryAfter": float("inf")}, None),
        ({"retryAfter": -4}, 0.0),
        ({"message": "too many"}, None),
        ({"retryAfter": 10**12 - 1}, 3600.0),
        ({"retryAfter": 10**12}, None),
        ([{"retryAfter": 3}], None),
        (None, None),
    ],
)
def test_the_body_can_hold_a_hint(body: object, seconds: float | None) -> None:
    assert wait(None, body) == seconds


def test_the_header_goes_before_the_body_and_the_ceiling_before_both() -> None:
    assert wait("4", {"retryAfter": 9}) == 4
    assert wait(None, {"retryAfter": 9}, ceiling_s=5.0) == 5


def test_a_hint_is_looked_for_four_objects_deep_and_in_the_first_2000_characters() -> None:
    deepest: object = {"retryAfter": 7}
    for _ in range(3):
        deepest = {"in": deepest}
    assert wait(None, deepest) == 7
    assert wait(None, {"in": deepest}) is None
    words = " " * 1987 + "retry after 7"
    assert wait(None, words) == 7
    assert wait(None, " " + words) is None


@given(
    st.text(max_size=60), st.recursive(st.text() | st.floats() | st.integers(), lambda i: st.dictionaries(st.text(), i))
)
def test_anything_gives_a_bounded_wait_or_none(header: str, body: object) -> None:
    seconds = wait(header, body)
    assert seconds is None or 0 <= seconds <= 3600
