from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onboarding.countries import COUNTRY_CODES
from onboarding.identifiers import normalise_id, same_id
from tests.support.requests import INVENTORY_ID, INVENTORY_ID_DASHED, SUBJECT_ID


def test_both_spellings_of_the_vendor_become_the_one_that_is_sent() -> None:
    assert normalise_id(INVENTORY_ID_DASHED) == normalise_id(f"  {INVENTORY_ID} ") == INVENTORY_ID


@pytest.mark.parametrize(
    "text",
    [
        "",
        INVENTORY_ID[:-1],
        INVENTORY_ID + "0",
        INVENTORY_ID[:-1] + "G",
        "b1b8327afaa6-4122-8710-6192ab5984ef",  # dashes in some places only
        "b1b8-327afaa6-4122-8710-6192ab5984ef",
        "{" + INVENTORY_ID_DASHED + "}",
        "٢" * 32,
        "B1B8 327AFAA6412287106192AB5984EF",
    ],
)
def test_what_is_no_id_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(ValueError, match="32 hexadecimal digits") as refusal:
        normalise_id(text)
    assert not text or text not in str(refusal.value)


@given(st.uuids())
def test_every_spelling_of_an_id_is_the_same(value: object) -> None:
    dashed = str(value)
    for spelling in (dashed, dashed.upper(), dashed.replace("-", ""), dashed.replace("-", "").upper()):
        assert same_id(spelling, dashed)
        assert normalise_id(spelling) == dashed.replace("-", "").upper()


@pytest.mark.parametrize(("one", "other"), [(INVENTORY_ID, SUBJECT_ID), (None, None), ("x", "x"), (INVENTORY_ID, None)])
def test_what_differs_is_missing_or_is_no_id_is_never_the_same(one: str | None, other: str | None) -> None:
    assert not same_id(one, other)


def test_the_country_codes_are_those_of_the_tz_database() -> None:
    table = (files("tzdata") / "zoneinfo" / "iso3166.tab").read_text(encoding="utf-8")
    assert frozenset(line[:2] for line in table.splitlines() if line and not line.startswith("#")) == COUNTRY_CODES
