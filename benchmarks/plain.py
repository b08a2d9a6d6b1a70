"""The calls as a user of httpx writes them: one shared asynchronous client, log-ins once, the exception once."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager

import httpx

from benchmarks.subjects import CLINICAL_ONE, OPENSPECIMEN, Call, Calls, token_form
from vendor_sandbox import seed


class PlainCalls:
    """Build it with ``plain_calls``."""

    def __init__(self, client: httpx.AsyncClient, addresses: Mapping[str, str]) -> None:
        self.calls = Calls(addresses)
        self._client = client
        self._login = asyncio.Lock()
        self._headers: dict[str, dict[str, str]] = {}
        self._exception = asyncio.Lock()
        self._exception_done = False

    async def send(self, calls: Iterable[Call]) -> None:
        """Send these, one after another; raises ``httpx.HTTPStatusError`` for whatever is not a success."""
        await self._log_in()
        for call in calls:
            headers = self._headers[call.system]
            if call.body is not None:
                headers = {**headers, "Content-Type": "application/json"}
            answer = await self._client.request(call.method, call.url, content=call.body, headers=headers)
            answer.raise_for_status()
            answer.json()

    async def ensure_exception(self) -> None:
        """List once, create once."""
        async with self._exception:
            if not self._exception_done:
                await self.send(self.calls.exceptions())
                self._exception_done = True

    async def _log_in(self) -> None:
        async with self._login:
            if self._headers:
                return
            login = self.calls.login()
            session = await self._client.post(
                login.url, content=login.body, headers={"Content-Type": "application/json"}
            )
            token = await self._client.post(
                self.calls.addresses["token_url"], data=token_form(), auth=(seed.CLIENT_ID, seed.CLIENT_SECRET)
            )
            self._headers = {
                OPENSPECIMEN: {"X-OS-API-TOKEN": session.raise_for_status().json()["token"]},
                CLINICAL_ONE: {"Authorization": f"Bearer {token.raise_for_status().json()['access_token']}"},
            }


@asynccontextmanager
async def plain_calls(addresses: Mapping[str, str]) -> AsyncIterator[PlainCalls]:
    """The calls over a client that is closed at the end."""
    limits = httpx.Limits(max_connections=100, max_keepalive_connections=100)
    async with httpx.AsyncClient(timeout=30, trust_env=False, limits=limits) as client:
        yield PlainCalls(client, addresses)
