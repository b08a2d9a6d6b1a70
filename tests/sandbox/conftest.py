"""A running sandbox and a caller that is logged in to both systems."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.sandbox.callers import Caller
from vendor_sandbox import RunningSandbox, running_sandbox


@pytest.fixture
def effect_log(tmp_path: Path) -> Path:
    """The file the sandbox appends effects to."""
    return tmp_path / "effects.jsonl"


@pytest.fixture
async def sandbox(effect_log: Path) -> AsyncIterator[RunningSandbox]:
    """A sandbox with the default seed."""
    async with running_sandbox(effect_log) as running:
        yield running


@pytest.fixture
async def stranger(sandbox: RunningSandbox) -> AsyncIterator[Caller]:
    """A caller without any token."""
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
        # aiohttp sends an idempotent request again in silence when its connection breaks, and has no switch for it.
        session._retry_connection = False  # noqa: SLF001 - there is no public one
        yield Caller(sandbox, session)


@pytest.fixture
async def caller(stranger: Caller) -> Caller:
    """A caller with all rights in both systems."""
    assert (await stranger.log_in()).status == 200
    assert (await stranger.take_token()).status == 200
    return stranger
