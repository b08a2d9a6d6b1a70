"""aiohttp's connections, so that a request is watched up to its first byte and never meets a dead or confused one."""

import select
import ssl
import weakref
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Final

import aiohttp
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

from onboarding.vendors.wire import Wire

CURRENT_WIRE: Final[ContextVar[Wire]] = ContextVar("current_wire")
"""The wire of the request that this task is sending."""

_IDLE_S: Final = 4.0  # below the five seconds after which common servers drop an idle connection


class LiveConnector(aiohttp.TCPConnector):
    """A pool that hands out no kept-alive connection that the other side has closed, or has written to unasked.

    The first would put a PUT in doubt for nothing; the second would take a stray answer for the answer to our request.
    """

    def __init__(self, *, limit: int, ssl_context: ssl.SSLContext | None) -> None:
        super().__init__(
            limit=limit,
            keepalive_timeout=_IDLE_S,
            resolver=aiohttp.ThreadedResolver(),
            ssl=ssl_context if ssl_context is not None else True,
        )
        self._used: weakref.WeakSet[object] = weakref.WeakSet()

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's signature
    ) -> Connection:
        """Get a connection, from the pool if one there is alive, and show it to the wire of this request."""
        while True:
            connection = await super().connect(req, traces, timeout)
            if connection.protocol in self._used and _is_stale(connection):
                connection.close()
                continue
            self._used.add(connection.protocol)
            CURRENT_WIRE.get().hold(connection)
            return connection


def _is_stale(connection: Connection) -> bool:
    protocol, transport = connection.protocol, connection.transport
    if protocol is None or transport is None or transport.is_closing() or protocol.should_close:
        return True
    descriptor = transport.get_extra_info("socket").fileno()
    if descriptor < 0:
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def first_byte_traces() -> aiohttp.TraceConfig:
    """Traces that run right before aiohttp writes: its "sent" signals are given ahead of the bytes they speak of."""
    traces = aiohttp.TraceConfig()

    async def head_ready(_: object, context: SimpleNamespace, __: object) -> None:
        wire, has_body = context.trace_request_ctx
        wire.start()
        if not has_body:
            wire.clear_to_send()

    # With a body, aiohttp keeps the head back and writes both together, maybe a turn of the event loop later.
    async def body_ready(_: object, context: SimpleNamespace, __: object) -> None:
        wire, _has_body = context.trace_request_ctx
        if not wire.may_have_left:
            wire.clear_to_send()

    traces.on_request_headers_sent.append(head_ready)
    traces.on_request_chunk_sent.append(body_ready)
    return traces
