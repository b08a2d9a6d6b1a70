"""What enters Prefect: opaque ids, coded identifiers and codes, and nothing of a person."""

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect import get_client
from prefect.client.base import PrefectHttpxAsyncClient

from flows.asked import NOT_STORED
from flows.run import tag_run
from onboarding.intake import parse_request
from onboarding.ledger.store import StoreUnavailable
from onboarding.workbench import Workbench
from tests.flows.lab import FlowLab, Ran
from tests.steps.lab import STUDY, only
from tests.support.requests import INVENTORY_ID, LEFT_OUT, MARKER, PARTICIPANT, SUBJECT_ID, example, request
from vendor_sandbox import seed
from vendor_sandbox.uuids import code

pytestmark = pytest.mark.prefect


def personal() -> dict[str, Any]:
    """The example with a person's details and a free text."""
    return example(registration__participant=PARTICIPANT, registration__op_comments=f"Comment {MARKER}")


async def test_a_run_is_found_by_its_case_its_study_and_its_name(lab: FlowLab) -> None:
    ran = await lab.flow(request=request())
    (case,) = lab.bench.ledger.cases()
    assert ran.run.name == f"subject ..{SUBJECT_ID[-8:]}"
    assert ran.run.tags == [f"case:{case.id}", f"study:{STUDY}"]
    resumed = await lab.flow(case_id=case.id.lower())
    assert resumed.run.name == f"case {case.id}"
    tasks = await lab.tasks(ran, 4)
    assert [task.name for task in tasks] == [
        f"{step} {case.id}" for step in ("registration", "dispensation", "device", "dnd_exception")
    ]
    assert [task.tags for task in tasks] == [[f"case:{case.id}"]] * 4


async def test_no_task_of_a_run_asks_the_server_for_a_slot(lab: FlowLab, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    send = PrefectHttpxAsyncClient.send

    async def watched(
        client: PrefectHttpxAsyncClient, sent: httpx.Request, *args: Any, **options: Any
    ) -> httpx.Response:
        asked.append(sent.url.path)
        return await send(client, sent, *args, **options)

    monkeypatch.setattr(PrefectHttpxAsyncClient, "send", watched)
    ran = await lab.flow(request=request())
    assert ran.how == ("COMPLETED", "Onboarded")
    assert any("set_state" in path for path in asked)
    assert not [path for path in asked if "concurrency" in path]


async def test_a_task_that_waits_to_be_tried_again_is_found_by_its_case(lab: FlowLab) -> None:
    lab.fault("update_registration", "throttle", when="before", retry_after=1)
    held = lab.fault("update_registration", "hold", nth=2)
    run = asyncio.create_task(lab.flow(request=only("registration")))
    await lab.control.wait_held(fault_id=held)
    (case,) = lab.bench.ledger.cases()
    (task,) = await lab.tagged(f"case:{case.id}", 1)
    assert task.name == f"registration {case.id}"
    assert task.state is not None
    assert not task.state.is_final()
    lab.control.remove_faults()
    assert (await run).how == ("COMPLETED", "Onboarded")


async def test_every_run_of_a_case_has_its_tags_even_if_it_could_not_work_it(lab: FlowLab) -> None:
    ran = await lab.flow(request=request())
    again = await lab.flow(request=request())
    assert again.run.tags == ran.run.tags != []


async def test_tags_that_a_run_has_already_are_kept(lab: FlowLab) -> None:
    from prefect import tags

    with tags("from a schedule"):
        ran = await lab.flow(request=only("registration"))
    assert "from a schedule" in ran.run.tags
    assert len(ran.run.tags) == 3


async def test_a_ledger_that_does_not_answer_leaves_a_run_without_its_tags_and_says_so(
    lab: FlowLab, caplog: pytest.LogCaptureFixture
) -> None:
    async def in_thread(*_: object) -> None:
        raise StoreUnavailable("it does not answer")

    here = lab.bench
    bench = Workbench(here.settings, here.connections, here.ledger, here.systems, here.runner, in_thread, in_thread)
    await tag_run(bench, "7K3Q9M2XW4TB")
    assert "run_not_tagged case=7K3Q9M2XW4TB error=StoreUnavailable" in caplog.text


async def test_the_stored_parameters_are_the_request_and_can_be_read_again(lab: FlowLab) -> None:
    ran = await lab.flow(request=request())
    assert ran.run.parameters["request"]["subject"]["subject_id"] == SUBJECT_ID
    assert request() == type(request()).model_validate(ran.run.parameters["request"])


async def test_an_intake_request_with_a_persons_details_is_refused_and_not_stored(lab: FlowLab) -> None:
    for given in (parse_request(personal()), personal()):
        ran = await lab.flow(request=given)
        assert ran.how == ("FAILED", "RequestRefused")
        assert "registration.participant.firstName: is not a known key" in ran.message
        assert ran.run.parameters == {"request": NOT_STORED, "dry_run": False, "retry_refused": False}
        await nothing_personal(lab, ran)
    assert lab.calls() == []
    assert lab.bench.ledger.cases() == []


async def test_an_intake_request_without_personal_data_is_taken(lab: FlowLab) -> None:
    ran = await lab.flow(request=parse_request(only("registration")))
    assert ran.how == ("COMPLETED", "Onboarded")
    assert ran.run.parameters["request"] == request(device=LEFT_OUT, dnd_exception=LEFT_OUT).model_dump(mode="json")


async def test_a_case_with_a_persons_details_shows_nothing_of_them(lab: FlowLab) -> None:
    case_id = await lab.open(personal())
    planned = await lab.flow(case_id=case_id, dry_run=True)
    assert planned.how == ("COMPLETED", "Planned")
    ran = await lab.flow(case_id=case_id)
    await lab.messages(ran, "Finished in state")
    await nothing_personal(lab, planned)
    await nothing_personal(lab, ran)


async def test_a_vendors_refusal_that_echoes_a_person_is_kept_out(lab: FlowLab) -> None:
    lab.fault("update_registration", "refuse", code="CPR_DUP_PPID", phrase=f"{MARKER}@example.org", when="before")
    lab.fault("register_device", "refuse", phrase=f"Subject {MARKER} is wrong", when="before")
    for content in (only("registration"), only("device")):
        ran = await lab.flow(request=content)
        assert ran.how == ("FAILED", "NeedsAttention")
        await nothing_personal(lab, ran)


async def test_no_log_in_secret_and_no_device_credential_enters_prefect(lab: FlowLab) -> None:
    ran = await lab.flow(request=request())
    await lab.messages(ran, "Finished in state")
    await lab.tasks(ran, 4)

    assert seed.PASSWORD not in (stored := "".join(everything_stored(lab.server.home)))
    assert seed.CLIENT_SECRET not in stored
    for secret in device_credentials():
        assert secret not in stored


async def test_results_are_stored_nowhere(lab: FlowLab, test_home: Path) -> None:
    lab.control.undispense(STUDY, "test", INVENTORY_ID)
    folders = [home / "storage" for home in (lab.server.home, test_home / "prefect")]
    before = {file for folder in folders for file in folder.rglob("*")}
    for parameters in ({"request": request()}, {"request": request(), "dry_run": True}, {}, {"case_id": "0" * 12}):
        await lab.flow(**parameters)
    assert {file for folder in folders for file in folder.rglob("*")} == before


async def nothing_personal(lab: FlowLab, ran: Ran) -> None:
    """Neither the marker nor a value beside it is anywhere in the server's database."""
    async with get_client() as client:
        assert (await client.read_flow_run(ran.run.id)).state is not None
    for text in everything_stored(lab.server.home):
        assert MARKER not in text
        assert "1961-07-03" not in text


def device_credentials() -> list[str]:
    """What the sandbox gave out for the device: its codes are made up of the ids."""
    return [code("access", INVENTORY_ID, 1, length=6), code("otp", INVENTORY_ID, 1, length=8)]


def everything_stored(home: Path) -> Iterator[str]:
    """Every value of every table of the server's database, and every file beside it."""
    (database,) = home.glob("*.db")
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        assert "flow_run" in tables
        for table in tables:
            for row in connection.execute(f'SELECT * FROM "{table}"'):
                yield " ".join(
                    bytes(one).decode("utf-8", "replace") if isinstance(one, bytes) else str(one) for one in row
                )
    connection.close()
    for file in home.rglob("*"):
        if file.is_file():
            yield file.read_bytes().decode("utf-8", "replace")
