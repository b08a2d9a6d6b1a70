"""The API as programs use it, by plain HTTP and by Prefect's client: start by name, keys, refusals, the ending by its name.

The runs are worked in this process, by the flow itself; that a worker does the same is seen in ``test_deployments``.
"""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import httpx
import pytest
from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import arun_deployment
from prefect.exceptions import PrefectHTTPStatusError
from prefect.flow_engine import run_flow
from prefect.flow_runs import wait_for_flow_run
from prefect.states import Scheduled
from prefect.utilities.callables import parameter_schema

from cli.deployments import served, wanted_deployments
from cli.prefect_api import PrefectApi
from cli.trigger import ONE_SUBJECT, read_wanted
from cli.triggering import Started, follow, start
from flows.onboard_subject import onboard_subject
from onboarding.advice import advice
from onboarding.errors import BadInput, BadSettings
from tests.flows.lab import FlowLab, Ran
from tests.steps.lab import only
from tests.support.installation import COMMAND, ROOT
from tests.support.prefect_server import PrefectServer, running_prefect_server
from tests.support.requests import INVENTORY_ID, LEFT_OUT, MARKER, PARTICIPANT, STUDY_ID, example
from vendor_sandbox import seed

pytestmark = pytest.mark.prefect
AUTH = "admin:hunter2"
_RUN_ENDS_S = 90.0
_PATIENT_S = 30.0


@pytest.fixture
async def api(lab: FlowLab) -> AsyncIterator[httpx.AsyncClient]:
    """The API, with the deployment that starts one subject; what it starts is worked when the test says so."""
    (wanted,) = [one for one in wanted_deployments() if one.name == "onboard-subject"]
    made = await cast("Awaitable[UUID]", served(wanted).aapply())
    async with httpx.AsyncClient(base_url=f"{lab.server.api_url}/", trust_env=False, timeout=_PATIENT_S) as http:
        yield http
    async with get_client() as client:
        await client.delete_deployment(made)


async def deployment_id(api: httpx.AsyncClient) -> str:
    answer = await api.get(f"deployments/name/{ONE_SUBJECT}")
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


async def post(api: httpx.AsyncClient, **body: Any) -> httpx.Response:
    """Start the deployment; a busy server is asked again with the same body, as docs/trigger.md says."""
    async with asyncio.timeout(_RUN_ENDS_S):
        while True:
            answer = await api.post(f"deployments/{await deployment_id(api)}/create_flow_run", json=body)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                return answer
            await asyncio.sleep(0.2)


async def worked(lab: FlowLab, run_id: str) -> Ran:
    """Work a run that was started, as whoever serves the deployment does."""
    async with get_client() as client:
        run = await client.read_flow_run(UUID(run_id))
    return await lab.ended(await cast("Awaitable[Any]", run_flow(onboard_subject, run, return_type="state")))


async def runs(api: httpx.AsyncClient) -> list[FlowRun]:
    chosen = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[UUID(await deployment_id(api))]))
    async with get_client() as client:
        return await client.read_flow_runs(flow_run_filter=chosen)


@contextlib.contextmanager
def our_api(lab: FlowLab) -> Iterator[PrefectApi]:
    with httpx.Client(base_url=f"{lab.server.api_url}/", trust_env=False) as http:
        yield PrefectApi(lab.server.api_url, "", None, _PATIENT_S, http)


async def start_file(lab: FlowLab, path: Path) -> Started:
    """As `onboard trigger FILE`."""
    with our_api(lab) as ours:
        return await asyncio.to_thread(start, ours, read_wanted(str(path)), None)


async def test_a_run_is_started_by_name_and_followed_to_its_ending_by_plain_http(
    api: httpx.AsyncClient, lab: FlowLab
) -> None:
    answer = await post(api, parameters={"request": example()})
    assert answer.status_code == 201, answer.text
    run_id = answer.json()["id"]
    assert answer.json()["state"]["type"] == "SCHEDULED"
    await worked(lab, run_id)
    run = (await api.get(f"flow_runs/{run_id}")).json()
    (case,) = lab.bench.ledger.cases()
    assert (run["state"]["type"], run["state"]["name"]) == ("COMPLETED", "Onboarded")
    assert run["state"]["message"] == f"case {case.id}: every requested step is done."
    assert {f"case:{case.id}", f"study:{STUDY_ID}", "onboarding"} == set(run["tags"])


async def test_completed_is_not_yet_onboarded(api: httpx.AsyncClient, lab: FlowLab) -> None:
    lab.control.undispense(STUDY_ID, "test", INVENTORY_ID)
    run_id = (await post(api, parameters={"request": only("device")})).json()["id"]
    await worked(lab, run_id)
    state = (await api.get(f"flow_runs/{run_id}")).json()["state"]
    assert (state["type"], state["name"]) == ("COMPLETED", "AwaitingDispensation")
    with our_api(lab) as ours:
        answer = ours.get(f"flow_runs/{run_id}").content
        again = start(ours, read_wanted(None, lab.bench.ledger.cases()[0].id), None)
    assert answer["state"]["message"].endswith(f"NOT_DISPENSED: {advice('NOT_DISPENSED')}")
    lab.control.dispense(STUDY_ID, "test", INVENTORY_ID, seed.subject_id(1))
    assert (await worked(lab, again.run.id)).how == ("COMPLETED", "Onboarded")


async def test_what_callers_read_of_a_failed_run_holds_the_code_and_nothing_of_the_vendors_words(
    api: httpx.AsyncClient, lab: FlowLab
) -> None:
    lab.fault("update_registration", "refuse", code="CPR_DUP_PPID", phrase=f"{MARKER}@example.org", when="before")
    run_id = (await post(api, parameters={"request": only("registration")})).json()["id"]
    ran = await worked(lab, run_id)
    assert ran.how == ("FAILED", "NeedsAttention")
    await lab.tasks(ran, 1)
    chosen = {"flow_runs": {"id": {"any_": [run_id]}}}
    read = [
        await api.get(f"flow_runs/{run_id}"),
        await api.post("flow_runs/filter", json=chosen),
        await api.post("task_runs/filter", json=chosen),
        await api.post("logs/filter", json={"logs": {"flow_run_id": {"any_": [run_id]}}}),
        await api.post("artifacts/filter", json={"artifacts": {"flow_run_id": {"any_": [run_id]}}}),
        await api.get(f"flow_run_states/?flow_run_id={run_id}"),
    ]
    assert [answer.status_code for answer in read] == [200] * len(read)
    text = "".join(answer.text for answer in read)
    assert "CPR_DUP_PPID" in text
    assert MARKER not in text


async def test_a_key_stands_for_one_run_for_ever_even_after_it_has_ended(api: httpx.AsyncClient, lab: FlowLab) -> None:
    body: dict[str, Any] = {"parameters": {"request": only("registration")}, "idempotency_key": f"wish {uuid4()}"}
    first = await post(api, **body)
    together = await asyncio.gather(*(post(api, **body) for _ in range(4)))
    assert first.status_code == 201
    assert {(one.status_code, one.json()["id"]) for one in together} == {(200, first.json()["id"])}
    await worked(lab, first.json()["id"])
    other = await post(api, **{**body, "parameters": {"case_id": "7K3Q9M2XW4TB"}})
    assert (other.status_code, other.json()["id"]) == (200, first.json()["id"]), "other parameters are not looked at"
    assert other.json()["parameters"] == body["parameters"]
    assert len(await runs(api)) == 1


async def test_our_key_finds_the_run_under_way_and_is_a_new_one_once_it_has_ended(
    api: httpx.AsyncClient, lab: FlowLab, tmp_path: Path
) -> None:
    path = tmp_path / "request.json"
    path.write_text(json.dumps(only("registration")))
    first, again = await start_file(lab, path), await start_file(lab, path)
    assert (first.created, again.created) == (True, False)
    assert first.run.id == again.run.id
    assert (await worked(lab, first.run.id)).how == ("COMPLETED", "Onboarded")
    together = await asyncio.gather(*(start_file(lab, path) for _ in range(4)))
    (later,) = {one.run.id for one in together}
    assert later != first.run.id, "a start after the first has ended is no silent nothing"
    assert any(one.created for one in together), "Prefect may call one run new to several who ask at once"
    ran = await worked(lab, later)
    assert ran.how == ("COMPLETED", "Onboarded")
    assert ran.message.endswith("it was onboarded before; nothing was sent.")
    assert lab.effects() == {"registration_updated": 1}
    async with get_client() as client:  # the page's Retry: the same run is under way once more
        await client.set_flow_run_state(UUID(later), Scheduled(), force=True)
    retried = await start_file(lab, path)
    assert (retried.created, retried.run.id) == (False, later)
    async with get_client() as client:
        await client.delete_flow_run(UUID(later))
    assert (await start_file(lab, path)).created is True, "a run that was deleted is in nobody's way"


async def test_a_key_of_ones_own_with_another_request_is_refused_by_our_command(
    api: httpx.AsyncClient, lab: FlowLab, tmp_path: Path
) -> None:
    path, other = tmp_path / "request.json", tmp_path / "other.json"
    path.write_text(json.dumps(example()))
    other.write_text(json.dumps(only("registration")))
    key = f"mine-{uuid4()}"
    with our_api(lab) as ours:
        first = await asyncio.to_thread(start, ours, read_wanted(str(path)), key)
        again = await asyncio.to_thread(start, ours, read_wanted(str(path)), key)
        assert (first.created, again.created, again.run.id) == (True, False, first.run.id)
        with pytest.raises(BadInput, match=f"it belongs to run {first.run.id}, which has other parameters"):
            await asyncio.to_thread(start, ours, read_wanted(str(other)), key)


WRONG: dict[str, dict[str, Any]] = {
    "request.subject.mode": {"request": example(subject__mode="live")},
    "request.device.subject_number": {"request": example(device__subject_number=["siteA-1"])},
    "request.registration.id": {"request": example(registration__id="one")},
    "request.registration": {"request": example(registration__participant={"id": 2, "firstName": MARKER})},
    "request": {"request": {**example(), "registraton": {}}},
    "dry_run": {"dry_run": "yes"},
}


@pytest.mark.parametrize("name", WRONG)
async def test_the_form_refuses_with_the_fields_name_and_no_run_is_made(
    api: httpx.AsyncClient, lab: FlowLab, name: str
) -> None:
    answer = await post(api, parameters=WRONG[name])
    assert answer.status_code == 409, answer.text
    detail = answer.json()["detail"]
    assert name.rpartition(".")[2] in detail, detail
    async with get_client() as client:
        with pytest.raises(PrefectHTTPStatusError) as refused:
            await client.create_flow_run_from_deployment(UUID(await deployment_id(api)), parameters=WRONG[name])
    assert refused.value.response.status_code == 409
    assert await runs(api) == []


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ({"parameters": "request.json"}, "parameters"),
        ({"parameters": {}, "idempotency_key": 17}, "idempotency_key"),
        ({"parameters": {}, "idempotencyKey": "a"}, "idempotencyKey"),
        ({"parameters": {}, "tags": "onboarding"}, "tags"),
    ],
)
async def test_a_body_that_is_not_as_the_api_wants_it_is_refused_with_the_fields_name(
    api: httpx.AsyncClient, lab: FlowLab, body: dict[str, Any], name: str
) -> None:
    answer = await post(api, **body)
    assert answer.status_code == 422, answer.text
    assert name in answer.text
    assert await runs(api) == []


async def test_a_deployment_that_does_not_exist_is_404(api: httpx.AsyncClient, lab: FlowLab) -> None:
    assert (await api.get("deployments/name/onboard-subject/other")).status_code == 404
    assert (await api.post(f"deployments/{uuid4()}/create_flow_run", json={"parameters": {}})).status_code == 404


# Prefect 3.8's own wait leaves the connection open by which it hears of the end.
@pytest.mark.filterwarnings("ignore:unclosed transport:ResourceWarning")
async def test_prefects_own_client_starts_waits_and_reads_the_ending(api: httpx.AsyncClient, lab: FlowLab) -> None:
    key = f"wish {uuid4()}"
    asked: dict[str, Any] = {"parameters": {"request": example(dnd_exception=LEFT_OUT)}, "idempotency_key": key}
    run = await arun_deployment(ONE_SUBJECT, timeout=0, as_subflow=False, **asked)
    again = await arun_deployment(ONE_SUBJECT, timeout=0, as_subflow=False, **asked)
    assert again.id == run.id
    working = asyncio.create_task(worked(lab, str(run.id)))
    ended: Any = await wait_for_flow_run(run.id, timeout=int(_RUN_ENDS_S))
    await working
    assert ended.state is not None
    assert (ended.state.type.value, ended.state.name) == ("COMPLETED", "Onboarded")
    (case,) = lab.bench.ledger.cases()
    assert f"case:{case.id}" in ended.tags


async def _work_what_comes(lab: FlowLab, api: httpx.AsyncClient) -> Ran:
    """Whoever serves the deployment: takes up the first run that comes."""
    async with asyncio.timeout(_RUN_ENDS_S):
        while not (found := await runs(api)):  # noqa: ASYNC110 - it comes from another process
            await asyncio.sleep(0.2)
    return await worked(lab, str(found[0].id))


async def test_the_command_starts_waits_and_gives_the_exit_status_of_the_ending(
    api: httpx.AsyncClient, lab: FlowLab, tmp_path: Path
) -> None:
    lab.fault("update_registration", "refuse", code="CPR_DUP_PPID", when="before")
    path = tmp_path / "request.json"
    path.write_text(json.dumps(only("registration")))
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *("trigger", str(path), "--wait", "--timeout", str(_RUN_ENDS_S)),
        env={**lab.server.environment, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    ran, (out, err) = await asyncio.gather(_work_what_comes(lab, api), process.communicate())
    (case,) = lab.bench.ledger.cases()
    assert (process.returncode, err.decode()) == (4, "")
    first, *said = out.decode().splitlines()
    assert first.endswith(f"/runs/flow-run/{ran.run.id}")
    retry = f"onboard trigger --case {case.id} --retry-refused"
    assert said == [
        f"Case {case.id}: NeedsAttention - a person must look: the code says why",
        f"  CPR_DUP_PPID: {advice('CPR_DUP_PPID')}",
        f"  when that is mended: {retry}; else a run of decide-case, or: onboard show {case.id}",
    ]
    with our_api(lab) as ours:
        mended = start(ours, read_wanted(None, case.id, retry_refused=True), None)
        assert (await worked(lab, mended.run.id)).how == ("COMPLETED", "Onboarded")
        seen = follow(ours, mended.run, None, lambda _: None)
    assert (seen.case_id, seen.ending, seen.exit_status) == (case.id, "Onboarded", 0)
    assert lab.effects() == {"registration_updated": 1}


async def test_a_persons_details_do_not_reach_the_api(api: httpx.AsyncClient, lab: FlowLab, tmp_path: Path) -> None:
    path = tmp_path / "request.json"
    path.write_text(json.dumps(example(registration__participant=PARTICIPANT)))
    with pytest.raises(BadInput, match="never enter Prefect"):
        await start_file(lab, path)
    assert await runs(api) == []


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A server that wants a log-in, and tokens against forged requests."""
    settings = {"PREFECT_SERVER_API_AUTH_STRING": AUTH, "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true"}
    with running_prefect_server(tmp_path_factory.mktemp("guarded"), settings=settings) as server:
        yield server


async def _deploy(server: PrefectServer) -> None:
    async with PrefectClient(server.api_url, auth_string=AUTH) as client:
        await client.create_deployment(
            flow_id=await client.create_flow(onboard_subject),
            name="onboard-subject",
            parameter_openapi_schema=parameter_schema(onboard_subject).model_dump(exclude_unset=True),
            enforce_parameter_schema=True,
        )


async def test_a_server_with_a_log_in_and_protection_against_forged_requests_is_triggered(
    prefect_server: PrefectServer, guarded: PrefectServer, tmp_path: Path
) -> None:
    await _deploy(guarded)
    path = tmp_path / "request.json"
    path.write_text(json.dumps(example()))

    def started(auth: str | None) -> Started:
        basic = None if auth is None else httpx.BasicAuth(*auth.split(":"))
        with httpx.Client(base_url=f"{guarded.api_url}/", trust_env=False, auth=basic) as http:
            ours = PrefectApi(guarded.api_url, "", "PREFECT_API_AUTH_STRING" if auth else None, _PATIENT_S, http)
            return start(ours, read_wanted(str(path)), None)

    with pytest.raises(BadSettings, match="PREFECT_API_AUTH_STRING: is not set, but wanted"):
        await asyncio.to_thread(started, None)
    with pytest.raises(BadSettings, match="PREFECT_API_AUTH_STRING: is refused"):
        await asyncio.to_thread(started, "admin:other")
    assert (await asyncio.to_thread(started, AUTH)).created is True
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli.main", "trigger", str(path), "--json"),
        env={**guarded.environment, "PYTHONPATH": str(ROOT), "PREFECT_API_AUTH_STRING": AUTH},
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert (process.returncode, json.loads(out)["created"]) == (0, False), "the same run, by Prefect's own settings"
