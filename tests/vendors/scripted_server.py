"""A server that does to each request what the test says: answer, cut, drip or stay silent, over a real socket."""

import asyncio
import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

_RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Received:
    """A request as it came over the wire; header names in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    connection: int

    @property
    def call(self) -> str:
        return f"{self.method} {self.target.partition('?')[0]}"


@dataclass
class Exchange:
    """One request and the means to answer it, or not."""

    request: Received
    writer: asyncio.StreamWriter
    reader: asyncio.StreamReader

    async def answer(
        self,
        status: int,
        body: object = b"",
        *,
        headers: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        declared: int | None = None,
    ) -> None:
        """Answer; what is not bytes goes as JSON. ``declared`` is a content length that may be a lie."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines = {"content-type": content_type, "content-length": str(len(content) if declared is None else declared)}
        await self.raw(_head(status, lines | dict(headers or {})) + content)

    async def raw(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def close(self) -> None:
        """End the connection in order (FIN)."""
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()

    async def cut(self) -> None:
        """Break the connection (RST)."""
        reset(self.writer)

    async def until_client_leaves(self) -> None:
        """Wait until the client has closed its side; fails the test if it sends more instead."""
        assert await self.reader.read(1) == b""
        raise ConnectionResetError("the client has left")


Script = Callable[[Exchange], Awaitable[None]]


@dataclass
class ScriptedServer:
    """What the server saw. ``script`` may be replaced while it runs."""

    script: Script
    url: str = ""
    port: int = 0
    requests: list[Received] = field(default_factory=list)
    connections: int = 0
    closed_by_client: asyncio.Event = field(default_factory=asyncio.Event)
    failures: list[BaseException] = field(default_factory=list)

    def calls(self, name: str = "") -> list[Received]:
        """The requests whose method and path hold a word."""
        return [request for request in self.requests if name in request.call]


def reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


def answers(status: int, body: object = b"", **how: object) -> Script:
    """A script that answers every request alike."""

    async def script(exchange: Exchange) -> None:
        await exchange.answer(status, body, **how)  # type: ignore[arg-type]

    return script


def in_turn(*scripts: Script) -> Script:
    """A script that does to the n-th request what the n-th script says; the last one serves the rest."""
    left = list(scripts)

    async def script(exchange: Exchange) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(exchange)

    return script


@asynccontextmanager
async def scripted(script: Script, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[ScriptedServer]:
    """Run a server on a free port of this machine."""
    seen = ScriptedServer(script)
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.connections += 1
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await _serve(seen, reader, writer, seen.connections)
        except (ConnectionError, asyncio.IncompleteReadError):
            seen.closed_by_client.set()
        except asyncio.CancelledError:
            pass  # the server is being stopped
        except Exception as failure:  # noqa: BLE001 - reported by the test, not by the event loop
            seen.failures.append(failure)
        finally:
            tasks.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    seen.port = server.sockets[0].getsockname()[1]
    seen.url = f"{'https' if tls else 'http'}://127.0.0.1:{seen.port}"
    try:
        yield seen
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await server.wait_closed()
    assert not seen.failures, seen.failures


async def _serve(
    seen: ScriptedServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int
) -> None:
    while True:
        request = await _read_request(reader, connection)
        if request is None:
            seen.closed_by_client.set()
            return
        seen.requests.append(request)
        await seen.script(Exchange(request, writer, reader))
        if writer.is_closing():
            return


async def _read_request(reader: asyncio.StreamReader, connection: int) -> Received | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as end:
        if not end.partial:
            return None
        raise
    first, *lines = head.decode("latin-1").strip().split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Received(method, target, headers, body, connection)


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Some Phrase", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
