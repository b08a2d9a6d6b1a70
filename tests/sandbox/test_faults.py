"""Every kind of fault, over real sockets: what the caller sees, and whether the effect happened."""

import asyncio
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import pytest

from tests.sandbox.callers import EXAMPLE_EXCEPTION, EXAMPLE_UPDATE, Caller
from vendor_sandbox import SandboxRefused, seed

NO_ANSWER = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)


async def create(caller: Caller) -> Any:
    return await caller.clinical_one("POST", "dndexception", EXAMPLE_EXCEPTION)


def effects(caller: Caller) -> list[str]:
    return [effect["effect"] for effect in caller.control.effects()]


async def test_a_refusal_comes_in_the_shape_of_the_system(caller: Caller) -> None:
    caller.control.add_fault("openspecimen", "refuse", call="update_registration", code="CPR_DUP_PPID", phrase="A1")
    caller.control.add_fault("clinical_one", "refuse", call="create_exception", phrase="Invalid study ID or version")
    caller.control.add_fault("token", "refuse", call="token", code="invalid_client", phrase="no")
    registration = await caller.update(1, EXAMPLE_UPDATE)
    assert (registration.status, registration.codes) == (400, ["CPR_DUP_PPID"])
    assert "PPID A1 already exists" in registration.json[0]["message"]
    assert ((await create(caller)).status, effects(caller)) == (404, [])
    assert (await caller.take_token()).json["error"] == "invalid_client"


@pytest.mark.parametrize("status", [400, 403, 404, 409, 500])
async def test_a_refusal_may_have_any_status(caller: Caller, status: int) -> None:
    caller.control.add_fault("clinical_one", "refuse", call="create_exception", status=status, phrase="No")
    reply = await create(caller)
    assert (reply.status, reply.phrase) == (status, "No")


async def test_a_throttled_request_is_told_when_to_come_back_in_one_of_four_ways(caller: Caller) -> None:
    for nth, hint in enumerate(("seconds", "date", "body", "none"), start=1):
        fault = {"nth": nth, "retry_after": 7, "hint": hint}
        caller.control.add_fault("clinical_one", "throttle", call="create_exception", **fault)
    seconds, date, body, none = [await create(caller) for _ in range(4)]
    assert {reply.status for reply in (seconds, date, body, none)} == {429}
    assert seconds.headers["Retry-After"] == "7"
    assert parsedate_to_datetime(date.headers["Retry-After"]) > parsedate_to_datetime(date.headers["Date"])
    assert body.json["errorData"]["details"] == {"retryAfter": 7}
    assert "Retry-After" not in {**body.headers, **none.headers}
    assert effects(caller) == []


async def test_a_throttled_request_may_be_answered_by_something_else_than_the_vendor(caller: Caller) -> None:
    caller.control.add_fault("openspecimen", "throttle", call="update_registration", shape="html")
    reply = await caller.update(1, EXAMPLE_UPDATE)
    assert (reply.status, reply.headers["Retry-After"]) == (429, "1")
    assert reply.headers["Content-Type"].startswith("text/html")


@pytest.mark.parametrize("status", [500, 502, 503, 504])
@pytest.mark.parametrize("shape", ["vendor", "html", "json", "empty"])
@pytest.mark.parametrize(("when", "happened"), [("before", []), ("after", ["dnd_exception_created"])])
async def test_a_server_error_before_or_after_applying(
    caller: Caller, status: int, shape: str, when: str, happened: list[str]
) -> None:
    fault = {"status": status, "shape": shape, "when": when}
    caller.control.add_fault("clinical_one", "server_error", call="create_exception", **fault)
    reply = await create(caller)
    assert reply.status == status
    assert ("errorData" in reply.body.decode()) == (shape == "vendor")
    assert effects(caller) == happened


@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize(("when", "happened"), [("before", []), ("after", ["dnd_exception_created"])])
async def test_a_cut_before_or_after_applying(caller: Caller, how: str, when: str, happened: list[str]) -> None:
    caller.control.add_fault("clinical_one", "cut", call="create_exception", how=how, when=when)
    with pytest.raises(NO_ANSWER):
        await create(caller)
    assert effects(caller) == happened
    (entry,) = caller.control.requests(call="create_exception")
    assert (entry["status"], entry["faults"], entry["finished"]) == (None, ["cut"], True)


async def test_a_late_request_is_applied_after_its_caller_has_gone(caller: Caller) -> None:
    held = caller.control.add_fault("clinical_one", "hold", call="create_exception")
    request = asyncio.create_task(create(caller))
    assert len(await caller.control.wait_held()) == 1
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert effects(caller) == []
    assert caller.control.release(held) == 1
    assert await caller.control.wait_idle()
    assert effects(caller) == ["dnd_exception_created"]


async def test_a_request_held_after_it_was_applied_is_in_the_log_already(caller: Caller) -> None:
    caller.control.add_fault("openspecimen", "hold", call="update_registration", when="after")
    request = asyncio.create_task(caller.update(1, EXAMPLE_UPDATE))
    assert (await caller.control.wait_held())[0]["call"] == "update_registration"
    assert effects(caller) == ["registration_updated"]
    caller.control.remove_faults()
    assert (await request).status == 200, "what a removed rule holds goes on"


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_delay_is_only_late(caller: Caller, when: str) -> None:
    caller.control.add_fault("clinical_one", "delay", call="create_exception", seconds=0.02, when=when)
    assert (await create(caller)).status == 200
    assert effects(caller) == ["dnd_exception_created"]


async def test_a_truncated_answer_ends_before_its_announced_length(caller: Caller) -> None:
    caller.control.add_fault("clinical_one", "truncate", call="create_exception")
    with pytest.raises(aiohttp.ClientPayloadError):
        await create(caller)
    assert effects(caller) == ["dnd_exception_created"]


@pytest.mark.parametrize(
    ("variant", "body", "kind"),
    [
        ("shape", b'{"unexpected":true}', "application/json"),
        ("array", b"[1,2,3]", "application/json"),
        ("invalid_json", b'{"id": ', "application/json"),
        ("content_type", b"OK", "text/plain"),
    ],
)
async def test_a_wrong_body(caller: Caller, variant: str, body: bytes, kind: str) -> None:
    caller.control.add_fault("clinical_one", "wrong_body", call="create_exception", variant=variant)
    reply = await create(caller)
    assert (reply.status, reply.body, reply.headers["Content-Type"]) == (200, body, kind)
    assert effects(caller) == ["dnd_exception_created"]


async def test_a_success_that_carries_an_error(caller: Caller) -> None:
    caller.control.add_fault("clinical_one", "wrong_body", call="create_exception", variant="error_shape")
    reply = await create(caller)
    assert (reply.status, reply.phrase) == (200, "Internal server error")


async def test_an_oversized_answer_is_valid_json_of_the_announced_size(caller: Caller) -> None:
    caller.control.add_fault("clinical_one", "oversize", call="list_exceptions", mebibytes=1.5)
    reply = await caller.clinical_one("GET", "dndexception")
    assert len(reply.body) == int(1.5 * 1024 * 1024)
    assert isinstance(reply.json, str)


@pytest.mark.parametrize("status", [200, 403, 407, 502, 503])
@pytest.mark.parametrize(("when", "happened"), [("before", []), ("after", ["registration_updated"])])
async def test_a_proxys_page(caller: Caller, status: int, when: str, happened: list[str]) -> None:
    fault = {"status": status, "when": when}
    caller.control.add_fault("openspecimen", "proxy_page", call="update_registration", **fault)
    reply = await caller.update(1, EXAMPLE_UPDATE)
    assert (reply.status, reply.headers["Content-Type"]) == (status, "text/html;charset=utf-8")
    assert effects(caller) == happened


async def test_a_token_may_end_at_any_request(caller: Caller) -> None:
    caller.control.add_fault("openspecimen", "expire_token", call="update_registration")
    caller.control.add_fault("clinical_one", "expire_token", call="create_exception")
    registration, exception = await caller.update(1, EXAMPLE_UPDATE), await create(caller)
    assert (registration.status, registration.headers["Content-Type"][:9]) == (401, "text/html")
    assert (exception.status, exception.phrase[:12]) == (401, "Unauthorized")
    assert effects(caller) == []
    assert (await caller.registration()).status == 401, "the token itself is gone"


async def test_all_tokens_can_be_ended_at_once(caller: Caller) -> None:
    assert caller.control.expire_tokens() == 2
    assert (await caller.registration()).status == 401
    assert (await caller.dispensation()).status == 401


async def test_missing_settings_are_a_500_in_the_vendors_shape(caller: Caller) -> None:
    caller.control.add_fault("clinical_one", "settings_missing", call="register_device")
    reply = await caller.register(1, 1)
    assert (reply.status, reply.phrase) == (500, "mHealth setttings are not found")
    assert (await caller.register(1, 1)).status == 200


async def test_a_roll_back_between_the_check_and_the_send(caller: Caller) -> None:
    caller.control.add_fault("clinical_one", "rollback", call="dispensation_history", inventory_id=seed.inventory_id(1))
    assert (await caller.dispensation()).body
    assert len((await caller.history(1)).json) == 1, "rolled back only once the answer was made"
    assert (await caller.register(1, 1)).phrase == "Device is not dispensed to the subject"


async def test_a_roll_back_right_before_the_registration(caller: Caller) -> None:
    caller.control.add_fault("clinical_one", "rollback", call="register_device", when="before")
    assert (await caller.register(1, 1)).phrase == "Device is not dispensed to the subject"


async def test_a_stale_list_shows_what_stood_some_changes_or_seconds_ago(caller: Caller) -> None:
    for _ in range(2):
        await create(caller)
    caller.control.add_fault("clinical_one", "stale_list", call="list_exceptions")
    caller.control.add_fault("clinical_one", "stale_list", call="list_exceptions", nth=2, seconds=3600)
    lengths = [len((await caller.clinical_one("GET", "dndexception")).json["dndExceptions"]) for _ in range(3)]
    assert lengths == [1, 0, 2]


async def test_a_stale_list_still_shows_what_was_changed_or_deleted_since(caller: Caller) -> None:
    one = f"dndexception/{(await create(caller)).json['id']}"
    await caller.clinical_one("PUT", one, {**EXAMPLE_EXCEPTION, "countries": ["DE"]})
    await caller.clinical_one("DELETE", one)
    caller.control.add_fault("clinical_one", "stale_list", call="list_exceptions", changes=1)
    caller.control.add_fault("clinical_one", "stale_list", call="list_exceptions", nth=2, changes=2)
    listed = [(await caller.clinical_one("GET", "dndexception")).json["dndExceptions"] for _ in range(3)]
    assert [[item["countries"] for item in items] for items in listed] == [[["DE"]], [["US"]], []]


@pytest.mark.parametrize(("when", "happened"), [("before", []), ("after", ["registration_updated"])])
async def test_an_empty_success(caller: Caller, when: str, happened: list[str]) -> None:
    caller.control.add_fault("openspecimen", "empty", call="update_registration", when=when)
    reply = await caller.update(1, EXAMPLE_UPDATE)
    assert (reply.status, reply.body) == (200, b"")
    assert effects(caller) == happened


async def test_a_log_in_may_ask_for_a_new_password(stranger: Caller) -> None:
    stranger.control.add_fault("openspecimen", "reset_password", call="login")
    assert "token" not in (await stranger.log_in()).json
    assert "token" in (await stranger.log_in()).json


async def test_a_dripping_answer_is_the_right_one_in_small_pieces(caller: Caller) -> None:
    caller.control.add_fault("clinical_one", "drip", call="create_exception", interval_seconds=0.001, bytes_each=3)
    assert set((await create(caller)).json) == {"id"}


async def test_a_redirect_points_elsewhere(caller: Caller) -> None:
    caller.control.add_fault("clinical_one", "redirect", call="create_exception", status=307)
    reply = await create(caller)
    assert (reply.status, reply.headers["Location"]) == (307, "http://127.0.0.1:9/elsewhere")


async def test_a_rule_hits_the_nth_matching_request_and_so_many_times(caller: Caller) -> None:
    caller.control.add_fault("clinical_one", "empty", method="GET", path="*/dndexception", nth=2, times=2)
    bodies = [(await caller.clinical_one("GET", "dndexception")).body == b"" for _ in range(4)]
    assert bodies == [False, True, True, False]
    (rule,) = caller.control.faults()
    assert (rule["seen"], rule["applied"]) == (4, 2)


async def test_a_rule_for_every_request_hits_until_it_is_removed(caller: Caller) -> None:
    rule = caller.control.add_fault("openspecimen", "proxy_page", nth="every")
    assert [(await caller.registration()).status for _ in range(3)] == [502, 502, 502]
    caller.control.remove_faults(rule)
    assert (await caller.registration()).status == 200


async def test_a_rule_may_look_into_the_body(caller: Caller) -> None:
    rule = {"method": "PUT", "body_contains": '"ASCI123"', "nth": "every"}
    caller.control.add_fault("openspecimen", "proxy_page", **rule)
    assert (await caller.update(1, {"ppid": "ASCI124"})).status == 200
    assert (await caller.update(1, EXAMPLE_UPDATE)).status == 502


async def test_rules_for_the_same_request_act_together(caller: Caller) -> None:
    caller.control.add_fault("clinical_one", "rollback", call="dispensation")
    caller.control.add_fault("clinical_one", "cut", call="dispensation", when="after")
    with pytest.raises(NO_ANSWER):
        await caller.dispensation()
    assert (await caller.dispensation()).body == b""


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        ({"system": "elsewhere", "kind": "cut"}, "system must be one of"),
        ({"system": "token", "kind": "explode"}, "kind must be one of"),
        ({"system": "token", "kind": "cut", "call": "login"}, "call must be one of: token"),
        ({"system": "token", "kind": "cut", "nth": 0}, "nth must be"),
        ({"system": "token", "kind": "cut", "times": 0}, "times must be"),
        ({"system": "token", "kind": "cut", "when": "never"}, "when must be before or after"),
        ({"system": "token", "kind": "cut", "delay": 1}, "cut does not know: delay"),
        ({"system": "token", "kind": "delay"}, "delay needs seconds"),
        ({"system": "token", "kind": "delay", "seconds": "1"}, "seconds is of the wrong type"),
        ({"system": "token", "kind": "refuse"}, "code or phrase is needed"),
        ({"system": "token", "kind": "throttle", "hint": "x"}, "hint must be"),
        ({"system": "token", "kind": "throttle", "shape": "x"}, "shape must be"),
        ({"system": "token", "kind": "server_error", "status": 400}, "status must be"),
        ({"system": "token", "kind": "wrong_body", "variant": "x"}, "variant must be"),
    ],
)
async def test_a_rule_that_makes_no_sense_is_refused_with_what_is_allowed(
    stranger: Caller, rule: dict[str, Any], problem: str
) -> None:
    with pytest.raises(SandboxRefused, match=problem):
        stranger.control.add_fault(**rule)
    assert stranger.control.faults() == []
