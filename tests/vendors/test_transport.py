"""Every way in which a connection fails, over real sockets: what is known of the request's bytes, and one send only."""

import asyncio
import contextlib
import gzip
import logging
import socket
import time
from decimal import Decimal

import pytest

from onboarding.errors import LeaseLost
from onboarding.vendors import Answer, Deadline, NoAnswer, VendorHttp, Wire
from onboarding.vendors.transport import json_bytes
from tests.vendors.scripted_server import Exchange, answers, in_turn, scripted

BODY = {"participant": {"id": 2}}


def a_wire(seconds: float = 10, **how: object) -> Wire:
    return Wire(Deadline(seconds), **how)  # type: ignore[arg-type]


async def no_answer(http: VendorHttp, url: str, wire: Wire, method: str = "PUT", body: object = BODY) -> NoAnswer:
    with pytest.raises(NoAnswer) as caught:
        await http.send(method, url, wire=wire, body=body)
    assert caught.value.may_have_left == wire.may_have_left
    return caught.value


async def until(condition: asyncio.Event) -> None:
    async with asyncio.timeout(10):
        await condition.wait()


def test_numbers_go_out_as_they_were_given_and_what_is_no_json_does_not() -> None:
    numbers = {"whole": Decimal("7.00"), "part": Decimal("1.50"), "name": "é"}
    assert json_bytes(numbers) == '{"whole":7,"part":1.5,"name":"é"}'.encode()
    with pytest.raises(TypeError, match="set cannot be written as JSON"):
        json_bytes({1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_bytes(float("nan"))


async def test_an_answer_comes_with_status_headers_and_body(http: VendorHttp) -> None:
    async with scripted(answers(418, {"a": 1}, headers={"Retry-After": "3"})) as server:
        answer = await http.send("PUT", server.url + "/x%20y/%2e%2F?q=a+b", wire=a_wire(), body=BODY)
    assert (answer.status, answer.body, answer.flaw, answer.headers["retry-after"]) == (418, b'{"a": 1}', None, "3")
    [request] = server.requests
    assert (request.method, request.target, request.body) == ("PUT", "/x%20y/%2e%2F?q=a+b", json_bytes(BODY))
    assert request.headers["content-type"] == "application/json"
    assert request.headers["accept-encoding"] == "identity"
    assert "cookie" not in request.headers


async def test_headers_that_are_not_ascii_cost_no_answer(http: VendorHttp) -> None:
    async with scripted(answers(200, {"a": 1}, headers={"Via": "Gr\u00f6\u00dfe", "Retry-After": "3"})) as server:
        answer = await http.send("PUT", server.url, wire=a_wire(), body=BODY)
    assert (answer.status, answer.body, answer.flaw, answer.headers["retry-after"]) == (200, b'{"a": 1}', None, "3")


async def test_a_form_and_a_request_without_a_body(http: VendorHttp) -> None:
    async with scripted(answers(200)) as server:
        await http.send("POST", server.url + "/", wire=a_wire(), form={"scope": "a b", "grant_type": "x"})
        await http.send("PUT", server.url + "/", wire=a_wire())
    form, empty = server.requests
    assert form.body == b"scope=a+b&grant_type=x"
    assert (empty.body, empty.headers["content-length"]) == (b"", "0")


async def test_a_refused_connection_sends_nothing(http: VendorHttp) -> None:
    with socket.socket() as not_listening:
        not_listening.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{not_listening.getsockname()[1]}/"
        silence = await no_answer(http, url, a_wire())
    assert (silence.may_have_left, silence.reason_code) == (False, "connect_refused")


async def test_a_host_that_does_not_resolve_sends_nothing(http: VendorHttp) -> None:
    silence = await no_answer(http, "http://no-such-host.invalid/", a_wire())
    assert (silence.may_have_left, silence.reason_code) == (False, "dns_failed")


@pytest.mark.parametrize("url", ["http://127.1/", "http://[::1/", "ftp://127.0.0.1/", "http://exa mple/", "http:///x"])
async def test_an_address_that_cannot_be_used_sends_nothing(http: VendorHttp, url: str) -> None:
    silence = await no_answer(http, url, a_wire())
    assert not silence.may_have_left


async def test_a_connection_that_is_never_accepted_ends_with_the_deadline_and_sends_nothing(http: VendorHttp) -> None:
    # A full backlog drops further SYNs, as an unreachable host does.
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(full.getsockname())
        silence = await no_answer(http, f"http://127.0.0.1:{full.getsockname()[1]}/", a_wire(0.2))
        for filler in fillers:
            filler.close()
    assert (silence.may_have_left, silence.reason_code) == (False, "deadline_passed")


@pytest.mark.parametrize("method", ["GET", "PUT", "POST", "DELETE"])
@pytest.mark.parametrize("body", [None, BODY])
@pytest.mark.parametrize("end", [Exchange.cut, Exchange.close])
async def test_a_request_cut_after_it_arrived_may_have_left_and_went_out_once(
    http: VendorHttp, method: str, body: object, end: object
) -> None:
    async with scripted(end) as server:  # type: ignore[arg-type]
        silence = await no_answer(http, server.url, a_wire(), method, body)
    assert (silence.may_have_left, silence.reason_code) == (True, "cut")
    assert len(server.requests) == 1


@pytest.mark.parametrize("method", ["GET", "PUT", "POST", "DELETE"])
@pytest.mark.parametrize("end", [Exchange.cut, Exchange.close])
async def test_a_request_cut_on_a_kept_alive_connection_does_not_go_out_twice(
    http: VendorHttp, method: str, end: object
) -> None:
    async with scripted(in_turn(answers(200), end, answers(200))) as server:  # type: ignore[arg-type]
        await http.send("GET", server.url, wire=a_wire())
        silence = await no_answer(http, server.url, a_wire(), method)
    assert silence.may_have_left
    assert [request.connection for request in server.requests] == [1, 1]


@pytest.mark.parametrize("end", [Exchange.cut, Exchange.close])
async def test_a_dead_kept_alive_connection_is_left_alone_and_the_request_goes_out_once(
    http: VendorHttp, end: object
) -> None:
    async def answer_and_end(exchange: Exchange) -> None:
        await exchange.answer(200)
        await asyncio.sleep(0)
        await end(exchange)  # type: ignore[operator]

    async with scripted(in_turn(answer_and_end, answers(200))) as server:
        await http.send("GET", server.url, wire=a_wire())
        time.sleep(0.05)  # noqa: ASYNC251 - the loop must not see the end of the connection before the next request does
        answer = await http.send("PUT", server.url, wire=a_wire(), body=BODY)
    assert answer.status == 200
    assert [(request.method, request.connection) for request in server.requests] == [("GET", 1), ("PUT", 2)]


async def test_an_unasked_answer_is_not_taken_for_the_answer_to_the_next_request(http: VendorHttp) -> None:
    stray = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nstray"
    written = asyncio.Event()

    async def answer_twice(exchange: Exchange) -> None:
        await exchange.answer(200, b"right")
        await asyncio.sleep(0.02)  # after the client has put the connection back into its pool
        await exchange.raw(stray)
        written.set()

    async with scripted(in_turn(answer_twice, answers(200, b"right"))) as server:
        await http.send("GET", server.url, wire=a_wire())
        await until(written)
        await asyncio.sleep(0.02)
        answer = await http.send("PUT", server.url, wire=a_wire(), body=BODY)
    assert answer.body == b"right"
    assert [request.connection for request in server.requests] == [1, 2]


async def test_a_connection_is_used_again(http: VendorHttp) -> None:
    async with scripted(answers(200, {"ok": True})) as server:
        for _ in range(3):
            await http.send("PUT", server.url, wire=a_wire(), body=BODY)
    assert server.connections == 1


async def test_a_library_that_sends_again_is_stopped(http: VendorHttp) -> None:
    async with scripted(answers(200)) as server:
        wire = a_wire()
        await http.send("PUT", server.url, wire=wire, body=BODY)
        silence = await no_answer(http, server.url, wire)
    assert (silence.may_have_left, silence.reason_code) == (True, "second_send_stopped")
    assert len(server.requests) == 1


@pytest.mark.parametrize("body", [None, BODY])
@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("error", [LeaseLost("taken over"), ConnectionResetError("mine"), TimeoutError("mine")])
async def test_a_check_that_forbids_keeps_every_byte_back_and_its_error_is_unchanged(
    http: VendorHttp, body: object, warm: bool, error: Exception
) -> None:
    def check() -> None:
        raise error

    async with scripted(answers(200)) as server:
        if warm:
            await http.send("GET", server.url, wire=a_wire())
        wire = a_wire(check=check)
        with pytest.raises(type(error)) as caught:
            await http.send("PUT", server.url, wire=wire, body=body)
        assert caught.value is error
        assert not wire.may_have_left
        await until(server.closed_by_client)
    assert len(server.requests) == int(warm)


@pytest.mark.parametrize("body", [None, BODY])
async def test_the_check_runs_once_the_connection_stands_and_before_the_first_byte(
    http: VendorHttp, body: object
) -> None:
    seen: list[tuple[int, int, bool]] = []
    async with scripted(answers(200)) as server:
        wire = Wire(Deadline(10), lambda: seen.append((server.connections, len(server.requests), wire.may_have_left)))
        await http.send("GET", server.url, wire=a_wire())
        await http.send("POST", server.url, wire=wire, body=body)
    assert seen == [(1, 1, False)]
    assert wire.may_have_left


async def test_a_deadline_that_has_passed_sends_nothing(http: VendorHttp) -> None:
    async with scripted(answers(200)) as server:
        silence = await no_answer(http, server.url, a_wire(0))
    assert (silence.may_have_left, silence.reason_code, server.connections) == (False, "deadline_passed", 0)


@pytest.mark.parametrize("body", [None, BODY])
async def test_a_deadline_that_passes_in_the_check_sends_nothing(http: VendorHttp, body: object) -> None:
    async with scripted(answers(200)) as server:
        wire = a_wire(0.05, check=lambda: time.sleep(0.06))
        silence = await no_answer(http, server.url, wire, body=body)
    assert (silence.may_have_left, silence.reason_code, server.requests) == (False, "deadline_passed", [])


async def test_silence_past_the_deadline_may_have_left(http: VendorHttp) -> None:
    async with scripted(Exchange.until_client_leaves) as server:
        silence = await no_answer(http, server.url, a_wire(0.1))
        await until(server.closed_by_client)
    assert (silence.may_have_left, silence.reason_code) == (True, "deadline_passed")


async def test_a_pool_without_a_free_connection_ends_with_the_deadline_and_sends_nothing() -> None:
    arrived = asyncio.Event()

    async def hold(exchange: Exchange) -> None:
        arrived.set()
        await exchange.until_client_leaves()

    async with scripted(hold) as server, VendorHttp(max_connections=1) as http:
        first = asyncio.create_task(http.send("GET", server.url, wire=a_wire(30)))
        await until(arrived)
        silence = await no_answer(http, server.url, a_wire(0.1))
        first.cancel()
        await asyncio.wait({first})
    assert (silence.may_have_left, len(server.requests)) == (False, 1)


async def test_a_head_that_drips_past_the_deadline_is_no_answer(http: VendorHttp) -> None:
    async def drip(exchange: Exchange) -> None:
        for byte in b"HTTP/1.1 200 OK\r\n" + b"x" * 1000:
            await exchange.raw(bytes([byte]))
            await asyncio.sleep(0.01)

    async with scripted(drip) as server:
        silence = await no_answer(http, server.url, a_wire(0.2))
    assert (silence.may_have_left, silence.reason_code) == (True, "deadline_passed")


async def test_a_body_that_drips_past_the_deadline_keeps_its_status(http: VendorHttp) -> None:
    async def drip(exchange: Exchange) -> None:
        await exchange.answer(429, b"x", declared=1000, headers={"retry-after": "7"})
        while True:
            await exchange.raw(b"x")
            await asyncio.sleep(0.01)

    async with scripted(drip) as server:
        answer = await http.send("PUT", server.url, wire=a_wire(0.2), body=BODY)
    assert (answer.status, answer.flaw, answer.body, answer.headers["retry-after"]) == (
        429,
        "deadline_passed",
        b"",
        "7",
    )


async def test_a_truncated_body_is_not_handed_out_in_part(http: VendorHttp) -> None:
    for end in (Exchange.close, Exchange.cut):

        async def truncate(exchange: Exchange, end=end) -> None:  # type: ignore[no-untyped-def]
            await exchange.answer(200, b'{"id": 1}', declared=100)
            await end(exchange)

        async with scripted(truncate) as server:
            answer = await http.send("PUT", server.url, wire=a_wire(), body=BODY)
        assert (answer.status, answer.flaw, answer.body) == (200, "truncated", b"")


async def test_a_chunked_body_without_its_end_is_truncated(http: VendorHttp) -> None:
    async def chunk(exchange: Exchange) -> None:
        await exchange.raw(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n")
        await exchange.close()

    async with scripted(chunk) as server:
        answer = await http.send("PUT", server.url, wire=a_wire(), body=BODY)
    assert answer.flaw == "truncated"


async def test_a_connection_cut_after_a_head_without_a_length_is_not_an_empty_answer(http: VendorHttp) -> None:
    async def head_only(exchange: Exchange) -> None:
        await exchange.raw(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n")
        await exchange.close()

    async with scripted(head_only) as server:
        answer = await http.send("PUT", server.url, wire=a_wire(), body=BODY)
    assert answer.flaw == "truncated"


async def test_a_204_is_empty_and_whole(http: VendorHttp) -> None:
    async def no_content(exchange: Exchange) -> None:
        await exchange.raw(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with scripted(no_content) as server:
        assert await http.send("PUT", server.url, wire=a_wire(), body=BODY) == Answer(204)


@pytest.mark.parametrize("declares", [True, False])
async def test_an_oversized_body_is_not_read_to_its_end(http: VendorHttp, declares: bool) -> None:
    async def flood(exchange: Exchange) -> None:
        length = b"content-length: 100000000" if declares else b"transfer-encoding: chunked"
        await exchange.raw(b"HTTP/1.1 200 OK\r\n" + length + b"\r\n\r\n")
        while True:
            await exchange.raw(b"1000\r\n" + b"x" * 4096 + b"\r\n")

    async with scripted(flood) as server:
        answer = await http.send("GET", server.url, wire=a_wire(max_bytes=10_000))
        assert (answer.flaw, answer.body) == ("oversized", b"")
        await until(server.closed_by_client)


async def test_a_body_at_its_limit_is_whole(http: VendorHttp) -> None:
    async with scripted(answers(200, b"x" * 1000)) as server:
        assert len((await http.send("GET", server.url, wire=a_wire(max_bytes=1000))).body) == 1000
        assert (await http.send("GET", server.url, wire=a_wire(max_bytes=999))).flaw == "oversized"


async def test_a_compressed_answer_is_not_unpacked(http: VendorHttp) -> None:
    for coding in ("gzip", "GZIP", "deflate", "br", "zstd", "gzip, gzip", "unheard-of"):
        async with scripted(answers(200, gzip.compress(b"{}"), headers={"content-encoding": coding})) as server:
            answer = await http.send("GET", server.url, wire=a_wire())
        assert (answer.flaw, answer.body) == ("compressed", b""), coding


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("location", ["/elsewhere", "http://127.0.0.1:1/", "http://[", ""])
async def test_a_redirect_is_an_answer_and_is_not_followed(http: VendorHttp, status: int, location: str) -> None:
    async with scripted(answers(status, headers={"location": location})) as server:
        answer = await http.send("PUT", server.url, wire=a_wire(), body=BODY)
    assert (answer.status, len(server.requests)) == (status, 1)


async def test_cookies_are_not_kept(http: VendorHttp) -> None:
    async with scripted(answers(200, headers={"set-cookie": "session=abc; Path=/"})) as server:
        for _ in range(2):
            await http.send("GET", server.url, wire=a_wire())
    assert all("cookie" not in request.headers for request in server.requests)


async def test_what_is_no_http_may_have_left(http: VendorHttp) -> None:
    for noise in (b"220 ready to serve\r\n\r\n", b"\x15\x03\x01\x00\x02\x02\x28" * 50 + b"\r\n\r\n"):

        async def speak(exchange: Exchange, noise: bytes = noise) -> None:
            await exchange.raw(noise)
            await exchange.close()

        async with scripted(speak) as server:
            silence = await no_answer(http, server.url, a_wire())
        assert silence.may_have_left


async def test_an_interim_answer_is_passed_over(http: VendorHttp) -> None:
    async def continue_first(exchange: Exchange) -> None:
        await exchange.raw(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n")
        await exchange.answer(200, b"{}")

    async with scripted(continue_first) as server:
        assert (await http.send("PUT", server.url, wire=a_wire(), body=BODY)).status == 200


async def test_cancelling_passes_through_and_closes_the_connection(http: VendorHttp) -> None:
    arrived = asyncio.Event()

    async def hold(exchange: Exchange) -> None:
        arrived.set()
        await exchange.until_client_leaves()

    async with scripted(hold) as server:
        wire = a_wire(30)
        task = asyncio.create_task(http.send("PUT", server.url, wire=wire, body=BODY))
        await until(arrived)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert wire.may_have_left
        await until(server.closed_by_client)


async def test_nothing_of_a_request_leaves_after_its_deadline_not_even_from_the_kernel() -> None:
    """A server that reads late must not find the whole request: it would apply it long after everybody gave up."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    sent = {"text": "x" * 900_000}
    try:
        async with VendorHttp() as http:
            silence = await no_answer(http, f"http://127.0.0.1:{listener.getsockname()[1]}/", a_wire(0.2), body=sent)
        assert silence.may_have_left
        peer, _ = listener.accept()
        received = 0
        with peer:
            peer.settimeout(5)
            try:
                while chunk := peer.recv(65536):
                    received += len(chunk)
            except ConnectionResetError:
                pass
            assert received < 900_000
    finally:
        listener.close()


async def test_a_session_belongs_to_one_event_loop(http: VendorHttp) -> None:
    async with scripted(answers(200)) as server:
        await http.send("GET", server.url, wire=a_wire())

        def in_another_loop() -> None:
            with pytest.raises(RuntimeError, match="one per loop"):
                asyncio.run(http.send("GET", server.url, wire=a_wire()))

        await asyncio.to_thread(in_another_loop)


async def test_no_url_is_logged_and_none_is_chained_to_an_error(
    http: VendorHttp, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with scripted(in_turn(answers(200), Exchange.cut, answers(200, headers={"x": "a\x00b"}))) as server:
        await http.send("GET", server.url + "/marker-4711", wire=a_wire())
        silence = await no_answer(http, server.url + "/marker-4711", a_wire())
        await no_answer(http, server.url + "/marker-4711", a_wire())
    assert silence.__context__ is None
    assert silence.__cause__ is None
    assert "marker-4711" not in caplog.text
    assert "127.0.0.1" not in str(silence)
