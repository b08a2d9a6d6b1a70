"""How much a system is asked at a time: places, rates and pauses, over a real socket."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from onboarding.errors import OPENSPECIMEN, Unavailable
from onboarding.vendors import Deadline, InMemoryGate, Limits, OpenSpecimenClient, VendorHttp
from onboarding.vendors.limits import Places, Urgency
from tests.vendors.scripted_server import Exchange, ScriptedServer, answers, in_turn, scripted
from tests.vendors.vendor_scripts import Vendor, openspecimen

SOON_S = 10.0
FOUND = {"id": 1, "ppid": "x"}


@dataclass
class Crowd:
    """A script that answers when it is told to, and counts who is there at a time."""

    here: int = 0
    most: int = 0
    arrived: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    let_go: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))

    async def __call__(self, exchange: Exchange) -> None:
        self.here += 1
        self.most = max(self.most, self.here)
        self.arrived.release()
        await self.let_go.acquire()
        self.here -= 1
        await exchange.answer(200, FOUND)

    async def wait(self, count: int) -> None:
        async with asyncio.timeout(SOON_S):
            for _ in range(count):
                await self.arrived.acquire()


@pytest.fixture
def crowd() -> Crowd:
    return Crowd()


@pytest.fixture
def vendor(crowd: Crowd) -> Vendor:
    return Vendor(script=crowd)


@pytest.fixture
async def server(vendor: Vendor) -> AsyncIterator[ScriptedServer]:
    async with scripted(vendor) as running:
        yield running


def a_client(server: ScriptedServer, http: VendorHttp, limits: Limits) -> OpenSpecimenClient:
    return OpenSpecimenClient(openspecimen(server.url), http, InMemoryGate(), limits=limits)


async def read(client: OpenSpecimenClient, seconds: float = SOON_S) -> object:
    return await client.read_registration(1, deadline=Deadline(seconds))


async def test_no_more_requests_than_allowed_are_under_way(
    server: ScriptedServer, http: VendorHttp, crowd: Crowd
) -> None:
    client = a_client(server, http, Limits(in_flight=3))
    reads = [asyncio.create_task(read(client)) for _ in range(8)]
    await crowd.wait(3)
    for _ in range(8):
        crowd.let_go.release()
    await asyncio.gather(*reads)
    assert crowd.most == 3


async def test_a_read_does_not_spend_its_deadline_in_our_own_queue(
    server: ScriptedServer, http: VendorHttp, crowd: Crowd
) -> None:
    client = a_client(server, http, Limits(in_flight=1))
    first = asyncio.create_task(read(client))
    await crowd.wait(1)
    deadline = Deadline(0.2)
    second = asyncio.create_task(client.read_registration(1, deadline=deadline))
    await asyncio.sleep(deadline.remaining() + 0.01)
    crowd.let_go.release()
    await first
    await crowd.wait(1)
    crowd.let_go.release()
    assert await second == FOUND


async def test_an_effect_gets_its_place_before_its_deadline_begins_and_goes_first(
    server: ScriptedServer, http: VendorHttp, crowd: Crowd
) -> None:
    client = a_client(server, http, Limits(in_flight=1))
    order: list[str] = []

    async def look() -> None:
        await read(client)
        order.append("look")

    async def change() -> None:
        async with client.turn(SOON_S) as turn:
            assert turn.remaining() > SOON_S - 1
            await client.update_registration(1, {"id": 1}, deadline=turn)
            order.append("effect")

    first = asyncio.create_task(look())
    await crowd.wait(1)
    others = [asyncio.create_task(work()) for work in (look, change)]
    for _ in range(3):
        crowd.let_go.release()
    await asyncio.gather(first, *others)
    assert order == ["look", "effect", "look"]


async def test_who_is_cancelled_in_the_queue_or_at_work_gives_the_place_back(
    server: ScriptedServer, http: VendorHttp, crowd: Crowd
) -> None:
    client = a_client(server, http, Limits(in_flight=1))
    working, waiting = asyncio.create_task(read(client)), asyncio.create_task(read(client))
    await crowd.wait(1)
    for task in (waiting, working):
        task.cancel()
        await asyncio.wait({task})
    last = asyncio.create_task(read(client))
    await crowd.wait(1)
    crowd.let_go.release()
    crowd.let_go.release()
    assert await last == FOUND


async def test_a_log_in_takes_no_place_since_those_who_have_one_wait_for_it(
    server: ScriptedServer, http: VendorHttp, crowd: Crowd, vendor: Vendor
) -> None:
    client = a_client(server, http, Limits(in_flight=1))
    for _ in range(2):
        crowd.let_go.release()
    async with client.turn(SOON_S) as turn:
        assert await client.update_registration(1, {"id": 1}, deadline=turn) == FOUND
    assert vendor.log_ins == 1


async def test_requests_are_begun_no_faster_than_the_rate_and_use_all_of_it() -> None:
    places = Places(Limits(in_flight=100, per_second=200))
    loop = asyncio.get_running_loop()
    begun = loop.time()

    async def one() -> None:
        await places.take(Urgency.LOOK)
        places.give_back()

    await asyncio.gather(*(one() for _ in range(61)))
    took_s = loop.time() - begun
    assert took_s >= 0.3 - 0.05, "60 intervals of 5 ms, less what may be caught up"
    assert took_s < 3


async def test_the_request_after_a_401_counts_into_the_rate(server: ScriptedServer, http: VendorHttp) -> None:
    client = a_client(server, http, Limits(per_second=10))
    server.script.script = in_turn(answers(200, FOUND), answers(401), answers(200, FOUND))  # type: ignore[attr-defined]
    await read(client)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await read(client)  # in the next slot, 0.1 s later, and twice
    await read(client)
    assert loop.time() - begun >= 0.3 - 0.06


async def test_a_short_pause_is_waited_for_by_all_and_they_go_on_within_the_limits(
    server: ScriptedServer, http: VendorHttp, crowd: Crowd, vendor: Vendor
) -> None:
    client = a_client(server, http, Limits(in_flight=2))
    vendor.script = answers(429, headers={"retry-after": "0.4"})
    loop = asyncio.get_running_loop()
    with pytest.raises(Unavailable):
        await read(client)
    asked_at, asked = loop.time(), len(server.requests)
    vendor.script = crowd
    reads = [asyncio.create_task(read(client, 0.3)) for _ in range(6)]
    await crowd.wait(2)
    assert loop.time() - asked_at >= 0.35
    assert len(server.requests) == asked + 2
    for _ in range(6):
        crowd.let_go.release()
    await asyncio.gather(*reads)
    assert crowd.most == 2


async def test_a_long_pause_is_told_at_once_to_those_in_the_queue_too(
    server: ScriptedServer, http: VendorHttp, vendor: Vendor
) -> None:
    client = a_client(server, http, Limits(in_flight=1))
    vendor.script = answers(429, headers={"retry-after": "40"})
    outcomes = await asyncio.gather(*(read(client) for _ in range(5)), return_exceptions=True)
    assert [type(one) for one in outcomes] == [Unavailable] * 5
    assert all(isinstance(one, Unavailable) and 30 < (one.retry_after_s or 0) <= 40 for one in outcomes)
    assert len(server.calls("registrations")) == 1
    assert 30 < client.closed_for_s() <= 40


async def test_a_pause_that_begins_after_the_place_was_got_is_waited_for_if_the_deadline_allows(
    server: ScriptedServer, http: VendorHttp, crowd: Crowd
) -> None:
    gate = InMemoryGate()
    client = OpenSpecimenClient(openspecimen(server.url), http, gate, limits=Limits())
    for _ in range(2):
        crowd.let_go.release()
    await read(client)
    async with client.turn(2) as turn:
        await gate.remember_not_before(OPENSPECIMEN, 0.8)  # up to half of what is left
        assert await client.update_registration(1, {"id": 1}, deadline=turn) == FOUND
    async with client.turn(0.3) as turn:
        await gate.remember_not_before(OPENSPECIMEN, 0.25)
        with pytest.raises(Unavailable) as caught:
            await client.update_registration(1, {"id": 1}, deadline=turn)
    assert caught.value.code == "THROTTLED"
    assert 0 < (caught.value.retry_after_s or 0) <= 0.25
    assert len(server.calls("PUT")) == 1


async def test_a_place_is_not_held_through_a_pause(server: ScriptedServer, http: VendorHttp, vendor: Vendor) -> None:
    gate = InMemoryGate()
    client = OpenSpecimenClient(openspecimen(server.url), http, gate, limits=Limits(in_flight=1))
    await gate.remember_not_before(OPENSPECIMEN, 0.3)
    waiting = asyncio.create_task(read(client))
    await asyncio.sleep(0)
    async with asyncio.timeout(0.2):
        waiting.cancel()
        await asyncio.wait({waiting})
    vendor.script = answers(200, FOUND)
    assert await read(client) == FOUND
