"""`deployments.yaml`: every key is one that Prefect knows, and what is deployed runs on a worker as it runs here."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import httpx
import pytest
import yaml
from prefect import flow, get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.exceptions import SignatureMismatchError
from prefect.flow_engine import run_flow
from prefect.states import Cancelling, Scheduled
from prefect.utilities.callables import parameter_schema

from cli.deployments import Wanted, apply, served, wanted_deployments
from cli.told import Outcome
from flows.onboard_subject import onboard_subject
from onboarding.clocks import utc_now
from onboarding.keys import key_file
from onboarding.ledger.states import CaseStatus
from tests.flows.lab import FlowLab, Ran, clinical_one_block, openspecimen_block
from tests.steps.lab import only
from tests.support.prefect_server import PrefectServer
from tests.support.processes import running_server
from tests.support.requests import MARKER, STUDY_ID, SUBJECT_ID, example

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "deployments.yaml"
CONTENT: dict[str, Any] = yaml.safe_load(FILE.read_text("utf-8"))
DEPLOYMENTS: list[dict[str, Any]] = CONTENT["deployments"]
POOL = "onboarding"
_COMMAND_ENDS_S = 120
_RUN_ENDS_S = 90.0


def run_prefect(server: PrefectServer, folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", *words],
        env=server.environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=_COMMAND_ENDS_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def _deployed(_prefect_session: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The deployments, applied with the commands that the file names, and a process worker."""
    folder = tmp_path_factory.mktemp("worker")
    # The project is installed in a worker's environment; the tests run from its folder instead.
    environment = _prefect_session.environment | {"PYTHONPATH": str(ROOT), "PREFECT_WORKER_QUERY_SECONDS": "1"}
    run_prefect(_prefect_session, ROOT, "work-pool", "create", POOL, "--type", "process")
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL]
    with running_server(command, ready_line="started!", folder=folder, environment=environment):
        run_prefect(_prefect_session, ROOT, "deploy", "--all", "--prefect-file", FILE.name)
        # Its runs would have no settings here, and would take the worker's time.
        run_prefect(_prefect_session, ROOT, "deployment", "schedule", "pause", "--all")
        yield


@pytest.fixture
async def api(prefect_server: PrefectServer, _deployed: None) -> AsyncIterator[httpx.AsyncClient]:
    """The Prefect API, as any program reaches it."""
    async with httpx.AsyncClient(base_url=f"{prefect_server.api_url}/", trust_env=False, timeout=30) as client:
        yield client


async def deployment_id(api: httpx.AsyncClient, name: str = "onboard-subject") -> str:
    answer = await api.get(f"deployments/name/{name}/{name}")
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


async def trigger(
    api: httpx.AsyncClient,
    lab: FlowLab,
    *,
    variables: dict[str, str] | None = None,
    name: str = "onboard-subject",
    **body: Any,
) -> httpx.Response:
    """Start the deployment as an API caller does; the worker's run gets this laboratory's settings, and no secret.

    Prefect keeps the variables of a run in the clear, so the log-ins are in blocks and the key is in its file.
    """
    secret = ("ONBOARDING_OPENSPECIMEN_", "ONBOARDING_CLINICAL_ONE_", "ONBOARDING_LEDGER_KEY")
    plain = {name: value for name, value in lab.environment.items() if not name.startswith(secret)}
    place = lab.bench.ledger.store.path
    assert place is not None
    key = key_file(place)
    key.touch(mode=0o600)
    key.write_text(lab.environment["ONBOARDING_LEDGER_KEY"], "ascii")
    await openspecimen_block(lab).save("default", overwrite=True)
    await clinical_one_block(lab).save("default", overwrite=True)
    job = {"job_variables": {"env": {**plain, **(variables or {})}}}
    return await create_run(api, await deployment_id(api, name), {**job, **body})


async def create_run(api: httpx.AsyncClient, deployment: str, body: dict[str, Any]) -> httpx.Response:
    async with asyncio.timeout(_RUN_ENDS_S):
        while True:
            answer = await api.post(f"deployments/{deployment}/create_flow_run", json=body)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:  # a server on SQLite says that when it is busy
                return answer
            await asyncio.sleep(0.2)


async def run_with_state(run_id: str, *names: str) -> Any:
    async with get_client() as client, asyncio.timeout(_RUN_ENDS_S):
        while True:
            run = await client.read_flow_run(UUID(run_id))
            if run.state is not None and (run.state.name in names or (not names and run.state.is_final())):
                return run
            await asyncio.sleep(0.1)


@pytest.mark.prefect
async def test_a_run_started_through_the_api_onboards_on_a_worker(api: httpx.AsyncClient, lab: FlowLab) -> None:
    request = example(subject__subject_id=SUBJECT_ID.lower())
    body: dict[str, Any] = {"parameters": {"request": request}, "idempotency_key": "the first"}
    answer = await trigger(api, lab, **body)
    assert answer.status_code == 201, answer.text
    again = await trigger(api, lab, **body)
    assert (again.status_code, again.json()["id"]) == (200, answer.json()["id"])
    run = await run_with_state(answer.json()["id"])
    assert (run.state.type.value, run.state.name) == ("COMPLETED", "Onboarded")
    (case,) = lab.bench.ledger.cases()
    assert run.name == f"subject ..{SUBJECT_ID[-8:]}"
    assert {f"case:{case.id}", "onboarding"} <= set(run.tags)
    assert [name for name, _, _ in await lab.steps(Ran(run.state, run))] == [
        "registration",
        "dispensation",
        "device",
        "dnd_exception",
    ]
    assert lab.effects() == {"registration_updated": 1, "device_registered": 1, "dnd_exception_created": 1}


@pytest.mark.prefect
async def test_a_refused_run_is_tried_again_by_the_retry_of_the_page(api: httpx.AsyncClient, lab: FlowLab) -> None:
    lab.fault("update_registration", "refuse", code="CPR_DUP_PPID", when="before")
    answer = await trigger(api, lab, parameters={"request": only("registration")})
    run = await run_with_state(answer.json()["id"])
    assert (run.state.type.value, run.state.name) == ("FAILED", "NeedsAttention")
    async with get_client() as client:  # as `prefect flow-run retry` and the page do
        await client.set_flow_run_state(run.id, Scheduled(), force=True)
    again = await run_with_state(answer.json()["id"], "Onboarded")
    assert again.run_count == 2
    assert lab.effects() == {"registration_updated": 1}


@pytest.mark.prefect
async def test_a_run_that_is_cancelled_ends_so_and_its_case_can_be_resumed(
    api: httpx.AsyncClient, lab: FlowLab
) -> None:
    held = lab.fault("update_registration", "hold", when="before")
    patient = {"ONBOARDING_REQUEST_TIMEOUT_SECONDS": "60", "ONBOARDING_LEASE_SECONDS": "600"}
    answer = await trigger(api, lab, variables=patient, parameters={"request": only("registration")})
    await lab.control.wait_held(fault_id=held, timeout_s=_RUN_ENDS_S)
    async with get_client() as client:
        await client.set_flow_run_state(UUID(answer.json()["id"]), Cancelling())
    run = await run_with_state(answer.json()["id"])
    assert (run.state.type.value, run.state.name) == ("CANCELLED", "Cancelled")
    lab.control.remove_faults()
    assert await lab.control.wait_idle()
    (case,) = lab.bench.ledger.cases()
    assert case.status is CaseStatus.READY
    assert case.lease_left_s == 0, "nobody waits for the lease of a run that was cancelled"
    ran = await lab.flow(case_id=case.id)
    assert ran.how == ("COMPLETED", "Onboarded")
    assert lab.effects()["registration_updated"] == 1


@pytest.mark.prefect
async def test_due_cases_are_resumed_by_a_run_on_a_worker(
    api: httpx.AsyncClient, lab: FlowLab, record_property: Callable[[str, object], None]
) -> None:
    case_id = await lab.open(only("registration"))
    asked_at = utc_now()
    patient = {"ONBOARDING_REQUEST_TIMEOUT_SECONDS": "20", "ONBOARDING_LEASE_SECONDS": "60"}
    answer = await trigger(api, lab, name="resume-cases", variables=patient, parameters={"limit": 5})
    assert answer.status_code == 201, answer.text
    run = await run_with_state(answer.json()["id"])
    said = (run.state.type.value, run.state.name, run.state.message)
    assert said == ("COMPLETED", "Resumed", "1 case was due: 1 Onboarded.")
    assert lab.case(case_id).status is CaseStatus.DONE
    (schedule,) = named("resume-cases")["schedules"]
    starts_s = (run.start_time - asked_at).total_seconds()
    record_property("seconds_from_due_to_resumed_at_most", round(schedule["interval"] + starts_s, 1))
    print(f"resumed by the schedule within {schedule['interval']} s + {starts_s:.1f} s to start a run")  # noqa: T201 - asked for


@pytest.mark.prefect
@pytest.mark.parametrize("name", ["resume-cases", "take-inbox"])
async def test_the_schedules_of_due_cases_and_of_the_inbox_are_on_the_server(api: httpx.AsyncClient, name: str) -> None:
    found = (await api.get(f"deployments/{await deployment_id(api, name)}")).json()
    assert [one["schedule"]["interval"] for one in found["schedules"]] == [60.0]
    assert named(name)["schedules"][0]["active"] is True
    assert found["global_concurrency_limit"]["limit"] == 1
    assert found["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"


@pytest.mark.prefect
@pytest.mark.parametrize(
    "wrong", [{"reason_code": f"called {MARKER}"}, {"reference": f"see {MARKER}"}, {"decision": "?"}]
)
async def test_no_free_text_of_a_decision_gets_past_the_schema(
    api: httpx.AsyncClient, lab: FlowLab, wrong: dict[str, Any]
) -> None:
    good = {"case_id": "7K3Q9M2XW4TB", "decision": "retry", "reason_code": "mended_on_the_other_side"}
    answer = await trigger(api, lab, name="decide-case", parameters={**good, **wrong})
    assert answer.status_code == 409, answer.text


def named(name: str) -> dict[str, Any]:
    """The deployment of this name in the file."""
    (found,) = [one for one in DEPLOYMENTS if one["name"] == name]
    return found


REFUSED_BY_THE_SCHEMA: dict[str, dict[str, Any]] = {
    "an unknown section": {"request": {**example(), "registraton": {}}},
    "a mode that does not exist": {"request": example(subject__mode="live")},
    "a person": {"request": example(registration__participant={"id": 2, "firstName": MARKER})},
    "a list for a text": {"request": example(device__subject_number=["siteA-1"])},
    "the vendor's spelling, which the form does not have": {
        "request": {"subject": {"studyId": STUDY_ID, "mode": "test", "subjectId": SUBJECT_ID}}
    },
    "a text for true or false": {"dry_run": "yes"},
}


@pytest.mark.prefect
async def test_what_the_schema_refuses_never_becomes_a_run(api: httpx.AsyncClient, lab: FlowLab) -> None:
    chosen = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[UUID(await deployment_id(api))]))
    async with get_client() as client:
        before = len(await client.read_flow_runs(flow_run_filter=chosen))
        for what, parameters in REFUSED_BY_THE_SCHEMA.items():
            answer = await trigger(api, lab, parameters=parameters)
            assert answer.status_code == 409, (what, answer.text)
        assert len(await client.read_flow_runs(flow_run_filter=chosen)) == before


NOT_MISSPELT: dict[str, dict[str, Any]] = {
    "onboard-chunk": {"batch_id": "7K3Q9M2XW4TB", "case_ids": ["7K3Q9M2XW4TB"]},
    "decide-case": {"case_id": "7K3Q9M2XW4TB", "decision": "retry", "reason_code": "mended_on_the_other_side"},
}
"""What a deployment needs; the others need nothing."""


async def refuses_a_misspelt_parameter(api: httpx.AsyncClient, name: str, deployment: str) -> None:
    """A parameter that the flow does not have is refused by its name, and Prefect keeps nothing of it."""
    answer = await api.get(f"deployments/name/{name}/{deployment}")
    assert answer.status_code == 200, answer.text
    found = answer.json()["id"]
    answer = await create_run(api, found, {"parameters": {**NOT_MISSPELT.get(name, {}), "filename": MARKER}})
    assert answer.status_code == 409, (name, answer.text)
    assert "'filename' was unexpected" in answer.json()["detail"]
    runs = await api.post("flow_runs/filter", json={"deployments": {"id": {"any_": [found]}}})
    assert runs.status_code == 200, runs.text
    assert MARKER not in runs.text


@pytest.mark.prefect
@pytest.mark.parametrize("name", [one["name"] for one in DEPLOYMENTS])
async def test_no_deployment_takes_a_parameter_that_its_flow_does_not_have(api: httpx.AsyncClient, name: str) -> None:
    await refuses_a_misspelt_parameter(api, name, name)


async def set_up_without_schedules(client: PrefectClient, wanted: Wanted) -> None:
    """As `onboard setup` does."""
    assert await apply(client, wanted) == (Outcome.CREATED, "")
    assert await apply(client, wanted) == (Outcome.LEFT, "")


async def served_without_schedules(_client: PrefectClient, wanted: Wanted) -> None:
    """As `onboard up` does."""
    await cast("Awaitable[UUID]", served(wanted).aapply())


@pytest.mark.prefect
@pytest.mark.parametrize("way", [set_up_without_schedules, served_without_schedules])
async def test_setup_and_up_make_deployments_that_refuse_it_too(
    api: httpx.AsyncClient, way: Callable[[PrefectClient, Wanted], Awaitable[None]]
) -> None:
    async with get_client() as client:
        for wanted in wanted_deployments():
            another = replace(wanted, name=f"{wanted.name}-misspelt", intervals_s=[])
            await way(client, another)
            try:
                await refuses_a_misspelt_parameter(api, wanted.name, another.name)
            finally:
                made = await client.read_deployment_by_name(f"{wanted.name}/{another.name}")
                await client.delete_deployment(made.id)


@pytest.mark.prefect
async def test_setup_closes_the_form_of_an_earlier_version(api: httpx.AsyncClient) -> None:
    """Up to then a deployment took any parameter."""
    wanted = replace(wanted_deployments()[0], name="as-before")
    open_to_all = parameter_schema(wanted.flow).model_dump(exclude_unset=True)
    open_to_all.pop("additionalProperties", None)
    async with get_client() as client:
        await apply(client, wanted)
        made = await client.read_deployment_by_name(f"{wanted.flow.name}/{wanted.name}")
        try:
            await client.update_deployment(made.id, DeploymentUpdate(parameter_openapi_schema=open_to_all))
            assert await apply(client, wanted) == (Outcome.CHANGED, "form")
            await refuses_a_misspelt_parameter(api, wanted.flow.name, wanted.name)
        finally:
            await client.delete_deployment(made.id)


@pytest.mark.prefect
async def test_a_parameter_that_the_flow_does_not_have_ends_the_run_before_it_begins(
    prefect_server: PrefectServer, lab: FlowLab
) -> None:
    """Whoever starts a run can switch the check of its parameters off; nothing is sent then either."""
    async with get_client() as client:
        run = await client.create_flow_run(onboard_subject)
        run.parameters = {"case": "7K3Q9M2XW4TB"}
        with pytest.raises(SignatureMismatchError):
            await cast("Awaitable[Any]", run_flow(onboard_subject, run))
    assert lab.calls() == []
    assert lab.bench.ledger.cases() == []


@pytest.mark.prefect
async def test_the_deployment_on_the_server_is_the_one_of_the_file(api: httpx.AsyncClient) -> None:
    found = (await api.get(f"deployments/{await deployment_id(api)}")).json()
    wanted = DEPLOYMENTS[0]
    assert found["entrypoint"] == wanted["entrypoint"]
    assert found["description"].strip() == wanted["description"].strip()
    assert found["enforce_parameter_schema"] is True
    assert found["pull_steps"] == []
    assert found["global_concurrency_limit"]["limit"] == wanted["concurrency_limit"]["limit"]
    assert found["concurrency_options"]["collision_strategy"] == wanted["concurrency_limit"]["collision_strategy"]
    assert (found["work_pool_name"], found["work_queue_name"]) == (POOL, "default")
    assert found["parameter_openapi_schema"]["definitions"]["OnboardingRequest"]["additionalProperties"] is False


@pytest.mark.prefect
async def test_a_schedule_makes_runs(prefect_server: PrefectServer) -> None:
    """With SQLAlchemy 2.1 the scheduler fails on every loop, and only the server's log says so."""

    @flow
    def nothing() -> None: ...

    async with get_client() as client:
        flow_id = await client.create_flow(nothing)
        schedule = DeploymentScheduleCreate(schedule=IntervalSchedule(interval=timedelta(hours=1)), active=True)
        made = await client.create_deployment(flow_id=flow_id, name="hourly", schedules=[schedule])
        chosen = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[made]))
        async with asyncio.timeout(_RUN_ENDS_S):
            runs = await client.read_flow_runs(flow_run_filter=chosen)
            while not runs:
                await asyncio.sleep(0.2)
                runs = await client.read_flow_runs(flow_run_filter=chosen)
        await client.delete_deployment(made)
    assert all(run.auto_scheduled for run in runs)
    assert {run.state_name for run in runs} == {"Scheduled"}
