"""How a call goes out and what is noted of it, whichever vendor it is for."""

import logging
from collections.abc import AsyncIterator, Mapping

import pytest

from onboarding.errors import CLINICAL_ONE, InDoubt, LoginRefused, Refused, Unavailable
from onboarding.explanations import explain
from onboarding.vendors import Answer, Deadline, InMemoryGate, Kind, Limits, VendorHttp
from onboarding.vendors.calls import Request, VendorCalls, path_segment
from onboarding.vendors.tokens import Token, TokenKeeper
from tests.vendors.scripted_server import Exchange, ScriptedServer, answers, in_turn, scripted

LOGGER = "onboarding.vendors"
CREDENTIALS = ("https://vendor.example", "client", "secret")


class Login:
    """Hands out tokens that are numbered."""

    def __init__(self) -> None:
        self.count = 0

    async def __call__(self) -> Token:
        self.count += 1
        return Token(f"token-{self.count}")


def bearer(token: Token) -> Mapping[str, str]:
    return {"authorization": f"Bearer {token.value}"}


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with scripted(answers(200, {"id": 1})) as running:
        yield running


@pytest.fixture
def gate() -> InMemoryGate:
    return InMemoryGate()


@pytest.fixture
def calls(http: VendorHttp, gate: InMemoryGate) -> VendorCalls:
    return VendorCalls(CLINICAL_ONE, http, gate, credentials=CREDENTIALS, retry_after_ceiling_s=50.0)


async def send(
    calls: VendorCalls, server: ScriptedServer, kind: Kind = Kind.EFFECT, login: Login | None = None, **how: object
) -> Answer:
    request = Request("work", kind, "PUT", f"{server.url}/kits/1", **how)  # type: ignore[arg-type]
    keeper = TokenKeeper(CLINICAL_ONE, login or Login())
    return await calls.authorised(request, keeper, bearer, deadline=Deadline(20))


def noted(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    return [(record.levelno, record.getMessage()) for record in caplog.records if record.name == LOGGER]


async def test_a_call_takes_its_body_its_form_and_its_token_along(calls: VendorCalls, server: ScriptedServer) -> None:
    await send(calls, server, body={"a": 1})
    await send(calls, server, form={"a": "1"})
    first, second = server.requests
    assert (first.call, first.body, first.headers["authorization"]) == ("PUT /kits/1", b'{"a":1}', "Bearer token-1")
    assert second.body == b"a=1"


async def test_after_a_401_the_request_goes_out_once_more_with_a_new_token(
    calls: VendorCalls, server: ScriptedServer
) -> None:
    login = Login()
    server.script = in_turn(answers(401, b"<html>"), answers(200, {"id": 2}))
    answer = await send(calls, server, login=login, body={"a": 1})
    assert (answer.status, answer.body) == (200, b'{"id": 2}')
    assert [request.headers["authorization"] for request in server.requests] == ["Bearer token-1", "Bearer token-2"]
    assert [request.body for request in server.requests] == [b'{"a":1}'] * 2
    assert login.count == 2


async def test_a_second_401_is_a_refusal_and_nothing_goes_out_again(calls: VendorCalls, server: ScriptedServer) -> None:
    server.script = answers(401)
    with pytest.raises(Refused) as caught:
        await send(calls, server)
    assert (caught.value.code, len(server.requests)) == ("NOT_AUTHORISED", 2)


async def test_an_error_is_read_in_the_vendors_own_form(calls: VendorCalls, server: ScriptedServer) -> None:
    server.script = answers(404, {"errorData": {"errorCode": "C1-4", "errorMessage": "Subject not found"}})
    for kind in (Kind.EFFECT, Kind.READ):
        with pytest.raises(Refused) as caught:
            await send(calls, server, kind)
        assert (caught.value.system, caught.value.code) == (CLINICAL_ONE, "SUBJECT_NOT_FOUND")
        assert (caught.value.http_status, caught.value.vendor_text) == (404, "C1-4: Subject not found")


async def test_an_effect_goes_out_in_the_turn_it_waited_for(calls: VendorCalls, server: ScriptedServer) -> None:
    server.script = in_turn(answers(401), answers(200, {"id": 3}))
    request = Request("work", Kind.EFFECT, "PUT", f"{server.url}/kits/1", body={"a": 1})
    asked: list[int] = []
    async with calls.turn(20) as turn:
        answer = await calls.authorised(
            request,
            TokenKeeper(CLINICAL_ONE, Login()),
            bearer,
            deadline=turn,
            check=lambda: asked.append(len(server.requests)),
        )
    assert (answer.body, asked) == (b'{"id": 3}', [0, 1])
    assert [request.headers["authorization"] for request in server.requests] == ["Bearer token-1", "Bearer token-2"]


async def test_an_answer_larger_than_its_call_allows_is_not_read(calls: VendorCalls, server: ScriptedServer) -> None:
    with pytest.raises(InDoubt) as caught:
        await send(calls, server, max_bytes=5)
    assert caught.value.code == "OVERSIZED"
    assert (await send(calls, server, max_bytes=9)).status == 200


async def test_what_forbids_the_request_right_before_its_first_byte_keeps_it_back(
    calls: VendorCalls, server: ScriptedServer
) -> None:
    def forbid() -> None:
        raise LookupError("the lease is gone")

    keeper = TokenKeeper(CLINICAL_ONE, Login())
    for method in ("GET", "PUT"):
        request = Request("work", Kind.EFFECT, method, f"{server.url}/kits/1")
        with pytest.raises(LookupError):
            await calls.authorised(request, keeper, bearer, deadline=Deadline(20), check=forbid)
    server.script = in_turn(answers(401), answers(200, {}))
    asked: list[int] = []
    await calls.authorised(
        Request("work", Kind.EFFECT, "PUT", f"{server.url}/kits/1"),
        keeper,
        bearer,
        deadline=Deadline(20),
        check=lambda: asked.append(len(server.requests)),
    )
    assert asked == [0, 1], "both times, before it went out"


async def test_a_deadline_holds_for_the_request(calls: VendorCalls, server: ScriptedServer) -> None:
    async def never(exchange: Exchange) -> None:
        await exchange.until_client_leaves()

    server.script = never
    request = Request("work", Kind.EFFECT, "PUT", f"{server.url}/kits/1")
    with pytest.raises(InDoubt) as caught:
        await calls.authorised(request, TokenKeeper(CLINICAL_ONE, Login()), bearer, deadline=Deadline(0.2))
    assert caught.value.code == "DEADLINE_PASSED"


async def test_an_effect_whose_time_is_over_before_its_turn_is_not_begun(
    calls: VendorCalls, server: ScriptedServer
) -> None:
    login = Login()
    request = Request("work", Kind.EFFECT, "PUT", f"{server.url}/kits/1")
    with pytest.raises(Unavailable) as caught:
        await calls.authorised(request, TokenKeeper(CLINICAL_ONE, login), bearer, deadline=Deadline(0))
    assert (caught.value.system, caught.value.code) == (CLINICAL_ONE, "DEADLINE_PASSED")
    assert caught.value.what == explain("DEADLINE_PASSED")
    assert (login.count, server.requests) == (0, [])


@pytest.mark.parametrize(
    ("headers", "low", "high"), [({"retry-after": "40"}, 39, 40), ({}, 4, 5), ({"retry-after": "4000"}, 49, 50)]
)
async def test_a_429_makes_everybody_pause_as_long_as_it_says_up_to_the_ceiling(
    calls: VendorCalls, gate: InMemoryGate, server: ScriptedServer, headers: dict[str, str], low: float, high: float
) -> None:
    server.script = answers(429, {}, headers=headers)
    with pytest.raises(Unavailable) as caught:
        await send(calls, server)
    assert caught.value.code == "THROTTLED"
    assert low < await gate.not_before(CLINICAL_ONE) <= high


async def test_nothing_goes_out_during_a_pause_and_its_rest_is_told(
    calls: VendorCalls, gate: InMemoryGate, server: ScriptedServer
) -> None:
    await gate.remember_not_before(CLINICAL_ONE, 40)
    with pytest.raises(Unavailable) as caught:
        await send(calls, server)
    assert (caught.value.system, caught.value.code, caught.value.what) == (
        CLINICAL_ONE,
        "THROTTLED",
        explain("THROTTLED"),
    )
    assert 39 < (caught.value.retry_after_s or 0) <= 40
    assert server.requests == []


async def test_every_answer_is_noted_by_its_call_status_and_flaw_and_by_nothing_else(
    calls: VendorCalls, server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger=LOGGER)
    server.script = in_turn(answers(299, {}), answers(300, {}), answers(404, {}))
    for _ in range(3):
        with pytest.raises(InDoubt):
            await send(calls, server)
    server.script = answers(200, {"id": "Miller"})
    await send(calls, server)
    with pytest.raises(InDoubt):
        await send(calls, server, max_bytes=5)
    told = "vendor_answer system='Clinical One' call=work"
    assert noted(caplog) == [
        (logging.DEBUG, f"{told} status=299 flaw=None"),
        (logging.INFO, f"{told} status=300 flaw=None"),
        (logging.INFO, f"{told} status=404 flaw=None"),
        (logging.DEBUG, f"{told} status=200 flaw=None"),
        (logging.INFO, f"{told} status=200 flaw=oversized"),
    ]


async def test_the_lack_of_an_answer_is_noted_with_what_may_have_left(
    calls: VendorCalls, server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def cut(exchange: Exchange) -> None:
        await exchange.cut()

    caplog.set_level(logging.DEBUG, logger=LOGGER)
    server.script = cut
    with pytest.raises(InDoubt):
        await send(calls, server)
    told = "vendor_no_answer system='Clinical One' call=work"
    assert noted(caplog) == [(logging.INFO, f"{told} reason=cut may_have_left=True")]


async def test_a_system_that_looks_dead_is_noted_with_why_and_for_how_long(
    http: VendorHttp, gate: InMemoryGate, server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    limits = Limits(failures=2, first_pause_s=20)
    calls = VendorCalls(CLINICAL_ONE, http, gate, credentials=CREDENTIALS, limits=limits)
    server.script = answers(502, b"<html>")
    for _ in range(2):
        assert [message for level, message in noted(caplog) if level == logging.WARNING] == []
        with pytest.raises(InDoubt):
            await send(calls, server)
    [message] = [message for level, message in noted(caplog) if level == logging.WARNING]
    told, pause_s = message.rsplit("=", 1)
    assert told == "vendor_down system='Clinical One' code=SERVER_ERROR pause_s"
    assert 17 < float(pause_s) <= 22


async def test_a_failure_counts_only_in_the_state_in_which_its_place_was_given(
    http: VendorHttp, gate: InMemoryGate, server: ScriptedServer
) -> None:
    calls = VendorCalls(CLINICAL_ONE, http, gate, credentials=CREDENTIALS, limits=Limits(failures=1, first_pause_s=20))
    request = Request("work", Kind.EFFECT, "PUT", f"{server.url}/kits/1")
    keeper = TokenKeeper(CLINICAL_ONE, Login())
    breaker = calls.pacing.breaker
    server.script = answers(502, b"<html>")
    async with calls.turn(20) as turn:
        assert breaker.failed(breaker.stamp)
        breaker.succeeded()
        with pytest.raises(InDoubt):
            await calls.authorised(request, keeper, bearer, deadline=turn)
    assert calls.pacing.closed_for_s() == 0, "the system was alive since"
    async with calls.turn(20) as turn:
        with pytest.raises(InDoubt):
            await calls.authorised(request, keeper, bearer, deadline=turn)
    assert calls.pacing.closed_for_s() > 0


async def test_refused_credentials_are_remembered_with_all_that_was_told(
    calls: VendorCalls, http: VendorHttp, gate: InMemoryGate
) -> None:
    assert calls.credentials_digest == gate.credentials_digest(CLINICAL_ONE, *CREDENTIALS)
    await calls.refuse_remembered_login()
    error = await calls.login_refused("AUTH_USER_LOCKED", Answer(423), "Miller is locked")
    assert (error.system, error.code, error.http_status) == (CLINICAL_ONE, "AUTH_USER_LOCKED", 423)
    assert (error.what, error.vendor_text) == (explain("AUTH_USER_LOCKED"), "Miller is locked")
    with pytest.raises(LoginRefused) as caught:
        await calls.refuse_remembered_login()
    assert (caught.value.system, caught.value.code) == (CLINICAL_ONE, "AUTH_USER_LOCKED")
    assert caught.value.what == explain("AUTH_USER_LOCKED")
    await VendorCalls(CLINICAL_ONE, http, gate, credentials=(*CREDENTIALS[:2], "new")).refuse_remembered_login()
    await VendorCalls("Another", http, gate, credentials=CREDENTIALS).refuse_remembered_login()


class BrokenGate(InMemoryGate):
    """A gate that can be read and not written."""

    async def remember_login_refused(self, system: str, digest: str, code: str) -> None:
        raise OSError("disk full")


async def test_a_gate_that_cannot_be_written_is_noted_and_hides_nothing(
    http: VendorHttp, caplog: pytest.LogCaptureFixture
) -> None:
    calls = VendorCalls(CLINICAL_ONE, http, BrokenGate(), credentials=CREDENTIALS)
    assert (await calls.login_refused("CODE", Answer(401), None)).code == "CODE"
    assert noted(caplog) == [(logging.ERROR, "gate_not_written system='Clinical One' error=OSError")]


@pytest.mark.parametrize(
    ("text", "segment"), [("a b", "a%20b"), ("X", "X"), ("a/b", "a%2Fb"), ("..a", "..a"), ("é", "%C3%A9")]
)
def test_a_segment_of_a_path_stays_one(text: str, segment: str) -> None:
    assert path_segment(text) == segment


@pytest.mark.parametrize("text", ["", ".", "..", "..."])
def test_a_segment_that_would_lead_elsewhere_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^a path segment may be neither empty nor all dots$"):
        path_segment(text)
