"""A laboratory for the flow: the flow itself, run as Prefect runs it, and what the Prefect server knows of it afterwards."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast
from uuid import UUID

import httpx
import pytest
from prefect import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, TaskRunFilter, TaskRunFilterTags
from prefect.client.schemas.objects import FlowRun, State, TaskRun
from prefect.flow_engine import run_flow
from prefect.states import Scheduled
from pydantic import SecretStr

from blocks import ClinicalOne, OpenSpecimen
from flows.onboard_subject import onboard_subject
from onboarding.ledger.states import CaseStatus, StepName, StepStatus
from tests.steps.lab import Lab, laboratory, only
from tests.support.prefect_server import PrefectServer
from vendor_sandbox import seed

STEPS: Final = ("registration", "dispensation", "device", "dnd_exception")
_REACHES_THE_SERVER_S: Final = 30.0
_POLL_S: Final = 0.1


@dataclass(frozen=True)
class Ran:
    """A flow run that has ended: its last state, and the run as the server has it."""

    state: State[Any]
    run: FlowRun

    @property
    def how(self) -> tuple[str, str]:
        """Type and name of the last state."""
        return self.state.type.value, str(self.state.name)

    @property
    def message(self) -> str:
        """What the last state says."""
        return self.state.message or ""


class FlowLab(Lab):
    """A laboratory whose settings are this process's, so that flows find them. Build it with ``flow_laboratory``."""

    server: PrefectServer

    async def flow(self, **parameters: Any) -> Ran:
        """Run the flow here, as a person does who calls it."""
        return await self.ended(await onboard_subject(**parameters, return_state=True))

    async def retried(self, before: Ran) -> Ran:
        """Run a flow run once more, the way the page's Retry and ``prefect flow-run retry`` do."""
        async with get_client() as client:
            await client.set_flow_run_state(before.run.id, Scheduled(), force=True)
            run = await client.read_flow_run(before.run.id)
        return await self.ended(await cast("Awaitable[Any]", run_flow(onboard_subject, run, return_type="state")))

    async def ended(self, state: Any) -> Ran:
        """The run that ended in this state, as the server has it."""
        assert isinstance(state, State)
        run_id = state.state_details.flow_run_id
        assert run_id is not None
        async with get_client() as client:
            run = await client.read_flow_run(run_id)
        assert run.state is not None
        assert (run.state.type, run.state.name, run.state.message) == (state.type, state.name, state.message)
        return Ran(state, run)

    async def tasks(self, ran: Ran, count: int) -> list[TaskRun]:
        """The task runs of a flow run, in the order they started, once the server knows how all of them ended."""
        async with get_client() as client, asyncio.timeout(_REACHES_THE_SERVER_S):
            while True:
                found = await task_runs(client, ran.run.id)
                if len(found) >= count and all(one.state is not None and one.state.is_final() for one in found):
                    return sorted(found, key=lambda one: one.start_time or one.expected_start_time)  # type: ignore[arg-type, return-value]
                await asyncio.sleep(_POLL_S)

    async def tagged(self, tag: str, count: int) -> list[TaskRun]:
        """The task runs with a tag, once the server knows so many."""
        tagged = TaskRunFilter(tags=TaskRunFilterTags(all_=[tag]))
        async with get_client() as client, asyncio.timeout(_REACHES_THE_SERVER_S):
            while True:
                found: list[TaskRun] = await client.read_task_runs(task_run_filter=tagged)
                if len(found) >= count:
                    return found
                await asyncio.sleep(_POLL_S)

    async def steps(self, ran: Ran, count: int = 4) -> list[tuple[str, str, str]]:
        """Step, type and name of the last state of each task run."""
        return [
            (one.name.split()[0], one.state.type.value, str(one.state.name))
            for one in await self.tasks(ran, count)
            if one.state is not None
        ]

    async def messages(self, ran: Ran, holding: str) -> list[str]:
        """The run's log lines on the server, once one of them holds a text."""
        async with httpx.AsyncClient(base_url=f"{self.server.api_url}/", trust_env=False) as client:
            async with asyncio.timeout(_REACHES_THE_SERVER_S):
                while True:
                    body = {"logs": {"flow_run_id": {"any_": [str(ran.run.id)]}}, "limit": 200}
                    found = (await client.post("logs/filter", json=body)).json()
                    lines = [str(entry["message"]) for entry in found]
                    if any(holding in line for line in lines):
                        return lines
                    await asyncio.sleep(_POLL_S)

    def status(self, case_id: str) -> tuple[CaseStatus, str | None]:
        """The case's status and reason."""
        case = self.case(case_id)
        return case.status, case.reason


async def task_runs(client: Any, run_id: UUID) -> list[TaskRun]:
    """The task runs of a flow run that the server knows by now."""
    found: list[TaskRun] = await client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run_id])))
    return found


@asynccontextmanager
async def flow_laboratory(
    server: PrefectServer,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    switches: Mapping[str, Any] | None = None,
    **settings: Any,
) -> AsyncIterator[FlowLab]:
    """A sandbox, a ledger and the settings for them in this process's environment."""
    async with laboratory(folder, switches=switches, **settings) as lab:
        for name, value in lab.environment.items():
            monkeypatch.setenv(name, value)
        ours = FlowLab.__new__(FlowLab)  # made anew, it would write another ledger over the one that is open
        vars(ours).update(vars(lab))
        ours.server = server
        yield ours


async def unknown_registration(lab: FlowLab) -> Ran:
    """Our update was lost on its way, and meanwhile someone else edited the registration."""
    lab.fault("update_registration", "cut", when="before")
    held = lab.fault("read_registration", "hold", nth=2)
    run = asyncio.create_task(lab.flow(request=only("registration")))
    await lab.control.wait_held(fault_id=held)
    edited = seed.default()["openspecimen"]
    edited["registrations"][0]["ppid"] = "ASCI777"
    lab.control.seed({"openspecimen": {"registrations": edited["registrations"][:1]}}, add=True)
    lab.control.remove_faults()
    ran = await run
    assert ran.how == ("FAILED", "NeedsAttention"), ran.message
    (case,) = lab.bench.ledger.cases()
    assert case.steps[StepName.REGISTRATION].status is StepStatus.UNKNOWN
    return ran


def openspecimen_block(lab: FlowLab, **changes: Any) -> OpenSpecimen:
    """The connection to the sandbox, not saved yet."""
    given = {"url": lab.environment["ONBOARDING_OPENSPECIMEN_URL"], "username": seed.USERNAME}
    return OpenSpecimen(**{**given, "password": SecretStr(seed.PASSWORD), **changes})


def clinical_one_block(lab: FlowLab, **changes: Any) -> ClinicalOne:
    """The connection to the sandbox, not saved yet."""
    given = {
        "url": lab.environment["ONBOARDING_CLINICAL_ONE_URL"],
        "token_url": lab.environment["ONBOARDING_CLINICAL_ONE_TOKEN_URL"],
        "client_id": seed.CLIENT_ID,
        "scope": seed.SCOPE,
    }
    return ClinicalOne(**{**given, "client_secret": SecretStr(seed.CLIENT_SECRET), **changes})
