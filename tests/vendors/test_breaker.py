"""A system that looks dead is left alone but for one probing call at a time, and used again as soon as it answers."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from onboarding.errors import InDoubt, Refused, Unavailable
from onboarding.vendors import Breaker, Deadline, InMemoryGate, Limits, OpenSpecimenClient, VendorHttp
from onboarding.vendors.breaker import OPENS_AFTER
from tests.vendors.scripted_server import Exchange, Script, ScriptedServer, answers, scripted
from tests.vendors.vendor_scripts import Vendor, openspecimen

FOUND = {"id": 1}
PAGE = answers(502, b"<html>bad gateway</html>", content_type="text/html")
ERROR = [{"code": "COMMON_SERVER_ERROR", "message": "m"}]
QUICK = Limits(failures=3, first_pause_s=0.1, longest_pause_s=0.4)


@pytest.fixture
def vendor() -> Vendor:
    return Vendor(script=answers(200, FOUND))


@pytest.fixture
async def server(vendor: Vendor) -> AsyncIterator[ScriptedServer]:
    async with scripted(vendor) as running:
        yield running


@pytest.fixture
def client(server: ScriptedServer, http: VendorHttp) -> OpenSpecimenClient:
    return OpenSpecimenClient(openspecimen(server.url), http, InMemoryGate(), limits=QUICK)


async def read(client: OpenSpecimenClient, seconds: float = 10) -> object:
    return await client.read_registration(1, deadline=Deadline(seconds))


async def code_of(client: OpenSpecimenClient, seconds: float = 10) -> str:
    with pytest.raises(Unavailable) as caught:
        await read(client, seconds)
    return caught.value.code


async def fail_until_down(client: OpenSpecimenClient, vendor: Vendor, script: Script, seconds: float = 10) -> None:
    await read(client)  # logged in
    vendor.script = script
    for _ in range(QUICK.failures):
        assert await code_of(client, seconds) != "VENDOR_DOWN"


async def reopened(client: OpenSpecimenClient) -> None:
    await asyncio.sleep(client.closed_for_s() + 0.01)
    assert client.closed_for_s() == 0


async def test_after_failures_in_a_row_nothing_is_sent_and_it_is_said_for_how_long(
    client: OpenSpecimenClient, vendor: Vendor, server: ScriptedServer
) -> None:
    await fail_until_down(client, vendor, PAGE)
    sent = len(server.requests)
    with pytest.raises(Unavailable) as caught:
        await read(client)
    assert caught.value.code == "VENDOR_DOWN"
    assert 0 < (caught.value.retry_after_s or 0) <= 0.11
    assert client.closed_for_s() > 0
    with pytest.raises(Unavailable):
        async with client.turn(10):
            pytest.fail("no effect begins while the system looks dead")
    assert len(server.requests) == sent


@pytest.mark.parametrize(
    "script", [Exchange.cut, Exchange.until_client_leaves, answers(503, ERROR), answers(200, b"<p>")]
)
async def test_silence_cuts_pages_and_503_look_dead(client: OpenSpecimenClient, vendor: Vendor, script: Script) -> None:
    await fail_until_down(client, vendor, script, seconds=0.3)
    assert await code_of(client) == "VENDOR_DOWN"


@pytest.mark.parametrize(
    "script",
    [answers(500, ERROR), answers(429, headers={"retry-after": "0.001"}), answers(404, ERROR), answers(401, b"<page>")],
)
async def test_whoever_answers_in_the_vendors_own_way_is_alive(
    client: OpenSpecimenClient, vendor: Vendor, script: Script
) -> None:
    await read(client)
    vendor.script = script
    for _ in range(QUICK.failures + 2):
        with pytest.raises((Unavailable, Refused)) as caught:
            await read(client)
        assert caught.value.code != "VENDOR_DOWN"


async def test_one_probing_call_is_let_through_and_its_success_opens_the_way_for_all(
    client: OpenSpecimenClient, vendor: Vendor, server: ScriptedServer
) -> None:
    await fail_until_down(client, vendor, PAGE)
    await reopened(client)
    arrived, let_go = asyncio.Event(), asyncio.Event()

    async def probed(exchange: Exchange) -> None:
        arrived.set()
        await let_go.wait()
        await exchange.answer(200, FOUND)

    vendor.script = probed
    sent = len(server.requests)
    probe = asyncio.create_task(read(client))
    async with asyncio.timeout(10):
        await arrived.wait()
    assert await code_of(client) == "VENDOR_DOWN"
    assert len(server.requests) == sent + 1
    let_go.set()
    assert await probe == FOUND
    assert client.closed_for_s() == 0
    assert await asyncio.gather(*(read(client) for _ in range(5))) == [FOUND] * 5


async def test_pauses_grow_while_the_probing_calls_fail_up_to_a_limit(
    client: OpenSpecimenClient, vendor: Vendor
) -> None:
    await fail_until_down(client, vendor, PAGE)
    pauses = []
    for _ in range(4):
        pauses.append(client.closed_for_s())
        await reopened(client)
        assert await code_of(client) == "SERVER_ERROR"
    assert pauses[1] > pauses[0] * 1.4
    assert all(0.3 < pause <= 0.44 for pause in pauses[2:])


async def test_a_probing_call_that_is_cancelled_lets_another_one_through(
    client: OpenSpecimenClient, vendor: Vendor, server: ScriptedServer
) -> None:
    await fail_until_down(client, vendor, PAGE)
    await reopened(client)
    arrived = asyncio.Event()

    async def silent(exchange: Exchange) -> None:
        arrived.set()
        await exchange.until_client_leaves()

    vendor.script = silent
    probe = asyncio.create_task(read(client))
    async with asyncio.timeout(10):
        await arrived.wait()
    probe.cancel()
    await asyncio.wait({probe})
    vendor.script = answers(200, FOUND)
    assert await read(client) == FOUND


async def test_a_check_that_forbids_the_probing_effect_lets_another_call_through(
    client: OpenSpecimenClient, vendor: Vendor
) -> None:
    await fail_until_down(client, vendor, PAGE)
    await reopened(client)

    def forbid() -> None:
        raise RuntimeError("the lease is over")

    with pytest.raises(RuntimeError, match="lease"):
        async with client.turn(10) as turn:
            await client.update_registration(1, {"id": 1}, deadline=turn, check=forbid)
    vendor.script = answers(200, FOUND)
    assert await read(client) == FOUND


async def test_an_effect_whose_answer_is_lost_stays_in_doubt_and_counts_as_a_failure(
    client: OpenSpecimenClient, vendor: Vendor
) -> None:
    await read(client)
    vendor.script = Exchange.cut
    for _ in range(QUICK.failures):
        with pytest.raises(InDoubt):
            await client.update_registration(1, {"id": 1}, deadline=Deadline(10))
    assert await code_of(client) == "VENDOR_DOWN"


async def test_a_log_in_that_fails_counts_and_one_that_works_is_no_sign_of_life(
    client: OpenSpecimenClient, vendor: Vendor
) -> None:
    vendor.log_in = PAGE
    for _ in range(QUICK.failures):
        assert await code_of(client) == "SERVER_ERROR"
    assert await code_of(client) == "VENDOR_DOWN"
    await reopened(client)
    vendor.log_in, vendor.script = None, PAGE
    assert await code_of(client) == "SERVER_ERROR"
    assert await code_of(client) == "VENDOR_DOWN", "the log-in before it closed nothing"


def test_failures_of_requests_that_began_before_it_opened_or_closed_count_for_nothing() -> None:
    breaker = Breaker(opens_after=2, first_pause_s=60)
    early = [breaker.enter() for _ in range(5)]
    assert [breaker.failed(stamp) for stamp in early] == [False, True, False, False, False]
    assert 50 < breaker.closed_for_s() <= 66, "the pause did not grow by what was on its way"
    breaker.succeeded()
    assert breaker.closed_for_s() == 0
    assert not breaker.failed(early[0])
    assert not breaker.failed(early[1])
    assert breaker.closed_for_s() == 0


def test_a_success_in_between_begins_the_count_anew() -> None:
    breaker = Breaker()
    for _ in range(3):
        assert not any(breaker.failed(breaker.enter()) for _ in range(OPENS_AFTER - 1))
        breaker.succeeded()
    assert breaker.closed_for_s() == 0
