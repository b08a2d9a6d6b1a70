"""The one HTTP module: httpx as the interface, aiohttp's connections underneath.

aiohttp sends a request again by itself when a kept-alive connection turns out dead, and names a POST that was cut after
it arrived like a refused connection. So here its re-send is off and guarded, no conclusion is drawn from the name of an
exception, and what decides is whether a byte may have left (``Wire``). No message holds a URL, a header or a body.
"""

import asyncio
import json
import logging
import ssl
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlencode

import aiohttp
import httpx
from yarl import URL

from onboarding import __version__
from onboarding.errors import BadSettings
from onboarding.vendors.connections import CURRENT_WIRE, LiveConnector, first_byte_traces
from onboarding.vendors.wire import Answer, NoAnswer, SecondSend, Wire

# httpx logs every URL at INFO, and URLs hold subjects' ids.
for _name in ("httpx", "httpcore"):
    logging.getLogger(_name).setLevel(logging.WARNING)

MAX_CONNECTIONS: Final = 100
_CHUNK: Final = 64 * 1024
_HEADERS: Final = {
    "accept": "application/json",
    "accept-encoding": "identity",
    "user-agent": f"subject-onboarding/{__version__}",
}
_SET_BY_AIOHTTP: Final = frozenset({"host", "content-length"})


def json_bytes(value: object) -> bytes:
    """JSON in UTF-8 as it goes on the wire; whole ``Decimal`` numbers become integers, others the shortest decimal."""
    return _compact(value).encode()


def _plain_number(value: object) -> int | float:
    if not isinstance(value, Decimal):
        raise TypeError(f"{type(value).__name__} cannot be written as JSON")
    return int(value) if value == value.to_integral_value() else float(value)


_compact: Final = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain_number
).encode


class AiohttpTransport(httpx.AsyncBaseTransport):
    """Carries httpx requests over one aiohttp session, made on first use and bound to that event loop.

    A request brings its ``Wire`` in ``extensions["wire"]``. The answer is complete, or carries its flaw in
    ``extensions["flaw"]``; its headers are in ``extensions["headers"]``, by lower-case name. There is no time-out in here: the
    caller's deadline cancels.

    Args:
        ca_file: certificates trusted besides the system's own, PEM.
        max_connections: limit of open connections to all hosts together.
    """

    def __init__(self, ca_file: Path | None = None, max_connections: int = MAX_CONNECTIONS) -> None:
        self._max_connections = max_connections
        self._ssl_context = _ssl_context(ca_file) if ca_file is not None else None
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send once and read the answer.

        Raises:
            NoAnswer: no head of an answer arrived.
            Exception: what the wire's check raised, unchanged.
        """
        wire: Wire = request.extensions["wire"]
        body = await request.aread()
        token = CURRENT_WIRE.set(wire)
        try:
            return await self._exchange(request, body, wire)
        except (aiohttp.ClientError, OSError, SecondSend) as error:
            wire.abandon()
            fault = error
        except BaseException:
            wire.abandon()
            raise
        finally:
            CURRENT_WIRE.reset(token)
        # Raised out here so that aiohttp's own exception, which names the URL, is not chained to ours.
        raise wire.refusal if wire.refusal is not None else _no_answer(fault, wire)

    async def _exchange(self, request: httpx.Request, body: bytes, wire: Wire) -> httpx.Response:
        session = self._open_session()
        async with session.request(
            request.method,
            URL(str(request.url), encoded=True),
            data=body or None,
            headers=[(name, value) for name, value in request.headers.items() if name not in _SET_BY_AIOHTTP],
            allow_redirects=False,
            trace_request_ctx=(wire, bool(body)),
        ) as response:
            headers = {name.lower(): value for name, value in response.headers.items()}
            wire.head = Answer(response.status, headers)
            content, flaw = await _read(response, headers, wire.max_bytes)
            if flaw is not None:
                wire.abandon()
        # httpx refuses a header that is not ASCII, and takes its time for the others: it gets none.
        return httpx.Response(response.status, content=content, extensions={"flaw": flaw, "headers": headers})

    def _open_session(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        if self._session is None:
            self._loop = loop
            self._session = aiohttp.ClientSession(
                connector=LiveConnector(limit=self._max_connections, ssl_context=self._ssl_context),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None),
                trust_env=False,
                auto_decompress=False,
                trace_configs=[first_byte_traces()],
            )
            # No public switch turns the silent re-send off; the wire guards against it in any case.
            self._session._retry_connection = False  # noqa: SLF001
        if self._loop is not loop:
            raise RuntimeError("a vendor connection belongs to the event loop that first used it; make one per loop")
        return self._session

    async def aclose(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()


def _ssl_context(ca_file: Path) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_verify_locations(ca_file)
    except (OSError, ssl.SSLError):
        problem = f"ONBOARDING_CA_FILE: {ca_file} cannot be read as PEM certificates; name a file that holds some."
        raise BadSettings([problem]) from None
    return context


async def _read(
    response: aiohttp.ClientResponse, headers: Mapping[str, str], max_bytes: int
) -> tuple[bytes, str | None]:
    """The body and its flaw; a body that breaks off, is too long or is compressed is not handed out in part."""
    if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        return b"", "compressed"
    if (response.content_length or 0) > max_bytes:
        return b"", "oversized"
    received = bytearray()
    try:
        async for chunk in response.content.iter_chunked(_CHUNK):
            received += chunk
            if len(received) > max_bytes:
                return b"", "oversized"
    except (aiohttp.ClientError, OSError):
        return b"", "truncated"
    framed = "content-length" in headers or "transfer-encoding" in headers or response.status in (204, 304)
    if not received and not framed:
        return b"", "truncated"  # nothing tells an empty answer from one that was cut after its head
    return bytes(received), None


def _no_answer(fault: Exception, wire: Wire) -> NoAnswer:
    """The lack of an answer; the fault's type only picks the word that people read."""
    if isinstance(fault, SecondSend):
        return NoAnswer(may_have_left=True, reason_code="second_send_stopped")  # the first one may have arrived
    if wire.may_have_left:
        broken = isinstance(fault, aiohttp.ClientConnectionError | ConnectionError)
        return NoAnswer(may_have_left=True, reason_code="cut" if broken else "answer_not_http")
    if isinstance(fault, aiohttp.ClientConnectorDNSError):
        return NoAnswer(may_have_left=False, reason_code="dns_failed")
    if isinstance(fault, aiohttp.ClientConnectorCertificateError):
        detail = getattr(fault.certificate_error, "verify_message", "")
        return NoAnswer(may_have_left=False, reason_code="tls_certificate_refused", detail=detail)
    if isinstance(fault, aiohttp.ClientConnectorSSLError):
        return NoAnswer(may_have_left=False, reason_code="tls_failed")
    if isinstance(getattr(fault, "os_error", None), ConnectionRefusedError):
        return NoAnswer(may_have_left=False, reason_code="connect_refused")
    return NoAnswer(may_have_left=False, reason_code="connect_failed")


class VendorHttp:
    """Sends requests to the vendors, each at most once, under the caller's deadline.

    Close it with ``aclose``, or use it as ``async with VendorHttp() as http``.
    """

    def __init__(self, ca_file: Path | None = None, max_connections: int = MAX_CONNECTIONS) -> None:
        # Without httpx's client: what it adds (redirects, cookies, time-outs, proxies) is what we do without, and it costs
        # more than all the rest of a call.
        self._transport = AiohttpTransport(ca_file, max_connections)

    async def send(
        self,
        method: str,
        url: str,
        *,
        wire: Wire,
        headers: Mapping[str, str] | None = None,
        body: object = None,
        form: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request once.

        Args:
            method: HTTP method.
            url: absolute; its path segments are percent-encoded already.
            wire: a fresh one, with the deadline, the check and the answer's limit.
            headers: besides the standing ones; may hold credentials.
            body: sent as JSON unless it is None.
            form: sent as a form, instead of ``body``.

        Returns:
            The answer, whatever its status; its ``flaw`` says why a body cannot be used.

        Raises:
            NoAnswer: with whether a byte of the request may have left.
            Exception: what ``wire.check`` raised, unchanged; nothing was sent then.
        """
        if wire.deadline.passed():
            raise NoAnswer(may_have_left=False, reason_code="deadline_passed")
        content, kind = _content(body, form)
        request = _request(method, url, content, {**_HEADERS, **(headers or {}), **kind}, wire)
        if request is None:
            raise NoAnswer(may_have_left=False, reason_code="bad_address")
        try:
            async with asyncio.timeout(wire.deadline.remaining()) as limit:
                response = await self._transport.handle_async_request(request)
        except TimeoutError:
            if not limit.expired():
                raise  # the check's own
        else:
            found = response.extensions
            return Answer(response.status_code, found["headers"], response.content, found["flaw"])
        if wire.head is not None:
            return Answer(wire.head.status, wire.head.headers, flaw="deadline_passed")
        raise NoAnswer(may_have_left=wire.may_have_left, reason_code="deadline_passed")

    async def aclose(self) -> None:
        """Close all connections."""
        await self._transport.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _request(method: str, url: str, content: bytes | None, headers: dict[str, str], wire: Wire) -> httpx.Request | None:
    try:
        return httpx.Request(method, url, content=content, headers=headers, extensions={"wire": wire})
    except httpx.InvalidURL:
        return None


def _content(body: object, form: Mapping[str, str] | None) -> tuple[bytes | None, dict[str, str]]:
    if form is not None:
        return urlencode(form).encode(), {"content-type": "application/x-www-form-urlencoded"}
    if body is not None:
        return json_bytes(body), {"content-type": "application/json"}
    return None, {}
