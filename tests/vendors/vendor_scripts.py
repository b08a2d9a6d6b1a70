"""Connections and scripts that the tests of both clients share."""

import asyncio
from dataclasses import dataclass, field

from pydantic import SecretStr

from onboarding.settings import ClinicalOneConnection, OpenSpecimenConnection
from tests.vendors.scripted_server import Exchange, Script, answers

PASSWORD = "marker-password-4711"
CLIENT_SECRET = "marker-client-secret-4711"
OS_TOKEN = "marker-os-token-4711"
C1_TOKEN = "marker-c1-token-4711"


def openspecimen(url: str, password: str = PASSWORD) -> OpenSpecimenConnection:
    return OpenSpecimenConnection(url=f"{url}/openspecimen", username="integration", password=SecretStr(password))


def clinical_one(url: str, *, token_url: str | None = None, dnd_path: str = "dndexception") -> ClinicalOneConnection:
    return ClinicalOneConnection(
        url=url,
        token_url=token_url or f"{url}/oauth/token",
        client_id="client",
        client_secret=SecretStr(CLIENT_SECRET),
        scope="tenant.ec-ors-svc.all",
        dnd_path=dnd_path,
    )


@dataclass
class Vendor:
    """A vendor that logs everybody in, each time with another token, and does to other calls what the test says."""

    script: Script = field(default_factory=lambda: answers(200, {}))
    log_in: Script | None = None
    log_ins: int = 0

    async def __call__(self, exchange: Exchange) -> None:
        call = exchange.request.call
        if call.endswith("/sessions") and call.startswith("POST"):
            await self._log_in(exchange, {"token": f"{OS_TOKEN}-{self.log_ins + 1}", "loginName": "integration"})
        elif call.endswith("/oauth/token"):
            token = {"access_token": f"{C1_TOKEN}-{self.log_ins + 1}", "expires_in": 600, "token_type": "Bearer"}
            await self._log_in(exchange, token)
        else:
            await self.script(exchange)

    async def _log_in(self, exchange: Exchange, token: dict[str, object]) -> None:
        self.log_ins += 1
        await (self.log_in or answers(200, token))(exchange)


def when_all_arrived(count: int, then: Script) -> Script:
    """A script that lets requests wait until so many have arrived; later ones go through at once."""
    arrived = 0
    everybody = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        nonlocal arrived
        arrived += 1
        if arrived >= count:
            everybody.set()
        await everybody.wait()
        await then(exchange)

    return script
