"""Clinical One: DND exceptions."""

from typing import Any

import pytest

from tests.sandbox.callers import EXAMPLE_EXCEPTION, Caller
from vendor_sandbox import seed


async def test_an_exception_is_created_listed_read_updated_and_deleted(caller: Caller) -> None:
    created = await caller.clinical_one("POST", "dndexception", EXAMPLE_EXCEPTION)
    exception_id = created.json["id"]
    item = {"dndExceptionId": exception_id, **EXAMPLE_EXCEPTION}
    assert (await caller.clinical_one("GET", "dndexception")).json == {"dndExceptions": [item]}
    one = f"dndexception/{exception_id}"
    assert (await caller.clinical_one("GET", one)).json == [item], "an array, as documented"
    changed = {**EXAMPLE_EXCEPTION, "allCountries": True, "countries": [], "siteIds": []}
    assert (await caller.clinical_one("PUT", one, changed)).status == 200
    assert (await caller.clinical_one("GET", one)).json[0]["allCountries"] is True
    assert (await caller.clinical_one("DELETE", one)).body == b""
    assert (await caller.clinical_one("GET", one)).json == []
    effects = [effect["effect"].removeprefix("dnd_exception_") for effect in caller.control.effects()]
    assert effects == ["created", "updated", "deleted"]


async def test_nothing_stops_a_second_equal_exception(caller: Caller) -> None:
    dashed = {**EXAMPLE_EXCEPTION, "kitTypeSrcId": ["6af54db7-9b76-4662-b685-d68c52ab0b84"]}
    first = await caller.clinical_one("POST", "dndexception", EXAMPLE_EXCEPTION)
    second = await caller.clinical_one("POST", "dndexception", dashed)
    assert first.json["id"] != second.json["id"]
    digests = {effect["key"]["content_sha256"] for effect in caller.control.effects()}
    assert len(digests) == 1, "the log tells that they say the same"


async def test_exceptions_of_other_modes_are_not_listed(caller: Caller) -> None:
    await caller.clinical_one("POST", "dndexception", EXAMPLE_EXCEPTION, mode="training")
    assert (await caller.clinical_one("GET", "dndexception")).json == {"dndExceptions": []}


async def test_one_edition_answers_a_creation_without_a_body(caller: Caller) -> None:
    caller.control.switches(create_answer="empty")
    reply = await caller.clinical_one("POST", "dndexception", EXAMPLE_EXCEPTION)
    assert (reply.status, reply.body) == (200, b"")
    assert len((await caller.clinical_one("GET", "dndexception")).json["dndExceptions"]) == 1


async def test_the_misprinted_path_works_only_where_it_is_switched_on(caller: Caller) -> None:
    assert (await caller.clinical_one("GET", "DND%20Exception")).status == 404
    caller.control.switches(dnd_path="DND Exception")
    assert (await caller.clinical_one("GET", "DND%20Exception")).status == 200
    assert (await caller.clinical_one("GET", "dndexception")).status == 404


@pytest.mark.parametrize("dnd", [0, 2, 2.5, 99999])
async def test_days_from_zero_to_99999_are_taken(caller: Caller, dnd: float) -> None:
    body = {**EXAMPLE_EXCEPTION, "visitDND": [{"visitSrcId": seed.VISIT_ID, "dnd": dnd}]}
    assert (await caller.clinical_one("POST", "dndexception", body)).status == 200


VISIT = {"visitSrcId": seed.VISIT_ID, "dnd": 2}


@pytest.mark.parametrize(
    "change",
    [
        {"allCountries": "no"},
        {"kitTypeSrcId": []},
        {"kitTypeSrcId": ["x"]},
        {"kitTypeSrcId": [seed.KIT_TYPE_ID, seed.KIT_TYPE_ID.lower()]},
        {"siteIds": [seed.SITE_ID, seed.SITE_ID]},
        {"countries": "US"},
        {"countries": ["USA"]},
        {"visitDND": []},
        {"visitDND": ["x"]},
        {"visitDND": [VISIT, VISIT]},
        {"visitDND": [{**VISIT, "visitSrcId": None}]},
        {"visitDND": [{**VISIT, "dnd": -1}]},
        {"visitDND": [{**VISIT, "dnd": 100000}]},
        {"visitDND": [{**VISIT, "dnd": True}]},
        {"visitDND": [{**VISIT, "dnd": "2"}]},
    ],
)
async def test_a_request_that_breaks_the_schema_is_not_valid(caller: Caller, change: dict[str, Any]) -> None:
    reply = await caller.clinical_one("POST", "dndexception", {**EXAMPLE_EXCEPTION, **change})
    assert (reply.status, reply.phrase) == (400, "Dispensation Logic (Dynamic DND) Request is not valid")
    assert caller.control.effects() == []


async def test_changing_an_exception_that_does_not_exist_is_not_valid(caller: Caller) -> None:
    for method in ("PUT", "DELETE"):
        reply = await caller.clinical_one(method, f"dndexception/{'0' * 32}", EXAMPLE_EXCEPTION)
        assert reply.status == 400


async def test_reading_one_exception_needs_another_right_than_listing_them(stranger: Caller) -> None:
    client = {"client_id": "lister", "secret": "s", "scopes": [seed.SCOPE]}
    rights = {"rights": {"test": ["DispensationExceptionGet"]}}
    stranger.control.seed({"clinical_one": {"clients": [{**client, **rights}]}}, add=True)
    await stranger.take_token("lister", "s")
    assert (await stranger.clinical_one("GET", "dndexception")).status == 200
    assert (await stranger.clinical_one("GET", f"dndexception/{'0' * 32}")).status == 403


async def test_the_list_may_lag_behind_by_some_changes(caller: Caller) -> None:
    await caller.clinical_one("POST", "dndexception", EXAMPLE_EXCEPTION)
    caller.control.switches(stale_list_changes=1)
    assert (await caller.clinical_one("GET", "dndexception")).json == {"dndExceptions": []}
    caller.control.switches(stale_list_changes=0)
    assert len((await caller.clinical_one("GET", "dndexception")).json["dndExceptions"]) == 1
