"""The control interface: records, seeds, switches and listeners."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from tests.sandbox.callers import EXAMPLE_EXCEPTION, EXAMPLE_UPDATE, Caller
from vendor_sandbox import SandboxRefused, running_sandbox, seed
from vendor_sandbox.listening import NotLoopback

Logged = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def logged(effect_log: Path) -> Logged:
    """Reads the file of effects."""
    return lambda: [json.loads(line) for line in effect_log.read_text().splitlines()]


async def test_every_effect_is_a_line_of_the_log_before_its_answer_is_sent(caller: Caller, logged: Logged) -> None:
    caller.control.add_fault("openspecimen", "hold", call="update_registration", when="after")
    request = asyncio.create_task(caller.update(1, EXAMPLE_UPDATE))
    await caller.control.wait_held()
    (entry,) = logged()
    assert caller.control.effects() == [entry]
    assert (entry["n"], entry["system"], entry["effect"]) == (1, "openspecimen", "registration_updated")
    assert entry["key"] == {"registration_id": 1, "participant_id": 2, "cp_id": 3}
    caller.control.release()
    assert (await request).status == 200


async def test_no_personal_data_and_no_credentials_come_into_the_log(caller: Caller, logged: Logged) -> None:
    person = {"firstName": "Marker-Name", "uid": "Marker-Uid"}
    await caller.update(1, {"participant": person})
    otp = (await caller.register(1, 1)).json["otp"]
    text = json.dumps(logged())
    assert "participant.firstName" in text
    for marker in ("Marker", otp, caller.headers["clinical_one"]["Authorization"]):
        assert marker not in text


async def test_the_journal_tells_the_order_of_reads_relative_to_effects(caller: Caller) -> None:
    await caller.clinical_one("GET", "dndexception")
    await caller.clinical_one("POST", "dndexception", EXAMPLE_EXCEPTION)
    await caller.clinical_one("GET", "dndexception")
    journal = [
        (entry["call"], entry["nth"], entry["effects_before"], entry["effects"])
        for entry in caller.control.requests(system="clinical_one")
    ]
    assert journal == [("list_exceptions", 1, 0, []), ("create_exception", 1, 0, [1]), ("list_exceptions", 2, 1, [])]


async def test_the_journal_keeps_who_asked_but_neither_body_nor_token(caller: Caller) -> None:
    headers = {"X-Request-Id": "request-7", "User-Agent": "someone/1"}
    body = {**EXAMPLE_UPDATE, "participant": {"firstName": "Marker-Name"}}
    await caller.openspecimen("PUT", "collection-protocol-registrations/1", body, headers=headers)
    (entry,) = caller.control.requests(call="update_registration", finished=True)
    assert (entry["request_id"], entry["user_agent"], entry["status"]) == ("request-7", "someone/1", 200)
    assert entry["peer_port"] > 0
    assert caller.control.effects()[0]["request_id"] == "request-7"
    journal = json.dumps(caller.control.requests())
    assert "Marker" not in journal
    assert caller.headers["openspecimen"]["X-OS-API-TOKEN"] not in journal


async def test_waiting_for_effects_ends_when_they_happen_or_the_time_is_over(caller: Caller) -> None:
    waiting = asyncio.create_task(caller.control.wait_effects(1, effect="dnd_exception_created"))
    await caller.clinical_one("POST", "dndexception", EXAMPLE_EXCEPTION)
    assert len(await waiting) == 1
    assert caller.control.effects(at_least=2, timeout_s=0.01, since=1) == []
    assert len(await caller.control.wait_requests(1, call="create_exception")) == 1


async def test_a_closed_listener_refuses_connections_until_it_is_opened_again(caller: Caller) -> None:
    caller.control.listening("openspecimen", open=False)
    with pytest.raises(aiohttp.ClientConnectorError):
        await caller.registration()
    assert (await caller.dispensation()).status == 200
    caller.control.listening("openspecimen", open=True)
    assert (await caller.registration()).status == 200


async def test_closing_a_listener_drops_the_connections_there_are(caller: Caller) -> None:
    caller.control.add_fault("openspecimen", "hold", call="update_registration")
    request = asyncio.create_task(caller.update(1, EXAMPLE_UPDATE))
    await caller.control.wait_held()
    caller.control.listening("openspecimen", open=False)
    with pytest.raises((aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)):
        await request
    caller.control.release()
    assert await caller.control.wait_idle()
    assert len(caller.control.effects()) == 1, "what had arrived is applied all the same"


async def test_data_can_be_added_and_replaced(caller: Caller) -> None:
    one = seed.SeededSubject(7)
    caller.control.seed(seed.many(3, first=6), add=True)
    assert (await caller.registration(one.registration_id)).json["participant"]["id"] == one.participant_id
    reply = await caller.clinical_one("GET", f"inventory/kits/{one.inventory_id}/dispensation")
    assert reply.json["subjectSrcId"].replace("-", "").upper() == one.subject_id
    caller.control.seed({})
    assert (await caller.registration()).status == 401, "the sessions are gone with the data"
    assert (await caller.log_in()).codes == ["AUTH_INVALID_CREDENTIALS"]


async def test_a_reset_goes_back_to_the_start(caller: Caller, logged: Logged) -> None:
    await caller.update(1, EXAMPLE_UPDATE)
    caller.control.switches(openspecimen_errors="doc")
    caller.control.add_fault("token", "cut", nth="every")
    caller.control.listening("clinical_one", open=False)
    caller.control.reset()
    assert caller.control.effects() == caller.control.faults() == caller.control.requests() == []
    assert caller.control.switches()["openspecimen_errors"] == "code"
    assert caller.control.state()["openspecimen"]["registrations"]["1"]["ppid"] == "ASCI000"
    await caller.take_token()
    await caller.clinical_one("POST", "dndexception", EXAMPLE_EXCEPTION)
    assert [entry["n"] for entry in logged()] == [1, 2], "the file and its numbers go on"


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"elsewhere": {}}, "unknown keys: elsewhere"),
        ({"openspecimen": []}, "openspecimen must be an object"),
        ({"openspecimen": {"users": {}}}, "users must be a list"),
        ({"openspecimen": {"users": [{"id": 1}]}}, r"users\[0\] lacks: login_name, password"),
        ({"openspecimen": {"participants": [{}]}}, r"participants\[0\].id"),
        (
            {
                "openspecimen": {
                    "registrations": [
                        {"id": 1, "participant_id": 1, "cp_id": 1, "ppid": "A", "registration_date": "2014-01-01"}
                    ]
                }
            },
            "not seeded",
        ),
        ({"clinical_one": {"studies": [{"study_id": "x", "modes": {}}]}}, "must be a UUID"),
        (
            {"clinical_one": {"studies": [{"study_id": "0" * 32, "modes": {"live": {}}}]}},
            "unknown keys: live",
        ),
    ],
)
async def test_a_seed_that_cannot_be_used_is_refused_with_the_place(
    stranger: Caller, wrong: dict[str, Any], problem: str
) -> None:
    with pytest.raises(SandboxRefused, match=problem):
        stranger.control.seed(wrong)
    assert (await stranger.log_in()).status == 200, "the data is as it was"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"colour": "red"}, "no switch 'colour'"),
        ({"undispensed": "maybe"}, "undispensed must be one of"),
        ({"time_zone": "Mars/Base"}, "no zone 'Mars/Base'"),
        ({"latency_ms": -1}, "latency_ms must be"),
        ({"wrap_results": "yes"}, "wrap_results must be of type bool"),
        ({"stale_list_changes": True}, "stale_list_changes must be of type int"),
    ],
)
async def test_a_switch_that_does_not_exist_is_refused(stranger: Caller, change: dict[str, Any], problem: str) -> None:
    with pytest.raises(SandboxRefused, match=problem):
        stranger.control.switches(**change)


async def test_arrived_requests_are_counted_by_call(caller: Caller) -> None:
    await caller.update(1, EXAMPLE_UPDATE)
    await caller.update(1, EXAMPLE_UPDATE)
    counts = caller.control.counts()
    assert counts["update_registration"] == 2
    assert sum(counts.values()) == len(caller.control.requests())
    caller.control.reset()
    assert caller.control.counts() == {}


async def test_control_requests_that_make_no_sense_are_refused(stranger: Caller) -> None:
    control = stranger.control
    with pytest.raises(SandboxRefused, match="system must be one of"):
        control.listening("elsewhere", open=True)
    with pytest.raises(SandboxRefused, match="no such study"):
        control.roll_back("0" * 32, "test", seed.inventory_id(1))
    with pytest.raises(SandboxRefused, match="no such kit"):
        control.undispense(seed.STUDY_ID, "test", "0" * 32)
    with pytest.raises(SandboxRefused, match="never dispensed"):
        control.undispense(seed.STUDY_ID, "test", seed.inventory_id(5))
    with pytest.raises(SandboxRefused, match="kit or subject"):
        control.dispense(seed.STUDY_ID, "test", seed.inventory_id(5), "0" * 32)
    with pytest.raises(SandboxRefused, match="seed must be an object"):
        control.seed([])  # type: ignore[arg-type]  # what is refused
    unknown = await stranger.send("GET", stranger.addresses["control_url"] + "/secrets")
    assert unknown.status == 404


async def test_latency_is_added_to_every_vendor_request(stranger: Caller) -> None:
    assert stranger.control.switches(latency_ms=1)["latency_ms"] == 1
    assert (await stranger.log_in()).status == 200


async def test_addresses_can_be_asked_for(stranger: Caller) -> None:
    assert stranger.control.addresses() == dict(stranger.addresses)


@pytest.mark.parametrize("host", ["::", "localhost", "192.0.2.1"])
async def test_only_loopback_addresses_are_listened_on(host: str) -> None:
    with pytest.raises(NotLoopback):
        async with running_sandbox(host=host):
            pass


async def test_two_sandboxes_share_nothing(caller: Caller) -> None:
    async with running_sandbox() as other:
        await caller.update(1, EXAMPLE_UPDATE)
        assert other.control.effects() == []
        assert other.control.state()["openspecimen"]["registrations"]["1"]["ppid"] == "ASCI000"


async def test_stopping_ends_delays_and_waiting_at_once_and_applies_what_had_arrived(effect_log: Path) -> None:
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
        async with running_sandbox(effect_log) as sandbox:
            caller = Caller(sandbox, session)
            await caller.log_in()
            caller.control.add_fault("openspecimen", "delay", call="update_registration", seconds=3600)
            # Sent before anything else is asked, so that it has arrived: one that has not is refused, and rightly.
            address = urlsplit(sandbox.addresses["control_url"])
            waiting, sending = await asyncio.open_connection(address.hostname, address.port)
            sending.write(b"GET /effects?at_least=9&timeout=60 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            request = asyncio.create_task(caller.update(1, EXAMPLE_UPDATE))
            await caller.control.wait_requests(1, call="update_registration")
        assert (await request).status == 200
        assert (await waiting.read()).startswith(b"HTTP/1.1 200 OK")
        sending.close()
