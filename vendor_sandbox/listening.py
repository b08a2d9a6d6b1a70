"""One listening socket on a loopback address that can be closed and opened again on the same port."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable

from aiohttp import web

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

BACKLOG = 4096
MAX_BODY_BYTES = 16 * 1024 * 1024


class NotLoopback(ValueError):
    """The stand-ins hold no secret and check nobody: they listen on loopback addresses only."""


class Listener:
    """Serves one handler on one port.

    Args:
        host: a loopback address, not a name.
        port: 0 for a free one.
        handler: called for each request.
    """

    def __init__(self, host: str, port: int, handler: Handler) -> None:
        try:
            loopback = ipaddress.ip_address(host).is_loopback
        except ValueError:
            loopback = False
        if not loopback:
            raise NotLoopback(f"{host!r} is not a loopback address; use 127.0.0.1")
        self._host = host
        self._handler = handler
        self._web = web.Server(handler, access_log=None, request_factory=_with_limit)
        self._server: asyncio.Server | None = None
        # Bound but not listening while closed: connecting is refused, and nobody else can take the port.
        self._reserved: socket.socket | None = self._bind(port)
        self.port: int = self._reserved.getsockname()[1]

    def _bind(self, port: int) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        bound = socket.socket(family, socket.SOCK_STREAM)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((self._host, port))
        except OSError:
            bound.close()
            raise
        bound.setblocking(False)
        return bound

    @property
    def origin(self) -> str:
        """`http://host:port`."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self.port}"

    async def open(self) -> None:
        """Start accepting connections."""
        if self._reserved is not None:
            loop = asyncio.get_running_loop()
            bound, self._reserved = self._reserved, None
            self._server = await loop.create_server(self._web, sock=bound, backlog=BACKLOG)

    def close(self) -> None:
        """Stop accepting and drop every connection: from now on connecting is refused."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        for connection in self._web.connections:
            if connection.transport is not None:
                connection.transport.abort()
        self._reserved = self._bind(self.port)

    async def drain(self, timeout_s: float) -> None:
        """Stop accepting, let the requests in progress end, give the port back."""
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._web.shutdown(timeout_s)
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None


def _with_limit(*parts: object) -> web.BaseRequest:
    message, payload, protocol, writer, task = parts
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=MAX_BODY_BYTES)  # type: ignore[arg-type]  # aiohttp passes these five, untyped here
