"""`onboard setup` against a real Prefect server: what it makes, that it is idempotent, and what its automations do."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from aiohttp import web
from prefect import flow, get_client
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State
from prefect.events import emit_event
from prefect.events.schemas.automations import AutomationCore
from prefect.settings import get_current_settings
from prefect.states import AwaitingRetry, Completed, Paused, Running, Suspended

from cli.automations import ATTENTION_NAME, CRASHED_NAME, WEBHOOK, missing_heartbeats, set_up_automations
from cli.deployments import FILE, wanted_deployments
from cli.setup import setup
from onboarding.clocks import utc_now
from onboarding.settings import PREFIX
from tests.flows.lab import FlowLab
from tests.flows.test_deployments import run_prefect
from tests.steps.lab import only
from tests.support.prefect_server import PrefectServer
from vendor_sandbox import seed

pytestmark = pytest.mark.prefect
ROOT = FILE.parent
_SEEN_S = 90.0
# Time enough, on a busy machine, for the server to note a heartbeat before the runs are sent to wait.
_SILENCE_S = 20.0


async def _clear() -> None:
    async with get_client() as client:
        for deployment in await client.read_deployments():
            await client.delete_deployment(deployment.id)
        for automation in await client.read_automations():
            await client.delete_automation(automation.id)
        for document in await client.read_block_documents():
            if document.name in ("default", WEBHOOK):
                await client.delete_block_document(document.id)
        for pool in await client.read_work_pools():
            await client.delete_work_pool(pool.name)


@pytest.fixture
def bare_server(prefect_server: PrefectServer) -> Iterator[PrefectServer]:
    """The server of the tests without anything of ours; nothing is left for later tests either."""
    asyncio.run(_clear())
    yield prefect_server
    asyncio.run(_clear())


class SetUp:
    """Runs the command here, in an environment of its own."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self) -> dict[str, tuple[str, str | None]]:
        """What it says of each thing."""
        assert setup(json=True) == 0
        said = self._capsys.readouterr().out
        assert seed.PASSWORD not in said
        assert seed.CLIENT_SECRET not in said
        lines = [json.loads(line) for line in said.splitlines()]
        return {line["thing"]: (line["outcome"], line["what"]) for line in lines}


@pytest.fixture
def set_up(
    bare_server: PrefectServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> SetUp:
    given = {
        "OPENSPECIMEN_URL": "http://127.0.0.1:9/openspecimen",
        "OPENSPECIMEN_USERNAME": seed.USERNAME,
        "OPENSPECIMEN_PASSWORD": seed.PASSWORD,
        "CLINICAL_ONE_URL": "http://127.0.0.1:9",
        "CLINICAL_ONE_TOKEN_URL": "http://127.0.0.1:9/token",
        "CLINICAL_ONE_CLIENT_ID": seed.CLIENT_ID,
        "CLINICAL_ONE_CLIENT_SECRET": seed.CLIENT_SECRET,
        "CLINICAL_ONE_SCOPE": seed.SCOPE,
        "SETTINGS_FILE": str(tmp_path / "settings.toml"),
    }
    for name, value in given.items():
        monkeypatch.setenv(PREFIX + name, value)
    monkeypatch.setenv("PREFECT_API_URL", bare_server.api_url)
    return SetUp(capsys)


def names() -> list[str]:
    content = yaml.safe_load(FILE.read_text("utf-8"))
    return [one["name"] for one in content["deployments"]]


def outcomes(said: dict[str, tuple[str, str | None]], kind: str) -> set[str]:
    return {outcome for thing, (outcome, _) in said.items() if thing.startswith(kind)}


def test_everything_is_made_once_and_left_by_the_same_command_again(set_up: SetUp) -> None:
    first = set_up()
    assert [thing.removeprefix("deployment ") for thing in first if thing.startswith("deployment ")] == names()
    for kind in ("work pool onboarding", "block open-specimen/", "block clinical-one/", "deployment", "automation"):
        assert outcomes(first, kind) == {"created"}, kind
    assert {outcome for outcome, _ in set_up().values()} == {"left"}


def test_what_differs_is_changed_and_the_rest_is_left(set_up: SetUp, monkeypatch: pytest.MonkeyPatch) -> None:
    set_up()

    async def change() -> None:
        async with get_client() as client:
            found = await client.read_deployment_by_name("resume-cases/resume-cases")
            await client.pause_deployment(found.id)
            for automation in await client.read_automations_by_name(CRASHED_NAME):
                told = automation.model_dump(exclude={"id", "owner_resource"}) | {
                    "description": "other",
                    "enabled": False,
                }
                await client.update_automation(automation.id, AutomationCore.model_validate(told))

    asyncio.run(change())
    monkeypatch.setenv(f"{PREFIX}OPENSPECIMEN_USERNAME", "someone-else")
    said = set_up()
    assert said["deployment resume-cases"] == ("changed", "schedules")
    assert said["block open-specimen/default"] == ("changed", "username")
    assert said[f"automation '{CRASHED_NAME}'"][0] == "changed"
    assert {outcome for thing, (outcome, _) in said.items() if "clinical-one" in thing} == {"left"}
    assert outcomes(said, "deployment") == {"changed", "left"}

    async def automations() -> list[Any]:
        async with get_client() as client:
            return await client.read_automations_by_name(CRASHED_NAME)

    (automation,) = asyncio.run(automations())
    assert automation.enabled is False, "who switched it off is not overruled"


def test_what_setup_deploys_is_what_prefect_deploys(set_up: SetUp, bare_server: PrefectServer) -> None:
    """People who know Prefect may use its own command alone: each command leaves what the other made."""
    run_prefect(bare_server, ROOT, "work-pool", "create", "onboarding", "--type", "process")
    run_prefect(bare_server, ROOT, "deploy", "--all", "--prefect-file", FILE.name)
    said = set_up()
    assert said["work pool onboarding"][0] == "left"
    assert outcomes(said, "deployment") == {"left"}


def test_a_connection_that_the_environment_does_not_name_is_left_to_the_page(
    set_up: SetUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("URL", "TOKEN_URL", "CLIENT_ID", "CLIENT_SECRET", "SCOPE"):
        monkeypatch.delenv(f"{PREFIX}CLINICAL_ONE_{name}")
    outcome, what = set_up()["block clinical-one/default"]
    assert outcome == "missing"
    assert what is not None
    assert "fill it in on the page" in what


def test_the_file_holds_nothing_that_setup_does_not_read() -> None:
    known = {
        "name", "entrypoint", "description", "tags", "parameters", "enforce_parameter_schema", "concurrency_limit",
        "schedules", "pull", "work_pool",
    }  # fmt: skip
    for one in yaml.safe_load(FILE.read_text("utf-8"))["deployments"]:
        assert set(one) == known, one["name"]
        assert set(one["concurrency_limit"]) == {"limit", "collision_strategy"}
        assert set(one["work_pool"]) == {"name", "work_queue_name"}
        assert all(set(schedule) == {"interval", "active"} for schedule in one["schedules"])
    assert [one.name for one in wanted_deployments()] == names()


@flow(name="silent")
def silent() -> None: ...


@flow(name="of others")
def of_others() -> None: ...


async def begun(client: PrefectClient, of: Any = silent) -> FlowRun:
    """A run of which the server believes that a process works on it."""
    run = await client.create_flow_run(of, state=Running())
    assert run.state is not None
    return run


def heartbeat(run: FlowRun, of: str = "silent") -> None:
    """What Prefect's engine tells of a run every three minutes."""
    emit_event(
        "prefect.flow-run.heartbeat",
        {"prefect.resource.id": f"prefect.flow-run.{run.id}", "prefect.resource.name": run.name},
        related=[
            {
                "prefect.resource.id": f"prefect.flow.{run.flow_id}",
                "prefect.resource.role": "flow",
                "prefect.resource.name": of,
            }
        ],
        id=uuid4(),
    )


async def state_of(client: PrefectClient, run: FlowRun) -> State[Any]:
    state = (await client.read_flow_run(run.id)).state
    assert state is not None
    return state


async def crashed(client: PrefectClient, run: FlowRun) -> None:
    async with asyncio.timeout(_SEEN_S):
        while True:
            if (await state_of(client, run)).is_crashed():
                return
            await asyncio.sleep(0.5)


async def events_of(client: PrefectClient, prefix: str, resource: str, at_least: int = 1) -> list[dict[str, Any]]:
    """The events of a resource, once the server has noted so many."""
    body = {"filter": {"event": {"prefix": [prefix]}, "resource": {"id": [resource]}}}
    async with asyncio.timeout(_SEEN_S):
        while True:
            answer = await client._client.post("/events/filter", json=body)  # noqa: SLF001 - it has no method for events
            found = answer.json()["events"]
            if len(found) >= at_least:
                return list(found)
            await asyncio.sleep(0.2)


async def test_silent_runs_are_crashed_and_those_that_wait_are_not(prefect_server: PrefectServer) -> None:
    """The run that must be crashed is the last of which anything is heard, so the others had their chance before it."""
    async with get_client() as client:
        automation_id = await client.create_automation(missing_heartbeats(["silent"], _SILENCE_S))
        try:
            in_an_hour = utc_now() + timedelta(hours=1)
            waits: dict[str, State[Any]] = {
                "suspended": Suspended(timeout_seconds=3600),
                "paused": Paused(timeout_seconds=3600),
                "waiting to be tried again": AwaitingRetry(scheduled_time=in_an_hour),
                "done": Completed(name="Onboarded"),
            }
            foreign = await begun(client, of_others)
            heartbeat(foreign, "of others")
            await events_of(client, "prefect.flow-run.heartbeat", f"prefect.flow-run.{foreign.id}")
            runs: dict[str, FlowRun] = {}
            for (
                name,
                state,
            ) in waits.items():  # one after another: on SQLite a busy server forgets events (see the automation)
                run = runs[name] = await begun(client)
                heartbeat(run)
                await events_of(client, "prefect.flow-run.heartbeat", f"prefect.flow-run.{run.id}")
                await client.set_flow_run_state(run.id, state, force=True)
                await events_of(client, f"prefect.flow-run.{state.name}", f"prefect.flow-run.{run.id}")
            before = {name: (await state_of(client, run)).name for name, run in runs.items()}
            killed = await begun(client)
            heartbeat(killed)
            await crashed(client, killed)
            assert {name: (await state_of(client, run)).name for name, run in runs.items()} == before
            assert (await state_of(client, foreign)).is_running(), "runs of other flows are not ours to judge"
            again = await client.read_flow_run(killed.id)
            assert again.run_count == 1, "nothing runs it again: that would pass for a person's retry"
            assert "go on by themselves" in ((await state_of(client, killed)).message or "")
        finally:
            await client.delete_automation(automation_id)


def test_a_run_counts_as_silent_after_three_heartbeats() -> None:
    heartbeat_s = get_current_settings().flows.heartbeat_frequency
    assert heartbeat_s is not None
    assert missing_heartbeats(["silent"]).trigger.within.total_seconds() == 3 * heartbeat_s  # type: ignore[union-attr]


@asynccontextmanager
async def webhook() -> AsyncIterator[tuple[str, asyncio.Queue[Any]]]:
    """An address of a chat, and what was posted there."""
    posted: asyncio.Queue[Any] = asyncio.Queue()

    async def take(request: web.Request) -> web.Response:
        posted.put_nowait(await request.json())
        return web.Response()

    app = web.Application()
    app.router.add_post("/hook", take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/hook", posted
    finally:
        await runner.cleanup()


async def test_people_are_told_what_needs_attention_once_the_automation_is_switched_on(
    lab: FlowLab,
) -> None:
    async with webhook() as (url, posted), get_client() as client:
        await set_up_automations(client, ["onboard-subject"])
        try:
            (automation,) = await client.read_automations_by_name(ATTENTION_NAME)
            assert automation.enabled is False
            block: CustomWebhookNotificationBlock = await CustomWebhookNotificationBlock.aload(WEBHOOK)
            assert block.url.startswith("https://example.invalid/"), "nothing is sent before somebody says where to"
            block.url = url
            await block.asave(WEBHOOK, overwrite=True)
            await client.resume_automation(automation.id)
            lab.fault("update_registration", "refuse", code="CPR_DUP_PPID", when="before")
            ran = await lab.flow(request=only("registration"))
            assert ran.how == ("FAILED", "NeedsAttention")
            async with asyncio.timeout(_SEEN_S):
                told = await posted.get()
        finally:
            for name in (CRASHED_NAME, ATTENTION_NAME):
                for one in await client.read_automations_by_name(name):
                    await client.delete_automation(one.id)
    (case,) = lab.bench.ledger.cases()
    assert f"case {case.id}: CPR_DUP_PPID" in told["text"]


@pytest.mark.parametrize(
    ("refused", "event", "code"),
    [(False, "onboarding.Onboarded", None), (True, "onboarding.NeedsAttention", "CPR_DUP_PPID")],
)
async def test_each_ending_of_a_case_is_an_event_with_its_id_and_code(
    lab: FlowLab, refused: bool, event: str, code: str | None
) -> None:
    if refused:
        lab.fault("update_registration", "refuse", code="CPR_DUP_PPID", when="before")
    ran = await lab.flow(request=only("registration"))
    (case,) = lab.bench.ledger.cases()
    async with get_client() as client:
        (found,) = await events_of(client, "onboarding.", f"onboarding.case.{case.id}")
    assert found["event"] == event
    assert found["payload"] == {
        "ending": event.removeprefix("onboarding."),
        "case": case.id,
        "batch": None,
        "code": code,
    }
    related = {one["prefect.resource.id"] for one in found["related"]}
    assert f"prefect.flow-run.{ran.run.id}" in related


async def test_a_run_that_could_not_be_worked_is_an_event_too(lab: FlowLab) -> None:
    ran = await lab.flow()
    assert ran.how == ("FAILED", "RequestRefused")
    async with get_client() as client:
        (found,) = await events_of(client, "onboarding.", f"onboarding.run.{ran.run.id}")
    assert found["event"] == "onboarding.RequestRefused"
