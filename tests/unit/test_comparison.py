"""When two registrations say the same, path by path."""

from typing import Any
from zoneinfo import ZoneInfo

import pytest

from onboarding.steps.comparison import (
    MASKED,
    differences,
    is_masked,
    may_merge,
    standing_content,
    wanted_content,
)

NEW_YORK = ZoneInfo("America/New_York")
KOLKATA = ZoneInfo("Asia/Kolkata")


def wanted(**body: Any) -> dict[str, str]:
    return wanted_content(body, NEW_YORK)


def both(value: Any, other: Any, path: str = "custom", zone: ZoneInfo = NEW_YORK) -> list[str]:
    """What differs when one value is wanted where another stands."""
    head, _, tail = path.partition(".")
    asked = wanted_content({head: {tail: value} if tail else value}, zone)
    return differences(asked, standing_content(asked, {head: {tail: other} if tail else other}, zone))


def test_a_body_is_compared_leaf_by_leaf() -> None:
    body = {
        "ppid": " A1 ",
        "participant": {"firstName": "Ada", "birth": {"place": "B", "empty": {}}},
        "sites": ["b", "a"],
    }
    assert wanted(**body) == {
        "ppid": "A1",
        "participant.firstName": "Ada",
        "participant.birth.place": "B",
        "participant.birth.empty": "",
        "sites": '["a", "b"]',
    }


def test_what_names_the_registration_or_its_protocol_is_not_compared() -> None:
    named = {"id": 7, "cpId": {"of": 1}, "cpTitle": "T", "cpShortTitle": "S", "opComments": "why"}
    assert wanted(**named, participant={"id": 2}) == {"participant.id": "2"}


def test_a_path_that_does_not_stand_is_blank() -> None:
    ways: list[dict[str, Any]] = [{}, {"participant": None}, {"participant": {}}, {"participant": "Ada"}]
    for stands in ways:
        paths = {"participant.firstName": "Ada"}
        assert standing_content(paths, stands, NEW_YORK) == {"participant.firstName": ""}


@pytest.mark.parametrize(
    ("value", "other"),
    [
        (None, ""),
        ("  ", None),
        ([], None),
        ({}, ""),
        (7, "7"),
        (" a", "a "),
        (True, "true"),
        (False, "false"),
        ([2, 1], ["1", "2"]),
        ([{"a": 1, "b": None}], [{"b": "", "a": "1"}]),
        ([{"a": 1, "b": []}], [{"a": 1, "b": {}}]),
        ([{"a": 1, "c": 2}], [{"c": 2, "a": 1}]),
    ],
)
def test_what_means_the_same_is_the_same(value: Any, other: Any) -> None:
    assert both(value, other) == []


@pytest.mark.parametrize(
    ("value", "other"),
    [
        ("a", "A"),
        ("a", None),
        (0, None),
        (False, None),
        (True, False),
        (True, 1),
        ([1], [1, 1]),
        ([1], "1"),
        ([{"a": 1}], [{"a": 2}]),
        ([{"a": 1}], [{"b": 1}]),
        ([{"a": 0}], [{}]),
    ],
)
def test_what_means_something_else_differs(value: Any, other: Any) -> None:
    assert both(value, other) == ["custom"]


@pytest.mark.parametrize("path", ["registrationDate", "participant.birthDate", "participant.deathDate"])
@pytest.mark.parametrize(
    "stands",
    [
        "1961-07-03",
        " 1961-07-03 ",
        "1961-07-03T00:00:00-04:00",
        "1961-07-03T04:00:00+00:00",
        "1961-07-03T00:00:00",
        "1961-07-03T23:59:59",
        -268_171_200_000,
        "-268171200000",
        -268_171_200_000 + 86_399_999,
    ],
)
def test_a_date_is_the_calendar_day_in_the_servers_zone(path: str, stands: object) -> None:
    assert both("1961-07-03", stands, path) == []


def test_a_midnight_in_one_zone_is_another_day_in_another() -> None:
    moment = 1_763_683_200_000  # 2025-11-21T00:00Z
    assert both("2025-11-20", moment, "registrationDate", NEW_YORK) == []
    assert both("2025-11-21", moment, "registrationDate", KOLKATA) == []
    assert both("2025-11-21", moment, "registrationDate", NEW_YORK) == ["registrationDate"]
    assert both("2025-11-21", "2025-11-20T20:00:00+00:00", "registrationDate", KOLKATA) == []
    assert both("2025-11-21T02:00:00+00:00", "2025-11-20", "registrationDate", NEW_YORK) == []
    assert both(moment, moment + 1000, "notADate", NEW_YORK) == ["notADate"]


@pytest.mark.parametrize("stands", ["03.07.1961", "1961-13-03", "9" * 30, "-", "1--2", True])
def test_what_is_no_date_equals_no_day_that_is_sent(stands: object) -> None:
    asked = {"registrationDate": "1961-07-03"}
    found = standing_content(asked, {"registrationDate": stands}, NEW_YORK)
    assert found == {"registrationDate": f"?{stands}"}


@pytest.mark.parametrize("value", ["###", ["###"], ["a", {"b": "###"}], {"b": ["###"]}, [["a"], ["###"]]])
def test_a_mask_anywhere_in_a_value_hides_it_whole(value: object) -> None:
    found = standing_content({"pmis": "x"}, {"pmis": value}, NEW_YORK)
    assert found == {"pmis": MASKED}
    assert is_masked(found | {"ppid": "A1"})
    assert differences({"pmis": "x"}, found) == ["pmis"]


@pytest.mark.parametrize("value", ["#", "####", "a ###", ["a"], {"a": "##"}, None])
def test_what_only_looks_like_a_mask_is_none(value: object) -> None:
    assert not is_masked(standing_content({"pmis": "x"}, {"pmis": value}, NEW_YORK))


@pytest.mark.parametrize("path", ["participant.id", "participant.uid", "participant.empi", "participant.pmis"])
def test_another_identifier_may_merge_two_people(path: str) -> None:
    assert may_merge({"ppid": "A1", path: "1"}, {"ppid": "A1", path: "2"})
    assert may_merge({path: "1"}, {path: MASKED})
    assert not may_merge({"ppid": "A1", path: "1"}, {"ppid": "A2", path: "1"})


def test_another_name_merges_nobody() -> None:
    assert not may_merge({"participant.firstName": "Ada"}, {"participant.firstName": "Eve"})
    assert not may_merge({}, {})


def test_differences_are_named_by_their_paths_in_order() -> None:
    assert differences({"b": "1", "a": "1", "c": "1"}, {"a": "2", "b": "2", "c": "1"}) == ["b", "a"]
