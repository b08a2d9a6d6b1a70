"""The sandbox as a server: four listeners on loopback, in an event loop of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web

from vendor_sandbox.client import SandboxControl
from vendor_sandbox.control import Control
from vendor_sandbox.listening import Listener
from vendor_sandbox.requests import SYSTEMS, System
from vendor_sandbox.sandbox import Sandbox
from vendor_sandbox.seed import Seed
from vendor_sandbox.switches import Switches
from vendor_sandbox.tokens import TOKEN_PATH

DRAIN_SECONDS = 5.0

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Ports:
    """Where to listen; 0 takes a free port."""

    openspecimen: int = 0
    clinical_one: int = 0
    token: int = 0
    control: int = 0


@dataclass(frozen=True, slots=True)
class Options:
    """What a sandbox starts with."""

    effect_log: Path | None = None
    seed: Seed | None = None
    switches: Switches = field(default_factory=Switches)
    host: str = "127.0.0.1"
    ports: Ports = field(default_factory=Ports)
    world: Path | None = None


class SandboxServer:
    """A sandbox that listens. To be used from one event loop.

    Raises:
        NotLoopback: the host is not a loopback address.
        OSError: a port is taken.
    """

    def __init__(self, options: Options) -> None:
        self.sandbox = Sandbox(options.effect_log, options.seed, options.switches, options.world)
        ports = options.ports
        self._vendors: dict[System, Listener] = {
            system: Listener(options.host, getattr(ports, system), partial(self.sandbox.serve, system))
            for system in SYSTEMS
        }
        self._control = Listener(options.host, ports.control, self._serve_control)
        self.addresses: Mapping[str, str] = {
            "openspecimen_url": self._vendors["openspecimen"].origin + "/openspecimen",
            "clinical_one_url": self._vendors["clinical_one"].origin,
            "token_url": "/".join((self._vendors["token"].origin, *TOKEN_PATH)),
            "control_url": self._control.origin,
        }
        self._steering = Control(self.sandbox, self._vendors, self.addresses)

    async def _serve_control(self, request: web.BaseRequest) -> web.StreamResponse:
        return await self._steering.serve(request)

    async def start(self) -> None:
        """Accept connections on all four ports."""
        for listener in (*self._vendors.values(), self._control):
            await listener.open()

    async def stop(self) -> None:
        """Let the requests in progress end, held and delayed ones at once, then close everything."""
        self.sandbox.changes.close()
        self.sandbox.remove_faults()
        await asyncio.gather(*(one.drain(DRAIN_SECONDS) for one in (*self._vendors.values(), self._control)))
        self.sandbox.effects.close()
        self.sandbox.keep()


@dataclass(frozen=True, slots=True)
class RunningSandbox:
    """A sandbox that runs in this process. `control` works from any thread, also from inside an event loop."""

    addresses: Mapping[str, str]
    control: SandboxControl


@asynccontextmanager
async def running_sandbox(
    effect_log: Path | None = None,
    seed: Seed | None = None,
    *,
    switches: Switches | None = None,
    host: str = "127.0.0.1",
    ports: Ports | None = None,
) -> AsyncIterator[RunningSandbox]:
    """Run a sandbox in a thread of its own, so that the synchronous control client can be used beside it.

    Args:
        effect_log: the JSON Lines file of effects; None keeps them in memory.
        seed: the data; None is the default seed.
        switches: where installations differ.
        host: a loopback address.
        ports: where to listen; free ports by default.
    """
    options = Options(effect_log, seed, switches or Switches(), host, ports or Ports())
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=_run_loop, args=(loop,), name="vendor-sandbox", daemon=True)
    thread.start()
    try:
        server = await _in_loop(loop, _started(options))
        try:
            control = SandboxControl(server.addresses["control_url"])
            yield RunningSandbox(server.addresses, control)
        finally:
            await _in_loop(loop, server.stop())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        await asyncio.to_thread(thread.join)


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def _started(options: Options) -> SandboxServer:
    server = SandboxServer(options)
    await server.start()
    return server


async def _in_loop(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Result]) -> Result:
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, loop))
