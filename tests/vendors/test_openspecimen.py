"""The OpenSpecimen client against a scripted server."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from onboarding.errors import OPENSPECIMEN, InDoubt, LeaseLost, LoginRefused, Refused, Unavailable
from onboarding.vendors import Deadline, InMemoryGate, OpenSpecimenClient, VendorHttp
from tests.vendors.scripted_server import Exchange, Script, ScriptedServer, answers, in_turn, scripted
from tests.vendors.vendor_scripts import OS_TOKEN, PASSWORD, Vendor, openspecimen, when_all_arrived

# The vendor's documented example.
BODY = {
    "participant": {"id": 2},
    "id": 1,
    "cpId": 3,
    "ppid": "ASCI123",
    "activityStatus": "Active",
    "registrationDate": "2014-04-21",
    "externalSubjectId": "TEST_001",
}
ANSWER = BODY | {"registrationDate": 1398031200000}
PAGE_401 = answers(401, b"<html>You must supply valid credentials</html>", content_type="text/html")
WRONG_PASSWORD = answers(400, [{"code": "AUTH_INVALID_CREDENTIALS", "message": "Username or password is incorrect."}])


@pytest.fixture
def vendor() -> Vendor:
    return Vendor(answers(200, ANSWER))


@pytest.fixture
async def server(vendor: Vendor) -> AsyncIterator[ScriptedServer]:
    async with scripted(vendor) as running:
        yield running


@pytest.fixture
def gate() -> InMemoryGate:
    return InMemoryGate()


@pytest.fixture
async def client(server: ScriptedServer, http: VendorHttp, gate: InMemoryGate) -> AsyncIterator[OpenSpecimenClient]:
    made = OpenSpecimenClient(openspecimen(server.url), http, gate)
    yield made
    await made.aclose()


async def read(client: OpenSpecimenClient, seconds: float = 10) -> dict[str, object]:
    return await client.read_registration(1, deadline=Deadline(seconds))


async def update(client: OpenSpecimenClient, seconds: float = 10) -> dict[str, object]:
    return await client.update_registration(1, BODY, deadline=Deadline(seconds))


async def test_the_documented_update_goes_out_as_documented(client: OpenSpecimenClient, server: ScriptedServer) -> None:
    assert await update(client) == ANSWER
    log_in, put = server.requests
    assert log_in.call == "POST /openspecimen/rest/ng/sessions"
    assert json.loads(log_in.body) == {
        "loginName": "integration",
        "password": PASSWORD,
        "domainName": "openspecimen",
    }
    assert put.call == "PUT /openspecimen/rest/ng/collection-protocol-registrations/1"
    assert json.loads(put.body) == BODY
    assert put.headers["x-os-api-token"] == f"{OS_TOKEN}-1"


async def test_a_registration_is_read(client: OpenSpecimenClient, server: ScriptedServer) -> None:
    assert await read(client) == ANSWER
    assert server.requests[-1].call == "GET /openspecimen/rest/ng/collection-protocol-registrations/1"


async def test_one_session_serves_many_calls(client: OpenSpecimenClient, vendor: Vendor) -> None:
    for _ in range(3):
        await read(client)
    assert vendor.log_ins == 1


@pytest.mark.parametrize("registration_id", ["1", 1])
async def test_the_id_of_the_answer_may_be_text(
    client: OpenSpecimenClient, vendor: Vendor, registration_id: object
) -> None:
    vendor.script = answers(200, {"id": registration_id})
    assert await update(client) == {"id": registration_id}


@pytest.mark.parametrize("body", [{"id": 2}, {}, [], None, b"", b"<html>", "1", [{"code": "X", "message": ""}]])
async def test_an_answer_that_is_not_this_registration_leaves_an_update_in_doubt(
    client: OpenSpecimenClient, vendor: Vendor, body: object
) -> None:
    vendor.script = answers(200, body)
    with pytest.raises(InDoubt):
        await update(client)
    with pytest.raises(Unavailable):
        await read(client)


@pytest.mark.parametrize(
    ("status", "code"),
    [(404, "CPR_M_NOT_FOUND"), (404, "CPR_NOT_FOUND"), (400, "CPR_M_NOT_FOUND"), (400, "CPR_NOT_FOUND")],
)
async def test_a_missing_registration_is_refused_in_either_column(
    client: OpenSpecimenClient, vendor: Vendor, status: int, code: str
) -> None:
    vendor.script = answers(status, [{"code": code, "message": "Participant 1 does not exist."}])
    for call in (read, update):
        with pytest.raises(Refused) as caught:
            await call(client)
        assert (caught.value.code, caught.value.http_status) == (code, status)


async def test_a_401_is_followed_by_one_log_in_and_one_replay(client: OpenSpecimenClient, vendor: Vendor) -> None:
    vendor.script = in_turn(PAGE_401, answers(200, ANSWER))
    assert await update(client) == ANSWER
    assert vendor.log_ins == 2


@pytest.mark.parametrize("body", [b"<html>", [{"code": "RBAC_ACCESS_DENIED", "message": "no right"}]])
async def test_a_second_401_is_a_refusal(
    client: OpenSpecimenClient, vendor: Vendor, server: ScriptedServer, body: object
) -> None:
    vendor.script = answers(401, body)
    with pytest.raises(Refused) as caught:
        await update(client)
    assert caught.value.code == ("NOT_AUTHORISED" if body == b"<html>" else "RBAC_ACCESS_DENIED")
    assert not isinstance(caught.value, LoginRefused)
    assert (vendor.log_ins, len(server.calls("PUT"))) == (2, 2)


async def test_the_check_comes_before_the_replay_too(
    client: OpenSpecimenClient, vendor: Vendor, server: ScriptedServer
) -> None:
    checks = 0

    def check() -> None:
        nonlocal checks
        checks += 1
        if checks == 2:
            raise LeaseLost("taken over")

    vendor.script = PAGE_401
    with pytest.raises(LeaseLost):
        await client.update_registration(1, BODY, deadline=Deadline(10), check=check)
    assert len(server.calls("PUT")) == 1


async def test_a_replay_that_is_cut_is_in_doubt(client: OpenSpecimenClient, vendor: Vendor) -> None:
    vendor.script = in_turn(PAGE_401, Exchange.cut)
    with pytest.raises(InDoubt) as caught:
        await update(client)
    assert caught.value.code == "CUT"


@pytest.mark.parametrize(
    ("log_in", "error"), [(answers(503), Unavailable), (WRONG_PASSWORD, LoginRefused), (Exchange.cut, Unavailable)]
)
async def test_a_failed_log_in_after_a_401_means_not_applied(
    client: OpenSpecimenClient, vendor: Vendor, log_in: Script, error: type[Exception]
) -> None:
    await read(client)
    vendor.script, vendor.log_in = PAGE_401, log_in
    with pytest.raises(error) as caught:
        await update(client)
    assert type(caught.value) is error


async def test_concurrent_401s_lead_to_one_log_in(client: OpenSpecimenClient, vendor: Vendor) -> None:
    await read(client)

    async def accept_the_second_token(exchange: Exchange) -> None:
        accepted = exchange.request.headers["x-os-api-token"].endswith("-2")
        await (answers(200, ANSWER) if accepted else PAGE_401)(exchange)

    vendor.script = when_all_arrived(20, accept_the_second_token)
    await asyncio.gather(*(update(client) for _ in range(20)))
    assert vendor.log_ins == 2


async def test_concurrent_first_calls_log_in_once(client: OpenSpecimenClient, vendor: Vendor) -> None:
    await asyncio.gather(*(read(client) for _ in range(20)))
    assert vendor.log_ins == 1


@pytest.mark.parametrize(
    "code", ["AUTH_INVALID_CREDENTIALS", "AUTH_USER_LOCKED", "AUTH_PASSWD_EXPIRED", "AUTH_NA_IP_ADDRESS"]
)
async def test_a_refused_log_in_is_never_tried_again_by_whatever_client(
    server: ScriptedServer, vendor: Vendor, http: VendorHttp, gate: InMemoryGate, code: str
) -> None:
    vendor.log_in = answers(400, [{"code": code, "message": "no"}])
    one, another = (OpenSpecimenClient(openspecimen(server.url), http, gate) for _ in range(2))
    for client in (one, one, another):
        with pytest.raises(LoginRefused) as caught:
            await update(client)
        assert caught.value.code == code
    assert [request.call for request in server.requests] == ["POST /openspecimen/rest/ng/sessions"]


async def test_another_password_may_log_in_again(
    client: OpenSpecimenClient, vendor: Vendor, server: ScriptedServer, http: VendorHttp, gate: InMemoryGate
) -> None:
    vendor.log_in = WRONG_PASSWORD
    with pytest.raises(LoginRefused):
        await read(client)
    vendor.log_in = None
    assert await read(OpenSpecimenClient(openspecimen(server.url, "another"), http, gate)) == ANSWER


@pytest.mark.parametrize("body", [{"resetPasswordToken": "marker"}, {"token": None, "resetPasswordToken": "marker"}])
async def test_a_200_that_asks_for_a_new_password_is_a_refused_log_in(
    client: OpenSpecimenClient, vendor: Vendor, body: object
) -> None:
    vendor.log_in = answers(200, body)
    for _ in range(2):
        with pytest.raises(LoginRefused) as caught:
            await read(client)
        assert caught.value.code == "PASSWORD_RESET_REQUIRED"
    assert vendor.log_ins == 1


async def test_a_401_to_the_log_in_itself_is_a_refused_log_in(client: OpenSpecimenClient, vendor: Vendor) -> None:
    vendor.log_in = PAGE_401
    for _ in range(2):
        with pytest.raises(LoginRefused):
            await read(client)
    assert vendor.log_ins == 1


@pytest.mark.parametrize(
    "log_in",
    [
        answers(500, [{"code": "COMMON_SERVER_ERROR", "message": "x"}]),
        answers(502, b"<html>"),
        answers(403, b"<html>a firewall</html>"),
        answers(302, headers={"location": "/login"}),
        answers(200, b"<html>"),
        answers(200, {}),
        answers(200, {"token": "a b"}),
        answers(200, b""),
        answers(400, [{"code": "AUTH_SYSTEM_LOCKDOWN", "message": "maintenance"}]),
        Exchange.cut,
    ],
)
async def test_a_log_in_that_fails_otherwise_is_tried_again_later(
    client: OpenSpecimenClient, vendor: Vendor, server: ScriptedServer, log_in: Script
) -> None:
    vendor.log_in = log_in
    for _ in range(2):
        with pytest.raises(Unavailable):
            await update(client)
    vendor.log_in = None
    assert await update(client) == ANSWER
    assert (vendor.log_ins, len(server.calls("PUT"))) == (3, 1)


async def test_a_log_in_that_hangs_leaves_the_caller_at_its_deadline_with_nothing_sent(
    client: OpenSpecimenClient, vendor: Vendor, server: ScriptedServer
) -> None:
    vendor.log_in = Exchange.until_client_leaves
    with pytest.raises(Unavailable) as caught:
        await update(client, seconds=0.1)
    assert caught.value.code == "DEADLINE_PASSED"
    assert server.calls("PUT") == []
    await client.aclose()


async def test_a_log_in_has_a_deadline_of_its_own(http: VendorHttp, gate: InMemoryGate) -> None:
    async with scripted(Vendor(log_in=Exchange.until_client_leaves)) as server:
        client = OpenSpecimenClient(openspecimen(server.url), http, gate, login_timeout_s=0.1)
        with pytest.raises(Unavailable):
            await read(client)
        async with asyncio.timeout(10):
            await server.closed_by_client.wait()


async def test_a_429_makes_everybody_wait_and_nothing_is_sent_meanwhile(
    client: OpenSpecimenClient, vendor: Vendor, server: ScriptedServer, gate: InMemoryGate
) -> None:
    vendor.script = answers(429, b"slow down", headers={"retry-after": "40"})
    with pytest.raises(Unavailable) as caught:
        await update(client)
    assert (caught.value.code, caught.value.retry_after_s) == ("THROTTLED", 40)
    with pytest.raises(Unavailable) as caught:
        await read(client)
    assert caught.value.code == "THROTTLED"
    assert 30 < (caught.value.retry_after_s or 0) <= 40
    assert len(server.requests) == 2
    assert 30 < await gate.not_before(OPENSPECIMEN) <= 40


async def test_a_429_to_a_log_in_makes_everybody_wait_and_is_no_refusal(
    client: OpenSpecimenClient, vendor: Vendor, gate: InMemoryGate
) -> None:
    vendor.log_in = answers(429, headers={"retry-after": "40"})
    for _ in range(2):
        with pytest.raises(Unavailable):
            await read(client)
    assert vendor.log_ins == 1
    assert 30 < await gate.not_before(OPENSPECIMEN) <= 40


async def test_a_429_that_does_not_say_how_long_makes_everybody_wait_a_little(
    client: OpenSpecimenClient, vendor: Vendor, gate: InMemoryGate
) -> None:
    vendor.script = answers(429)
    with pytest.raises(Unavailable):
        await read(client)
    assert 0 < await gate.not_before(OPENSPECIMEN) <= 5


class BrokenGate(InMemoryGate):
    """A gate that can be read and not written."""

    async def remember_login_refused(self, system: str, digest: str, code: str) -> None:
        raise OSError("disk full")

    async def remember_not_before(self, system: str, seconds: float) -> None:
        raise OSError("disk full")


async def test_a_gate_that_cannot_be_written_does_not_hide_the_answer(
    server: ScriptedServer, vendor: Vendor, http: VendorHttp, caplog: pytest.LogCaptureFixture
) -> None:
    client = OpenSpecimenClient(openspecimen(server.url), http, BrokenGate())
    vendor.script = answers(429)
    with pytest.raises(Unavailable):
        await update(client)
    vendor.log_in = WRONG_PASSWORD
    with pytest.raises(LoginRefused):
        await read(OpenSpecimenClient(openspecimen(server.url), http, BrokenGate()))
    assert caplog.text.count("gate_not_written") == 2


async def test_logging_out_ends_the_session_and_never_fails(
    client: OpenSpecimenClient, vendor: Vendor, server: ScriptedServer
) -> None:
    await client.log_out(deadline=Deadline(10))
    assert server.requests == []
    await read(client)
    vendor.script = Exchange.cut
    await client.log_out(deadline=Deadline(10))
    assert server.requests[-1].call == "DELETE /openspecimen/rest/ng/sessions"
    assert server.requests[-1].headers["x-os-api-token"] == f"{OS_TOKEN}-1"
    await client.log_out(deadline=Deadline(10))
    assert len(server.requests) == 3


async def test_logging_in_changes_nothing_else(client: OpenSpecimenClient, server: ScriptedServer) -> None:
    await client.log_in(deadline=Deadline(10))
    assert [request.method for request in server.requests] == ["POST"]
