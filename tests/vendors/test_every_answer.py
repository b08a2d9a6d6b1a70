"""Every answer and every fault at every call, over real sockets: the class of the effect protocol, and one send."""

import asyncio
import gzip
import logging
import socket
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from onboarding.errors import AnswerError, InDoubt, LeaseLost, NotYet, Refused, Unavailable
from onboarding.vendors import ClinicalOneClient, Deadline, InMemoryGate, OpenSpecimenClient, VendorHttp
from tests.vendors.scripted_server import Exchange, Script, ScriptedServer, answers, scripted
from tests.vendors.vendor_scripts import CLIENT_SECRET, PASSWORD, Vendor, clinical_one, openspecimen

STUDY = "1BC29B36F5D64B1B95F4BDBBCEA481BE"
ID = "0A1B2C3D4E5F67890123456789ABCDEF"
PERSON = "marker-person-4711"
M_SUBJECT = "marker-m-subject-4711"
CREDENTIAL = "marker-otp-4711"

OPENSPECIMEN_SHAPE = [{"code": "SOME_CODE", "message": PERSON}]
CLINICAL_ONE_SHAPE = {"errorData": {"errorCode": "C1-003", "errorMessage": PERSON, "details": {"who": PERSON}}}


class Clients:
    """Both clients on one server, fresh from the start: no token, no pause."""

    def __init__(self, url: str, http: VendorHttp, seconds: float, check: Callable[[], None] | None = None) -> None:
        self.openspecimen = OpenSpecimenClient(openspecimen(url), http, InMemoryGate())
        self.clinical_one = ClinicalOneClient(clinical_one(url), http, InMemoryGate())
        self.deadline = Deadline(seconds)
        self.check = check


@dataclass(frozen=True)
class Call:
    """A call, how the server sees it, and what it can come to."""

    name: str
    run: Callable[[Clients], Awaitable[object]]
    seen_as: str
    effect: bool
    shape: object


def read_registration(c: Clients) -> Awaitable[object]:
    return c.openspecimen.read_registration(1, deadline=c.deadline)


def update_registration(c: Clients) -> Awaitable[object]:
    body = {"id": 1, "participant": {"id": 2, "firstName": PERSON}}
    return c.openspecimen.update_registration(1, body, deadline=c.deadline, check=c.check)


def dispensation(c: Clients) -> Awaitable[object]:
    return c.clinical_one.dispensation(STUDY, "test", ID, deadline=c.deadline)


def history(c: Clients) -> Awaitable[object]:
    now = datetime.now(UTC)
    return c.clinical_one.dispensation_history(STUDY, "test", ID, ID, as_of=now, deadline=c.deadline)


def register_device(c: Clients) -> Awaitable[object]:
    body = {"inventoryId": ID, "mSubjectId": M_SUBJECT, "vendorCode": "XYZ"}
    return c.clinical_one.register_device(STUDY, "test", ID, body, deadline=c.deadline, check=c.check)


def access_code(c: Clients) -> Awaitable[object]:
    return c.clinical_one.reissue_access_code(STUDY, "test", ID, ID, M_SUBJECT, deadline=c.deadline, check=c.check)


def list_exceptions(c: Clients) -> Awaitable[object]:
    return c.clinical_one.list_exceptions(STUDY, "test", deadline=c.deadline)


def create_exception(c: Clients) -> Awaitable[object]:
    body = {"allCountries": True, "kitTypeSrcId": [ID], "visitDND": [{"visitSrcId": ID, "dnd": 2}]}
    return c.clinical_one.create_exception(STUDY, "test", body, deadline=c.deadline, check=c.check)


CALLS = [
    Call("read_registration", read_registration, "GET /openspecimen", False, OPENSPECIMEN_SHAPE),
    Call("update_registration", update_registration, "PUT /openspecimen", True, OPENSPECIMEN_SHAPE),
    Call("dispensation", dispensation, "GET /ec-ors-svc", False, CLINICAL_ONE_SHAPE),
    Call("history", history, "GET /ec-ors-svc", False, CLINICAL_ONE_SHAPE),
    Call("register_device", register_device, "POST /ec-ors-svc", True, CLINICAL_ONE_SHAPE),
    Call("access_code", access_code, "PUT /ec-ors-svc", True, CLINICAL_ONE_SHAPE),
    Call("list_exceptions", list_exceptions, "GET /ec-ors-svc", False, CLINICAL_ONE_SHAPE),
    Call("create_exception", create_exception, "POST /ec-ors-svc", True, CLINICAL_ONE_SHAPE),
]
each_call = pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
each_effect = pytest.mark.parametrize("call", [call for call in CALLS if call.effect], ids=lambda call: call.name)


async def outcome(
    call: Call, script: Script, http: VendorHttp, seconds: float = 10
) -> tuple[AnswerError, ScriptedServer]:
    """The error that the call ends with when the server does to it what the script says."""
    async with scripted(Vendor(script)) as server:
        clients = Clients(server.url, http, seconds)
        with pytest.raises(AnswerError) as caught:
            await call.run(clients)
        await clients.openspecimen.aclose()
        await clients.clinical_one.aclose()
    assert_nothing_is_shown(caught.value)
    return caught.value, server


def assert_nothing_is_shown(error: BaseException) -> None:
    shown = "".join(traceback.format_exception(error)) + str(error) + repr(error)
    for marker in ("marker-", "127.0.0.1", "/ec-ors-svc", "/openspecimen/"):
        assert marker not in shown, shown


def expected(call: Call, status: int, shaped: bool) -> type[AnswerError]:
    """The table of the effect protocol, said once more in other words."""
    if status == 429 or (not call.effect and not (shaped and 400 <= status < 500) and status != 401):
        return Unavailable
    if status == 401 or (shaped and 400 <= status < 500):
        return Refused
    return Unavailable if status == 503 and shaped else InDoubt


@each_call
@pytest.mark.parametrize(
    "status", [202, 301, 302, 307, 400, 401, 403, 404, 405, 409, 415, 422, 429, 500, 502, 503, 504]
)
async def test_every_status_in_and_out_of_shape(call: Call, status: int, http: VendorHttp) -> None:
    for body, content_type in (
        (call.shape, "application/json"),
        (f"<html>{PERSON}</html>".encode(), "text/html"),
        (b"", "text/plain"),
        ({"error": PERSON}, "application/json"),
    ):
        script = answers(status, body, content_type=content_type, headers={"location": f"/{PERSON}"})
        error, server = await outcome(call, script, http)
        shaped = body is call.shape
        assert type(error) is expected(call, status, shaped), (status, body)
        assert error.http_status == status
        assert len(server.calls(call.seen_as)) == (2 if status == 401 else 1)


@each_call
async def test_an_error_that_claims_success_is_not_believed(call: Call, http: VendorHttp) -> None:
    for body in (call.shape, f"<html>{PERSON}</html>".encode(), b"{", b'"' + PERSON.encode()):
        error, _ = await outcome(call, answers(200, body), http)
        assert type(error) is (InDoubt if call.effect else Unavailable)


async def drip(exchange: Exchange) -> None:
    await exchange.answer(200, b"{", declared=10_000)
    while True:
        await exchange.raw(b" ")
        await asyncio.sleep(0.01)


async def truncate(exchange: Exchange) -> None:
    await exchange.answer(200, b'{"id": 1', declared=1000)
    await exchange.close()


async def flood(exchange: Exchange) -> None:
    await exchange.answer(200, b"[" + b" " * 100_000, declared=10**9)


async def two_heads(exchange: Exchange) -> None:
    await exchange.raw(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}")
    await exchange.close()


@each_call
@pytest.mark.parametrize(
    ("script", "code"),
    [
        (Exchange.cut, "CUT"),
        (Exchange.close, "CUT"),
        (truncate, "TRUNCATED"),
        (flood, "OVERSIZED"),
        (two_heads, "ANSWER_NOT_HTTP"),
        (answers(200, gzip.compress(b'{"id": 1}'), headers={"content-encoding": "gzip"}), "COMPRESSED"),
    ],
)
async def test_every_fault_after_the_request_arrived(call: Call, script: Script, code: str, http: VendorHttp) -> None:
    error, server = await outcome(call, script, http)
    assert (type(error), error.code) == (InDoubt if call.effect else Unavailable, code)
    assert len(server.calls(call.seen_as)) == 1


@each_call
@pytest.mark.parametrize("script", [Exchange.until_client_leaves, drip])
async def test_every_answer_that_does_not_end_before_the_deadline(call: Call, script: Script, http: VendorHttp) -> None:
    error, server = await outcome(call, script, http, seconds=0.3)
    assert (type(error), error.code) == (InDoubt if call.effect else Unavailable, "DEADLINE_PASSED")
    assert len(server.calls(call.seen_as)) == 1


@each_call
async def test_every_call_to_a_server_that_is_not_there(call: Call, http: VendorHttp) -> None:
    with socket.socket() as not_listening:
        not_listening.bind(("127.0.0.1", 0))
        clients = Clients(f"http://127.0.0.1:{not_listening.getsockname()[1]}", http, 10)
        with pytest.raises(Unavailable) as caught:
            await call.run(clients)
    assert caught.value.code == "CONNECT_REFUSED"
    assert_nothing_is_shown(caught.value)


@each_call
async def test_every_call_to_a_server_that_goes_away_after_the_log_in(call: Call, http: VendorHttp) -> None:
    """The log-in has succeeded, then nobody listens: no byte of the call itself can have left."""
    log_in_server = scripted(Vendor())
    async with log_in_server as server:
        clients = Clients(server.url, http, 10)
        await clients.openspecimen.log_in(deadline=Deadline(10))
        await clients.clinical_one.log_in(deadline=Deadline(10))
    with pytest.raises(Unavailable) as caught:
        await call.run(clients)
    assert caught.value.code == "CONNECT_REFUSED"


@each_effect
async def test_every_effect_asks_the_lease_last_and_sends_nothing_without_it(call: Call, http: VendorHttp) -> None:
    def check() -> None:
        raise LeaseLost("taken over")

    async with scripted(Vendor()) as server:
        with pytest.raises(LeaseLost, match="taken over"):
            await call.run(Clients(server.url, http, 10, check))
        assert server.calls(call.seen_as.partition("/")[0] + "/ec-ors") == []
        assert server.calls("PUT") == []


@pytest.mark.parametrize(
    "call", [c for c in CALLS if c.name in ("register_device", "access_code")], ids=lambda c: c.name
)
async def test_a_device_that_is_not_dispensed_waits_with_the_call_named(call: Call, http: VendorHttp) -> None:
    body = {"errorData": {"errorMessage": "Device is not dispensed to the subject"}}
    error, _ = await outcome(call, answers(400, body), http)
    assert type(error) is NotYet


async def test_nothing_secret_and_nobody_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    scripts: list[Script] = [
        answers(200, {"id": 1, "otp": CREDENTIAL, "accessId": CREDENTIAL, "firstName": PERSON}),
        answers(400, OPENSPECIMEN_SHAPE),
        answers(500, CLINICAL_ONE_SHAPE),
        answers(401, PERSON.encode()),
        answers(302, headers={"location": f"http://127.0.0.1/{PERSON}", "set-cookie": f"x={PERSON}"}),
        Exchange.cut,
        truncate,
        two_heads,
    ]
    async with VendorHttp() as http:
        for script in scripts:
            async with scripted(Vendor(script)) as server:
                clients = Clients(server.url, http, 10)
                for call in CALLS:
                    await asyncio.gather(call.run(clients), return_exceptions=True)
                await clients.openspecimen.log_out(deadline=Deadline(10))
    logged = "\n".join(f"{record.getMessage()} {record.args} {record.__dict__}" for record in caplog.records)
    assert "vendor_answer" in logged
    assert "vendor_no_answer" in logged
    for marker in ("marker-", PASSWORD, CLIENT_SECRET, "/ec-ors-svc", "/rest/ng", STUDY):
        assert marker not in logged
