import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from onboarding.request import (
    VisitDnd,
    normalised_dnd_exception,
)
from tests.support.requests import (
    INVENTORY_ID,
    INVENTORY_ID_DASHED,
    KIT_TYPE_ID,
    LEFT_OUT,
    SITE_ID,
    VISIT_ID,
    dnd_exception,
    refusal,
    request,
)


@pytest.mark.parametrize("spelling", ["kit_type_src_ids", "kitTypeSrcIds", "kitTypeSrcId"])
def test_each_spelling_of_the_kit_types_is_taken(spelling: str) -> None:
    asked = dnd_exception(**{"kit_type_src_ids": LEFT_OUT, spelling: [KIT_TYPE_ID]})
    assert asked.kit_type_src_ids == (KIT_TYPE_ID,)


@pytest.mark.parametrize("spelling", ["visit_dnd", "visitDnd", "visitDND"])
def test_each_spelling_of_the_visits_is_taken(spelling: str) -> None:
    asked = dnd_exception(**{"visit_dnd": LEFT_OUT, spelling: [{"visitSrcId": VISIT_ID, "dnd": 2}]})
    assert asked.visit_dnd == (VisitDnd(visit_src_id=VISIT_ID, dnd=Decimal(2)),)


@pytest.mark.parametrize(
    "scope",
    [
        {"all_countries": True, "countries": LEFT_OUT, "site_ids": LEFT_OUT},
        {"all_countries": True, "countries": [], "site_ids": None},
        {"all_countries": False, "countries": ["US", "DE"], "site_ids": LEFT_OUT},
        {"all_countries": False, "countries": ["US"], "site_ids": [SITE_ID]},
    ],
)
def test_the_documented_scopes_are_taken_without_a_warning(scope: dict[str, object]) -> None:
    assert dnd_exception(**scope).warnings() == []


def test_all_countries_left_out_is_told_to_the_vendor_as_false() -> None:
    asked = dnd_exception(all_countries=LEFT_OUT)
    assert asked.body()["allCountries"] is False
    assert asked == dnd_exception(all_countries=False)


@pytest.mark.parametrize("lists", [{"countries": ["US"]}, {"site_ids": [SITE_ID]}])
def test_all_countries_and_a_list_contradict_each_other(lists: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="give neither countries nor site_ids"):
        dnd_exception(**{"all_countries": True, "countries": LEFT_OUT, "site_ids": LEFT_OUT, **lists})


@pytest.mark.parametrize("empty", [LEFT_OUT, None, []])
def test_an_exception_that_applies_nowhere_is_refused(empty: object) -> None:
    with pytest.raises(ValidationError, match="applies nowhere"):
        dnd_exception(all_countries=False, countries=empty, site_ids=empty)


def test_sites_without_countries_are_taken_with_a_warning() -> None:
    asked = request(dnd_exception__countries=LEFT_OUT)
    assert [warning.split(":")[0] for warning in asked.warnings()] == ["dnd_exception"]


def test_lists_without_entries_are_not_sent() -> None:
    sent = dnd_exception(all_countries=True, countries=[], site_ids=LEFT_OUT).body()
    assert sent.keys() == {"allCountries", "kitTypeSrcId", "visitDND"}


@pytest.mark.parametrize("code", ["XX", "U", "USA", "", "12", "ß", "UK", None, 1])
def test_a_country_that_iso_does_not_know_is_refused(code: object) -> None:
    assert "dnd_exception.countries.0: " in refusal(dnd_exception__countries=[code])


@pytest.mark.parametrize(
    ("key", "entries"),
    [
        ("countries", ["US", "DE", "us"]),
        ("site_ids", [INVENTORY_ID, SITE_ID, INVENTORY_ID_DASHED]),
        ("kit_type_src_ids", [INVENTORY_ID_DASHED, KIT_TYPE_ID, INVENTORY_ID]),
        (
            "visit_dnd",
            [
                {"visit_src_id": INVENTORY_ID, "dnd": 1},
                {"visit_src_id": VISIT_ID, "dnd": 1},
                {"visit_src_id": INVENTORY_ID_DASHED, "dnd": 2},
            ],
        ),
    ],
)
def test_a_repeat_is_seen_behind_another_spelling(key: str, entries: list[object]) -> None:
    assert "every entry may be given once, but [2] repeats [0]" in refusal(**{f"dnd_exception__{key}": entries})


@pytest.mark.parametrize("key", ["kit_type_src_ids", "visit_dnd"])
def test_kit_types_and_visits_are_needed(key: str) -> None:
    assert f"dnd_exception.{key}" in refusal(**{f"dnd_exception__{key}": []})
    assert f"dnd_exception.{key}" in refusal(**{f"dnd_exception__{key}": LEFT_OUT})


@pytest.mark.parametrize(
    ("days", "sent"),
    [
        (0, 0),
        (-0.0, 0),
        (2, 2),
        (2.0, 2),
        ("2.0", 2),
        (2.5, 2.5),
        ("0.1", 0.1),
        (99999, 99999),
        (1e2, 100),
        (99998.999999, 99998.999999),
    ],
)
def test_days_are_sent_as_the_number_that_was_given(days: object, sent: float) -> None:
    asked = dnd_exception(visit_dnd=[{"visit_src_id": VISIT_ID, "dnd": days}])
    assert asked.body()["visitDND"][0]["dnd"] == sent
    assert isinstance(asked.body()["visitDND"][0]["dnd"], type(sent))
    assert json.loads(asked.model_dump_json())["visit_dnd"][0]["dnd"] == sent


@pytest.mark.parametrize(
    "days",
    [
        -1,
        -0.000001,
        99999.000001,
        100000,
        10**400,
        True,
        False,
        None,
        "",
        "two",
        "1e2",
        "-0",
        "٢",
        [],
        0.0000001,
        float("nan"),
        float("inf"),
        Decimal("NaN"),
        Decimal("1E+999999"),
        Decimal("1E-999999"),
    ],
)
def test_what_is_no_number_of_days_is_refused(days: object) -> None:
    said = refusal(dnd_exception__visit_dnd=[{"visit_src_id": VISIT_ID, "dnd": days}])
    assert "dnd_exception.visit_dnd.0.dnd: must be a number of days from 0 to 99999" in said


# What is equal


@given(st.data())
def test_order_and_spelling_make_no_difference_to_an_exception(data: st.DataObject) -> None:
    ids = st.uuids().map(str)
    sites = data.draw(st.lists(ids, min_size=1, max_size=4, unique=True))
    kit_types = data.draw(st.lists(ids, min_size=1, max_size=4, unique=True))
    visits = data.draw(
        st.lists(st.tuples(ids, st.integers(0, 99999)), min_size=1, max_size=4, unique_by=lambda v: v[0])
    )
    one = dnd_exception(
        site_ids=sites, kit_type_src_ids=kit_types, visit_dnd=[{"visit_src_id": v, "dnd": dnd} for v, dnd in visits]
    )
    other = dnd_exception(
        countries=["us"],
        site_ids=data.draw(st.permutations([site.upper().replace("-", "") for site in sites])),
        kit_type_src_ids=data.draw(st.permutations(kit_types)),
        visit_dnd=[
            {"visit_src_id": v.upper(), "dnd": float(dnd)} for v, dnd in data.draw(st.permutations(list(visits)))
        ],
    )
    assert one.normalised() == other.normalised()
    listed = {**other.body(), "dndExceptionId": SITE_ID}
    assert normalised_dnd_exception(listed) == one.normalised()


def test_a_listed_exception_with_null_or_missing_lists_equals_one_without() -> None:
    asked = dnd_exception(all_countries=True, countries=LEFT_OUT, site_ids=LEFT_OUT)
    listed = {**asked.body(), "countries": None, "siteIds": []}
    assert normalised_dnd_exception(listed) == asked.normalised()


@pytest.mark.parametrize(
    "change",
    [
        {"allCountries": True},
        {"countries": ["DE"]},
        {"countries": []},
        {"siteIds": None},
        {"kitTypeSrcId": [SITE_ID]},
        {"visitDND": [{"visitSrcId": VISIT_ID, "dnd": 3}]},
        {"visitDND": [{"visitSrcId": SITE_ID, "dnd": 2}]},
    ],
)
def test_an_exception_of_other_content_is_not_equal(change: dict[str, object]) -> None:
    asked = dnd_exception()
    assert normalised_dnd_exception({**asked.body(), **change}) != asked.normalised()


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(
    st.dictionaries(
        st.sampled_from(["allCountries", "countries", "kitTypeSrcId", "siteIds", "visitDND"]), json_values, min_size=1
    )
)
def test_a_listed_exception_that_cannot_be_read_equals_nothing_and_raises_nothing(content: dict[str, Any]) -> None:
    assert normalised_dnd_exception(content) != dnd_exception().normalised()
