import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onboarding.intake import parse_request
from tests.support.requests import PARTICIPANT, example, problems, problems_if_any


def test_text_bytes_and_objects_read_the_same() -> None:
    text = json.dumps(example())
    expected = parse_request(example())
    assert parse_request(text) == expected
    assert parse_request(text.encode()) == expected
    assert parse_request(b"\xef\xbb\xbf" + text.encode()) == expected  # as editors on Windows write it
    assert parse_request("\ufeff" + text) == expected


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("", "request: is empty; give a JSON object"),
        (b" \n", "request: is empty; give a JSON object"),
        ("[]", "request: must be a JSON object in braces, not a list"),
        ("null", "request: must be a JSON object in braces, not null"),
        ('"x"', "request: must be a JSON object in braces, not text"),
        ("{\n 'a': 1}", "request: is not valid JSON: line 2, column 2: expecting property name enclosed in double"),
        ('{"a": "\0"}', "request: is not valid JSON: line 1, column 8: invalid control character at"),
        ('{"a": 1} {"b": 2}', "request: is not valid JSON: line 1, column 10: extra data"),
        (b'{"a": "\xff"}', "request: is not text in UTF-8: byte 8 cannot be read"),
        ('{"a": "\\u0000"}', "a: must not hold a NUL character or half of a surrogate pair"),
        ('{"a": {"b\\ud800": 1}}', 'a."b\\ud800": must not hold a NUL character or half of a surrogate pair'),
        ('{"a": ["\ud800"]}', "a[0]: must not hold a NUL character or half of a surrogate pair"),
        ('{"a": NaN}', "a: must be a number within range; NaN and Infinity are no numbers of JSON"),
        ('{"a": [-Infinity]}', "a[0]: must be a number within range; NaN and Infinity are no numbers of JSON"),
        ('{"a": 1e999}', "a: must be a number within range"),
        ('{"a": ' + "9" * 5000 + "}", "a: must be a number within range"),
        ('{"device": {"a": 1, "b": 2, "a": 1}}', "device.a: is given more than once in the same object; give it once"),
        ('{"a": ' + "[" * 32 + "]" * 32 + "}", "request: is nested deeper than 32 levels"),
        ("[" * 100_000, "request: is nested deeper than 32 levels"),
        ('{"a": "' + "x" * 512 * 1024 + '"}', "request: is larger than 512 KiB"),
        ('{"a": "' + "é" * 300 * 1024 + '"}', "request: is larger than 512 KiB"),
        ('"\\"' * 100_000, "request: "),
    ],
)
def test_what_other_parsers_let_pass_is_refused_with_its_place(source: str | bytes, problem: str) -> None:
    (said,) = problems(source)
    assert said.startswith(problem)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({1: 2}, "request: has a key that is not text"),
        ({"a": {1, 2}}, "a: must be text, a number, true, false, null, a list or an object"),
        ({"a": b"x"}, "a: must be text, a number, true, false, null, a list or an object"),
        ({"a": 10**5000}, "a: must be a number within range"),
        ({"a": float("nan")}, "a: must be a number within range"),
        ({"a": ["x" * 1024] * 600}, "request: is larger than 512 KiB"),
        ({"a": [0] * 600_000}, "request: is larger than 512 KiB"),
    ],
)
def test_an_object_is_read_as_strictly_as_text(content: dict[Any, Any], problem: str) -> None:
    (said,) = problems(content)
    assert said.startswith(problem)


def test_an_object_that_holds_itself_is_refused() -> None:
    content: dict[str, Any] = {}
    content["a"] = content
    (said,) = problems(content)
    assert said.startswith("request: is nested deeper than 32 levels")


def test_brackets_inside_text_do_not_nest() -> None:
    asked = parse_request(json.dumps(example(registration__ppid='["{\\' * 40)))
    assert asked.registration
    assert asked.registration.ppid == '["{\\' * 40


def check_reading(source: str | bytes | dict[str, Any]) -> None:
    """Reading gives a request or says what is wrong in single lines that can be printed; it raises nothing else."""
    for problem in problems_if_any(source):
        assert problem.splitlines() == [problem]
        assert problem.encode("utf-8")
        assert "Input should" not in problem


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_no_text_and_no_bytes_cause_a_traceback(source: str | bytes) -> None:
    check_reading(source)


KEYS = st.sampled_from(
    """
    registration subject device dnd_exception participant id cpId cp_id ppid pmis races study_id mode inventoryId
    m_subject_id vendor_code allCountries countries visitDND dnd kitTypeSrcId visitSrcId extensionDetail birthDate
    registration_date activity_status
    """.split()  # noqa: SIM905 - a list of quoted words is longer than the test
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["2014-04-21", "Active", "test", "US", "0" * 32, "###"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=8), inner, max_size=6),
    max_leaves=25,
)


@given(st.dictionaries(KEYS, VALUES, max_size=6))
def test_no_json_causes_a_traceback(content: dict[str, Any]) -> None:
    check_reading(content)
    check_reading(json.dumps(content))


@given(st.data())
def test_no_wrong_value_in_a_good_request_causes_a_traceback(data: st.DataObject) -> None:
    content = example(registration__participant=dict(PARTICIPANT), registration__site=None)
    section = content[data.draw(st.sampled_from(sorted(content)))]
    place = data.draw(st.sampled_from([section, section.get("participant", section)]))
    place[data.draw(st.sampled_from(sorted(place)) | KEYS)] = data.draw(VALUES)
    check_reading(content)


@pytest.mark.parametrize(
    "source",
    [
        json.dumps({f"vendr_cod{n}": 1 for n in range(20_000)}),
        json.dumps({"x" * 500_000: 1}),
        json.dumps(example(dnd_exception__site_ids=["x"] * 100_000)),
        '{"a": "' + "\\\\" * 250_000,
        '"' * 500_000,
        "[" * 500_000,
        "{}" * 250_000,
    ],
)
def test_the_worst_that_fits_is_refused_within_seconds(source: str) -> None:
    started = time.process_time()
    assert problems(source)
    assert time.process_time() - started < 5
