"""Puts answers on the wire, the broken ones included."""

from __future__ import annotations

import asyncio
import socket
import struct

from aiohttp import web

from vendor_sandbox.answers import Answer, Cut, Dripped, Oversized, Truncated

_CHUNK = 64 * 1024
# A linger time of zero makes closing send RST, which is what a crashed server or a firewall does.
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


async def deliver(request: web.BaseRequest, answer: Answer) -> web.StreamResponse:
    """Send an answer in the way it asks for.

    Returns:
        A response for aiohttp to send, or one that has been sent, or one that it will find no connection for.
    """
    match answer.delivery:
        case Cut(how):
            _cut(request.transport, reset=how == "reset")
        case Truncated(keep_bytes):
            _truncate(request.transport, answer, keep_bytes)
        case Dripped(interval_seconds, bytes_each):
            return await _drip(request, answer, interval_seconds, bytes_each)
        case Oversized(total_bytes):
            return await _flood(request, answer, total_bytes)
    return web.Response(
        status=answer.status,
        body=answer.body,
        headers={"Content-Type": answer.content_type, **answer.headers} if answer.body else answer.headers,
    )


def _cut(transport: asyncio.Transport | None, *, reset: bool) -> None:
    if transport is None:
        return
    connection = transport.get_extra_info("socket")
    if reset and connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    transport.abort()


def _truncate(transport: asyncio.Transport | None, answer: Answer, keep_bytes: int) -> None:
    if transport is None:
        return
    head = f"HTTP/1.1 {answer.status} OK\r\nContent-Type: {answer.content_type}\r\nContent-Length: {len(answer.body)}"
    transport.write(head.encode() + b"\r\n\r\n" + answer.body[:keep_bytes])
    transport.close()


async def _drip(
    request: web.BaseRequest, answer: Answer, interval_seconds: float, bytes_each: int
) -> web.StreamResponse:
    headers = {"Content-Type": answer.content_type, **answer.headers, "Content-Length": str(len(answer.body))}
    response = web.StreamResponse(status=answer.status, headers=headers)
    await response.prepare(request)
    for start in range(0, len(answer.body), bytes_each):
        await response.write(answer.body[start : start + bytes_each])
        await asyncio.sleep(interval_seconds)
    await response.write_eof()
    return response


async def _flood(request: web.BaseRequest, answer: Answer, total_bytes: int) -> web.StreamResponse:
    headers = {"Content-Type": answer.content_type, "Content-Length": str(total_bytes)}
    response = web.StreamResponse(status=answer.status, headers=headers)
    await response.prepare(request)
    await response.write(b'"')
    left = total_bytes - 2
    while left > 0:
        await response.write(b"x" * min(left, _CHUNK))
        left -= _CHUNK
    await response.write(b'"')
    await response.write_eof()
    return response
