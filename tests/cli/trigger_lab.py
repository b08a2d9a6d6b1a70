"""A Prefect API for tests of `onboard trigger`: it does to each start what the test says, over a real socket."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import pytest

from cli.prefect_api import PrefectApi
from cli.trigger import carry_out, read_wanted
from onboarding.endings import EXIT_BAD_INPUT, EXIT_FAULT
from onboarding.errors import BadInput, OnboardingError
from tests.support.installation import Installation, Ran
from tests.vendors.scripted_server import Exchange, Received, Script, ScriptedServer, answers, scripted

DEPLOYMENT_ID: Final = "5f0c6e0e-4f2e-4f7a-9d52-0d6ad3a6c7b1"
STARTS: Final = f"POST /api/deployments/{DEPLOYMENT_ID}/create_flow_run"
_LOOKS_FOR_KEYS: Final = "POST /api/flow_runs/filter"
_PATIENCE_S: Final = 1.5


def run(
    number: int = 1, state: tuple[str, str, str | None] = ("SCHEDULED", "Scheduled", None), **more: Any
) -> dict[str, Any]:
    """A run as the API gives it; ``state`` is type, name and message."""
    kind, name, message = state
    content: dict[str, Any] = {"id": f"run-{number}", "tags": ["onboarding"], "parameters": {}, "idempotency_key": None}
    return {**content, "state": {"type": kind, "name": name, "message": message}, **more}


@dataclass
class ScriptedApi:
    """What the API says. Each part may be replaced.

    Attributes:
        starts: what becomes of requests to start a run; by default each makes a run with what was sent.
        known: the runs that stand already, by key.
        states: what a look at a run shows, one after the other, the last one for ever.
    """

    server: ScriptedServer
    installation: Installation
    starts: Script | None = None
    finds: Script | None = None
    known: dict[str, Any] = field(default_factory=dict)
    states: list[Script] = field(default_factory=list)

    async def __call__(self, exchange: Exchange) -> None:
        call = exchange.request.call
        if call.startswith("GET /api/deployments/name/"):
            await (self.finds or answers(200, {"id": DEPLOYMENT_ID}))(exchange)
        elif call == _LOOKS_FOR_KEYS:
            asked = json.loads(exchange.request.body)["flow_runs"]["idempotency_key"]["any_"]
            await exchange.answer(200, [self.known[key] for key in asked if key in self.known])
        elif call == STARTS:
            await (self.starts or self._start)(exchange)
        elif call.startswith("GET /api/flow_runs/"):
            script = self.states.pop(0) if len(self.states) > 1 else self.states[0]
            await script(exchange)
        else:
            await exchange.answer(404, {"detail": "Not Found"})

    async def _start(self, exchange: Exchange) -> None:
        body = json.loads(exchange.request.body)
        key = body["idempotency_key"]
        stood = key in self.known
        if not stood:
            made = run(len(self.known) + 1, parameters=body["parameters"])
            self.known[key] = {**made, "idempotency_key": key}
        await exchange.answer(200 if stood else 201, self.known[key])

    async def lost(self, exchange: Exchange) -> None:
        """Start the run, and break the connection off before the answer."""
        body = json.loads(exchange.request.body)
        key = body["idempotency_key"]
        self.known[key] = run(len(self.known) + 1, parameters=body["parameters"], idempotency_key=key)
        await exchange.cut()

    def end(self, key: str, kind: str = "COMPLETED", name: str = "Onboarded") -> None:
        """The run of this key ends."""
        self.known[key]["state"] = {"type": kind, "name": name, "message": None}

    @property
    def url(self) -> str:
        return f"{self.server.url}/api"

    @property
    def sent(self) -> list[dict[str, Any]]:
        """The bodies of the requests to start a run."""
        return [json.loads(request.body) for request in self.server.calls(STARTS)]

    @property
    def requests(self) -> list[Received]:
        return self.server.requests

    async def carried_out(
        self,
        capsys: pytest.CaptureFixture[str],
        request: str | None,
        *,
        case: str | None = None,
        dry_run: bool = False,
        patience_s: float = _PATIENCE_S,
        **how: Any,
    ) -> Ran:
        """As ``trigger``, but in this process, which has imported everything; an error ends it as the command line does."""
        wanted = read_wanted(request, case, dry_run=dry_run)
        with httpx.Client(base_url=f"{self.url}/", trust_env=False) as http:
            api = PrefectApi(self.url, self.server.url, None, patience_s, http)
            try:
                status = await asyncio.to_thread(carry_out, api, wanted, **({"key": None, "wait": False} | how))
            except OnboardingError as error:
                return Ran(EXIT_BAD_INPUT if isinstance(error, BadInput) else EXIT_FAULT, "", f"onboard: {error}")
        return Ran(status, *capsys.readouterr())

    async def trigger(
        self, *words: str, given: bytes = b"", variables: Mapping[str, str | None] | None = None, quick: bool = True
    ) -> Ran:
        """Run the command against this API."""
        more = {
            "PREFECT_API_URL": self.url,
            "PREFECT_HOME": str(self.installation.folder / "home"),
            **(variables or {}),
        }
        command = ("trigger", *words, *(("--patience", str(_PATIENCE_S)) if quick else ()))
        return await asyncio.to_thread(self.installation.run, *command, given=given, variables=more)


@asynccontextmanager
async def scripted_api(installation: Installation) -> AsyncIterator[ScriptedApi]:
    """An API with one deployment, in which nothing has run yet."""

    async def unscripted(exchange: Exchange) -> None:
        await exchange.close()

    async with scripted(unscripted) as server:
        api = ScriptedApi(server, installation)
        server.script = api
        yield api
