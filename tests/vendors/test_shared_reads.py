"""The exceptions of a study are listed once for all who ask, and as fresh as each of them needs."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from onboarding.clocks import boot_seconds
from onboarding.errors import InDoubt, Refused, Unavailable
from onboarding.vendors import ClinicalOneClient, Deadline, ExceptionList, InMemoryGate, VendorHttp
from onboarding.vendors.shared_reads import KEPT
from tests.vendors.scripted_server import Exchange, Script, ScriptedServer, answers, in_turn, scripted
from tests.vendors.vendor_scripts import Vendor, clinical_one

STUDY = "1BC29B36F5D64B1B95F4BDBBCEA481BE"
SOON_S = 10.0
BODY = {"allCountries": True, "kitTypeSrcId": [], "visitDND": []}
ERROR = {"errorData": {"errorCode": "X_1", "errorMessage": "Invalid study ID or version"}}


def listing(*numbers: int, countries: int = 0) -> dict[str, Any]:
    entries = [
        {"dndExceptionId": f"{number:032X}", "countries": [f"{countries + number:02d}"], **BODY} for number in numbers
    ]
    return {"dndExceptions": entries}


def lists(*numbers: int) -> Script:
    return answers(200, listing(*numbers))


class Held:
    """A script that says when a request has come, and answers when it is told to."""

    def __init__(self, then: Script) -> None:
        self.arrived, self.let_go = asyncio.Event(), asyncio.Event()
        self._then = then

    async def __call__(self, exchange: Exchange) -> None:
        self.arrived.set()
        await self.let_go.wait()
        await self._then(exchange)

    async def wait(self) -> None:
        async with asyncio.timeout(SOON_S):
            await self.arrived.wait()


@pytest.fixture
def vendor() -> Vendor:
    return Vendor(script=lists(1))


@pytest.fixture
async def server(vendor: Vendor) -> AsyncIterator[ScriptedServer]:
    async with scripted(vendor) as running:
        yield running


@pytest.fixture
async def client(server: ScriptedServer, http: VendorHttp) -> AsyncIterator[ClinicalOneClient]:
    made = ClinicalOneClient(clinical_one(server.url), http, InMemoryGate())
    await made.log_in(deadline=Deadline(SOON_S))
    yield made
    await made.aclose()


async def since(client: ClinicalOneClient, moment: float, study: str = STUDY) -> ExceptionList:
    return await client.exceptions_since(study, "test", moment, timeout_s=SOON_S)


async def fresh(client: ClinicalOneClient) -> ExceptionList:
    return await since(client, boot_seconds())


async def test_all_who_ask_at_once_share_one_request(client: ClinicalOneClient, server: ScriptedServer) -> None:
    found = await asyncio.gather(*(fresh(client) for _ in range(50)))
    assert {one.ids for one in found} == {frozenset({f"{1:032X}"})}
    assert len(server.calls("dndexception")) == 1


async def test_a_list_serves_whoever_does_not_need_a_later_one(
    client: ClinicalOneClient, server: ScriptedServer
) -> None:
    before = boot_seconds()
    await fresh(client)
    await since(client, before)
    assert len(server.calls("dndexception")) == 1
    await fresh(client)
    assert len(server.calls("dndexception")) == 2


async def test_a_list_under_way_does_not_serve_who_needs_one_that_is_begun_later(
    client: ClinicalOneClient, vendor: Vendor, server: ScriptedServer
) -> None:
    held = Held(lists(1))
    vendor.script = in_turn(held, lists(1, 2))
    first = asyncio.create_task(fresh(client))
    await held.wait()
    later = [asyncio.create_task(fresh(client)) for _ in range(20)]
    await asyncio.sleep(0)
    held.let_go.set()
    assert len(await first) == 1
    assert {len(one) for one in await asyncio.gather(*later)} == {2}
    assert len(server.calls("dndexception")) == 2, "one more serves all of them"


async def test_a_failed_list_fails_each_with_its_own_error_and_is_not_kept(
    client: ClinicalOneClient, vendor: Vendor, server: ScriptedServer
) -> None:
    vendor.script = in_turn(answers(503), lists(1))
    outcomes = await asyncio.gather(*(fresh(client) for _ in range(5)), return_exceptions=True)
    assert {type(one) for one in outcomes} == {Unavailable}
    assert len({id(one) for one in outcomes}) == 5
    assert len(await since(client, 0)) == 1
    assert len(server.calls("dndexception")) == 2


async def test_a_refused_list_is_refused_to_each(client: ClinicalOneClient, vendor: Vendor) -> None:
    vendor.script = answers(400, ERROR)
    outcomes = await asyncio.gather(*(fresh(client) for _ in range(3)), return_exceptions=True)
    assert {type(one) for one in outcomes} == {Refused}
    assert len({id(one) for one in outcomes}) == 3


async def test_a_caller_that_is_cancelled_takes_nothing_from_the_others(
    client: ClinicalOneClient, vendor: Vendor, server: ScriptedServer
) -> None:
    vendor.script = held = Held(lists(1))
    first, second = asyncio.create_task(fresh(client)), asyncio.create_task(fresh(client))
    await held.wait()
    first.cancel()
    await asyncio.wait({first})
    held.let_go.set()
    assert len(await second) == 1
    assert len(server.calls("dndexception")) == 1


@pytest.mark.parametrize("answer", [answers(200, {"id": f"{2:032X}"}), Exchange.cut], ids=["created", "in_doubt"])
async def test_what_was_listed_before_a_creation_of_ours_serves_nobody_any_more(
    client: ClinicalOneClient, vendor: Vendor, server: ScriptedServer, answer: Script
) -> None:
    await fresh(client)
    vendor.script = in_turn(answer, lists(1, 2))
    try:
        await client.create_exception(STUDY, "test", BODY, deadline=Deadline(SOON_S))
    except InDoubt:
        assert answer is Exchange.cut
    assert len(await since(client, 0)) == 2


async def test_a_list_under_way_during_a_creation_of_ours_serves_nobody(
    client: ClinicalOneClient, vendor: Vendor, server: ScriptedServer
) -> None:
    held = Held(lists(1))
    vendor.script = in_turn(held, answers(200, {"id": f"{2:032X}"}), lists(1, 2))
    asking = asyncio.create_task(since(client, 0))
    await held.wait()
    await client.create_exception(STUDY, "test", BODY, deadline=Deadline(SOON_S))
    held.let_go.set()
    assert len(await asking) == 2


async def test_only_the_last_studies_are_kept(client: ClinicalOneClient, server: ScriptedServer) -> None:
    studies = [f"{number:032X}" for number in range(KEPT + 1)]
    for study in studies:
        await since(client, 0, study)
    await since(client, 0, studies[-1])
    assert len(server.calls("dndexception")) == KEPT + 1
    await since(client, 0, studies[0])
    assert len(server.calls("dndexception")) == KEPT + 2


async def test_closing_ends_the_wait(client: ClinicalOneClient, vendor: Vendor) -> None:
    vendor.script = held = Held(lists(1))
    asking = asyncio.create_task(fresh(client))
    await held.wait()
    await client.aclose()
    with pytest.raises(Unavailable) as caught:
        await asking
    assert caught.value.code == "CLIENT_CLOSED"


async def test_equal_content_is_found_by_the_lowest_id_first(client: ClinicalOneClient, vendor: Vendor) -> None:
    entries = [
        {"dndExceptionId": f"{number:032X}", "countries": [country], **BODY}
        for number, country in ((3, "US"), (1, "us"), (2, "DE"))
    ]
    vendor.script = answers(200, {"dndExceptions": entries})
    found = await fresh(client)
    wanted = next(iter(found)).content
    assert found.equal_to(wanted) == [f"{1:032X}", f"{3:032X}"]
    assert found.equal_to({**wanted, "countries": ["FR"]}) == []
