"""`onboard_batch` and `take_inbox`: task runs or chunks, artifacts without anything personal, endings, and the inbox."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from prefect import flow, get_client
from prefect.artifacts import aupdate_progress_artifact
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags, TaskRunFilter, TaskRunFilterTags
from prefect.client.schemas.objects import State
from prefect.flow_engine import run_flow
from prefect.utilities.callables import parameter_schema

from flows import batch_artifacts
from flows.asked import NOT_STORED
from flows.batch_artifacts import ROWS_SHOWN, most_urgent
from flows.batch_asked import name_of_batch_run, read_batch_asked, storable_batch
from flows.onboard_batch import onboard_batch
from flows.onboard_chunk import left_alone_s, onboard_chunk
from flows.take_inbox import take_inbox
from onboarding.batch.engine import Worked, one_by_one
from onboarding.batch.intake import Intake, take_in_file
from onboarding.batch.results import Result
from onboarding.endings import Ending
from onboarding.errors import BadInput
from onboarding.ledger.states import CaseStatus
from onboarding.ledger.store import StoreGone
from tasks.chunk import Chunk, Chunks
from tests.flows.lab import FlowLab, Ran, flow_laboratory
from tests.support.batch_files import csv_text, exception_row, subject_row
from tests.support.prefect_server import PrefectServer
from tests.support.requests import MARKER
from vendor_sandbox import seed

BATCH = "7K3Q9M2XW4TB"
PERSONAL = {"registration__participant__first_name": MARKER, "registration__participant__birth_date": "1961-07-03"}


@pytest.fixture
async def small(
    prefect_server: PrefectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[FlowLab]:
    """A laboratory in which three cases are a large batch, worked in chunks of two, and with an inbox."""
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    settings: dict[str, Any] = {"batch_task_runs": 2, "batch_chunk": 2, "concurrency": 2, "inbox": inbox}
    async with flow_laboratory(prefect_server, tmp_path, monkeypatch, **settings) as lab:
        lab.control.seed(seed.many(8))
        yield lab


def file_of(lab: FlowLab, *rows: Mapping[str, str], name: str = "site.csv") -> Path:
    folder = lab.bench.settings.inbox
    assert folder is not None
    path = folder / name
    path.write_text(csv_text(rows))
    os.utime(path, (time.time() - 60,) * 2)
    return path


async def taken_in(lab: FlowLab, *rows: Mapping[str, str], skip_bad: bool = False) -> str:
    """The id of a batch with these rows."""
    path = file_of(lab, *rows, name="elsewhere.csv")
    path = path.rename(path.parent.parent / "elsewhere.csv")

    def take() -> Intake:
        return take_in_file(
            lab.bench.ledger,
            path,
            addresses=lab.bench.systems.addresses,
            actor="tester",
            settings=lab.bench.settings,
            skip_bad=skip_bad,
        )

    intake: Intake = await lab.bench.in_thread(take)
    assert intake.released
    return intake.batch_id


async def run(lab: FlowLab, **parameters: Any) -> Ran:
    state = await onboard_batch(**parameters, return_state=True)
    assert isinstance(state, State)
    return await lab.ended(state)


async def artifacts(lab: FlowLab, ran: Ran) -> dict[str, dict[str, Any]]:
    """The run's artifacts by their keys."""
    async with httpx.AsyncClient(base_url=f"{lab.server.api_url}/", trust_env=False, timeout=30) as client:
        body = {"artifacts": {"flow_run_id": {"any_": [str(ran.run.id)]}}}
        return {one["key"]: one for one in (await client.post("artifacts/filter", json=body)).json()}


# A batch


@pytest.mark.prefect
async def test_a_small_batch_shows_each_step_as_a_task_run_that_is_found_by_its_case(small: FlowLab) -> None:
    batch_id = await taken_in(small, subject_row(1, **PERSONAL), subject_row(2))
    ran = await run(small, batch_id=batch_id)
    assert ran.how == ("COMPLETED", "BatchDone"), ran.message
    assert ran.message == f"batch {batch_id}: 2 of 2 cases done."
    assert ran.run.name == f"batch {batch_id}"
    assert f"batch:{batch_id}" in ran.run.tags
    assert len(await small.tasks(ran, 8)) == 8
    case = small.bench.ledger.cases()[0]
    async with get_client() as client:
        found = await client.read_task_runs(
            task_run_filter=TaskRunFilter(tags=TaskRunFilterTags(all_=[f"case:{case.id}"]))
        )
    assert sorted(one.name.split()[0] for one in found) == ["device", "dispensation", "dnd_exception", "registration"]
    assert small.effects() == {"registration_updated": 2, "device_registered": 2, "dnd_exception_created": 1}


@pytest.mark.prefect
async def test_a_large_batch_is_worked_in_chunks_by_the_same_steps(small: FlowLab) -> None:
    batch_id = await taken_in(small, *(subject_row(number, **PERSONAL) for number in range(1, 6)))
    ran = await run(small, batch_id=batch_id)
    assert ran.how == ("COMPLETED", "BatchDone"), ran.message
    chunks = await small.tasks(ran, 3)
    assert sorted(one.name for one in chunks) == ["chunk 1", "chunk 2", "chunk 3"]
    said = sorted(str(one.state.message) for one in chunks if one.state is not None)
    assert said == ["1 cases: 1 Onboarded", "2 cases: 2 Onboarded", "2 cases: 2 Onboarded"]
    assert small.effects() == {"registration_updated": 5, "device_registered": 5, "dnd_exception_created": 1}


@pytest.mark.prefect
async def test_the_next_chunk_begins_while_the_last_case_of_the_one_before_is_slow(small: FlowLab) -> None:
    batch_id = await taken_in(small, *(subject_row(number) for number in range(1, 5)))
    held = small.fault("read_registration", "hold", nth=2)
    running = asyncio.create_task(run(small, batch_id=batch_id))
    await small.control.wait_held(fault_id=held)
    while sum(case.status is CaseStatus.DONE for case in small.bench.ledger.cases()) < 3:  # noqa: ASYNC110 - as below
        await asyncio.sleep(0.05)  # the ledger signals nobody
    small.control.remove_faults()
    assert (await running).how == ("COMPLETED", "BatchDone")


@pytest.mark.prefect
async def test_the_chunks_that_were_under_way_say_why_a_batch_was_cut_off(small: FlowLab) -> None:
    class Cut:
        """Works two cases; then the ledger is gone."""

        processes = 1

        async def work(self, case_id: str) -> Worked:
            if case_id == "third":
                raise StoreGone("the ledger is out of reach: look at its database.")
            return Worked(case_id, Ending.ONBOARDED)

        def no_more(self) -> None:
            """Nothing has to end."""

        def closed_for_s(self) -> float:
            return 0.0

    worked: list[Worked] = []

    @flow(name="cut-off")
    async def cut_off() -> None:
        chunks = Chunks(Cut(), size=2, lanes=1)
        await chunks.work(one_by_one(["first", "second", "third", "fourth"]), worked.append, stop=asyncio.Event())

    ran = await small.ended(cast("State[Any]", await cut_off(return_state=True)))
    assert ran.how == ("FAILED", "Failed")
    assert "StoreGone" in ran.message
    ended = {one.name: one.state for one in await small.tasks(ran, 2)}
    assert {name: state.type.value for name, state in ended.items() if state} == {
        "chunk 1": "COMPLETED",
        "chunk 2": "FAILED",
    }
    assert "out of reach" in str(ended["chunk 2"] and ended["chunk 2"].message)
    assert [one.case_id for one in worked] == ["first", "second"]


async def test_a_chunk_whose_cases_all_ended_is_not_cut_off_by_what_comes_later() -> None:
    chunk = Chunk(1, 1)
    chunk.begin()
    chunk.end(Worked("first", Ending.ONBOARDED))
    chunk.fail(StoreGone("the ledger is out of reach: look at its database."))
    assert await chunk.counted() == {Ending.ONBOARDED: 1}
    assert not chunk.has_failed


@pytest.mark.prefect
async def test_the_last_progress_is_shown_even_if_the_server_was_busy(
    small: FlowLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    update, failures = aupdate_progress_artifact, iter(range(2))

    async def busy(*given: Any, **named: Any) -> Any:
        if next(failures, None) is not None:
            raise ConnectionError
        return await update(*given, **named)

    monkeypatch.setattr(batch_artifacts, "aupdate_progress_artifact", busy)
    batch_id = await taken_in(small, exception_row(1))
    ran = await run(small, batch_id=batch_id)
    assert ran.how == ("COMPLETED", "BatchDone")
    assert next(failures, None) is None, "it was busy twice"
    assert float((await artifacts(small, ran))["onboarding-batch-progress"]["data"]) == 100.0


def test_a_row_that_is_done_while_the_table_is_made_stands_in_it_once() -> None:
    refused, begun, done = (Result(row, row + 1, "K", "", "", "", "") for row in (1, 2, 3))
    unfinished = [replace(begun, outcome="open"), replace(refused, outcome="attention")]
    shown = most_urgent(iter(unfinished), iter(replace(row, outcome="done") for row in (begun, done)))
    assert [(result.row, result.outcome) for result in shown] == [(1, "attention"), (2, "open"), (3, "done")]


def test_of_many_rows_those_that_need_a_person_are_shown_first() -> None:
    rows = [Result(row, row + 1, "K", "waiting" if row % 2 else "attention", "", "", "") for row in range(1, 1201)]
    shown = most_urgent(iter(rows), iter(()))
    assert [result.row for result in shown] == list(range(2, 2 * ROWS_SHOWN + 1, 2))


@pytest.mark.prefect
async def test_progress_table_and_summary_are_kept_with_the_run_and_hold_nothing_personal(small: FlowLab) -> None:
    small.fault("update_registration", "refuse", code="CPR_DUP_PPID")
    bad = subject_row(4, registration__id=MARKER)
    batch_id = await taken_in(small, *(subject_row(n, **PERSONAL) for n in range(1, 4)), bad, skip_bad=True)
    ran = await run(small, batch_id=batch_id)
    assert ran.how == ("FAILED", "BatchNeedsAttention")
    assert "2 of 3 cases done, 1 need attention, 1 row not taken" in ran.message
    assert f"onboard status --batch {batch_id} --only attention" in ran.message
    found = await artifacts(small, ran)
    assert set(found) == {"onboarding-batch-progress", "onboarding-batch-results", "onboarding-batch-summary"}
    assert float(found["onboarding-batch-progress"]["data"]) == 100.0
    summary = found["onboarding-batch-summary"]["data"]
    for words in ("CPR_DUP_PPID", "| done |  | 2 |", "BAD_ROW", "Slowest step: **", "onboard status --batch"):
        assert words in summary
    table = found["onboarding-batch-results"]["data"]
    assert table.index("BAD_ROW") < table.index("CPR_DUP_PPID") < table.index('"done"'), "the most urgent first"
    assert MARKER not in str(found)
    assert "1961" not in str(found)


@pytest.mark.prefect
async def test_the_same_batch_again_and_a_run_that_waits_end_by_their_names(small: FlowLab) -> None:
    batch_id = await taken_in(small, exception_row(1), exception_row(2))
    small.fault("list_exceptions", "throttle", retry_after=600)
    waits = await run(small, batch_id=batch_id)
    assert waits.how == ("COMPLETED", "BatchWaits")
    assert "2 waiting" in waits.message
    assert "Next look" in waits.message
    asked = len(small.calls())
    again = await run(small, batch_id=batch_id)
    assert again.how == ("COMPLETED", "BatchWaits")
    assert len(small.calls()) == asked


@pytest.mark.prefect
async def test_a_dry_run_reads_only_and_keeps_its_plan(small: FlowLab) -> None:
    other = str(seed.SeededSubject(3).participant_id)
    merging = subject_row(2, registration__participant__id=other, registration__allow_merge="true")
    plain = subject_row(1, **PERSONAL, registration__allow_merge="")
    batch_id = await taken_in(small, plain, merging)
    ran = await run(small, batch_id=batch_id, dry_run=True)
    assert ran.how == ("COMPLETED", "Planned"), ran.message
    assert (
        "subjects: 2; subjects with a case already: 2; possible merges of two people, which cannot be undone: 1; "
        in ran.message
    )
    assert "device would register: 2" in ran.message
    plan = (await artifacts(small, ran))["onboarding-batch-plan"]
    assert MARKER not in str(plan)
    assert "externalSubjectId" in plan["data"]
    assert plan["data"].count("this may merge two people") == 1
    assert small.effects() == {}


@pytest.mark.prefect
async def test_the_run_of_a_shared_batch_hears_from_its_chunks_that_a_vendor_is_left_alone(
    small: FlowLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONBOARDING_BATCH_WORKERS", "2")
    batch_id = await taken_in(small, *(exception_row(number) for number in range(1, 13)))  # more of a chunk than lanes
    small.fault("list_exceptions", "throttle", retry_after=600)
    async with get_client() as client:
        await client.create_deployment(flow_id=await client.create_flow(onboard_chunk), name="onboard-chunk")
        running = asyncio.create_task(run(small, batch_id=batch_id))
        try:
            while not running.done():
                await work_chunks(client, batch_id)
                await asyncio.sleep(0.2)  # Prefect signals nobody here
        finally:
            running.cancel()
            await asyncio.wait({running})
    ran = running.result()
    assert ran.how == ("COMPLETED", "BatchWaits"), ran.message
    assert "12 waiting" in ran.message
    assert "a vendor is left alone for a while" in ran.message


async def work_chunks(client: PrefectClient, batch_id: str) -> None:
    """What workers do: run the chunks of a batch that are scheduled, here one after another."""
    tagged = FlowRunFilter(tags=FlowRunFilterTags(all_=[f"batch:{batch_id}"]))
    for found in await client.read_flow_runs(flow_run_filter=tagged):
        if found.deployment_id is not None and found.state is not None and found.state.is_scheduled():
            await cast("Awaitable[Any]", run_flow(onboard_chunk, found, return_type="state"))


def test_only_the_tag_of_a_chunk_tells_of_a_vendor() -> None:
    assert left_alone_s(["batch:X", "vendor-left-alone:16", "vendor-left-alone:7"]) == 16.0
    assert left_alone_s(["batch:X", "vendor-left-alone:long"]) == 0.0


# Parameters


@pytest.mark.prefect
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"batch_id": BATCH, "file": "x.csv"},
        {"file": f"../{MARKER}.csv"},
        {"file": f"/{MARKER}"},
        {"batch_id": MARKER},
        {"batch_id": BATCH, "concurrency": MARKER},
        {"batch_id": BATCH, "dry_run": MARKER},
        {"batch_id": BATCH},
        {"file": "nowhere.csv"},
    ],
)
async def test_what_cannot_be_used_is_refused_and_not_repeated(small: FlowLab, given: dict[str, Any]) -> None:
    ran = await run(small, **given)
    assert ran.how == ("FAILED", "RequestRefused")
    assert MARKER not in ran.message
    assert MARKER not in str(ran.run.parameters)
    assert MARKER not in ran.run.name
    assert small.calls() == []


def test_only_what_can_be_used_is_stored() -> None:
    assert storable_batch({"batch_id": MARKER, "dry_run": True}) == {"batch_id": NOT_STORED, "dry_run": True}
    assert storable_batch({"batch_id": f" {BATCH.lower()} ", "file": None})["batch_id"] == BATCH
    assert name_of_batch_run({"file": f"{MARKER}.csv"}) == "file from the inbox"
    assert name_of_batch_run({}) == "no batch"
    for lanes in (0, 1001, True, "8", 1.5):
        with pytest.raises(BadInput, match="concurrency"):
            read_batch_asked({"batch_id": BATCH, "concurrency": lanes})


def test_the_form_says_what_each_field_is() -> None:
    fields = parameter_schema(onboard_batch).model_dump()["properties"]
    assert [one["title"] for one in fields.values()] == [
        "File in the inbox", "Batch", "Dry run", "Leave bad rows out", "Cases at a time",
    ]  # fmt: skip
    assert all(one["description"] for one in fields.values())


# The inbox


async def swept(lab: FlowLab) -> Ran:
    return await lab.ended(await take_inbox(return_state=True))


def places(lab: FlowLab) -> list[str]:
    folder = lab.bench.settings.inbox
    assert folder is not None
    found = (path for path in folder.rglob("*") if not path.is_dir() and path.name != ".lock")
    return sorted(str(path.relative_to(folder)) for path in found)


@pytest.mark.prefect
async def test_a_file_in_the_inbox_is_worked_by_its_name_and_moved_with_its_results(small: FlowLab) -> None:
    file_of(small, exception_row(1), exception_row(2))
    ran = await run(small, file="site.csv")
    assert ran.how == ("COMPLETED", "BatchDone"), ran.message
    batch_id = small.bench.ledger.cases()[0].batch_id
    assert places(small) == [f"done/site.{batch_id}.csv", f"done/site.{batch_id}.results.csv"]


@pytest.mark.prefect
async def test_the_inbox_is_swept_each_file_by_a_run_of_its_own_and_no_name_enters_prefect(small: FlowLab) -> None:
    file_of(small, exception_row(1), name=f"{MARKER}.csv")
    file_of(small, exception_row(2), subject_row(3, registration__id="none"), name="bad.csv")
    folder = small.bench.settings.inbox
    assert folder is not None
    (folder / "link.csv").symlink_to("/etc/hostname")
    ran = await swept(small)
    assert ran.how == ("COMPLETED", "InboxTaken"), ran.message
    assert "2 files: " in ran.message
    assert "1 BatchDone" in ran.message
    assert "1 RequestRefused" in ran.message
    kinds = sorted(place.split("/")[0] for place in places(small))
    assert kinds == ["done", "done", "link.csv", "rejected", "rejected"]
    again = await swept(small)
    assert again.how == ("COMPLETED", "NothingDue")
    async with httpx.AsyncClient(base_url=f"{small.server.api_url}/", trust_env=False, timeout=30) as client:
        runs = (await client.post("flow_runs/filter", json={"limit": 50})).text
    assert MARKER not in runs


@pytest.mark.prefect
async def test_a_file_that_the_folder_does_not_let_go_keeps_no_other_from_its_turn_and_fails_the_run(
    small: FlowLab,
) -> None:
    os.utime(file_of(small, exception_row(1), name=f"{MARKER}.csv"), (0, 0))
    os.utime(file_of(small, exception_row(2), name="患者登録" * 18 + ".csv"), (1, 1))
    file_of(small, exception_row(3), name="later.csv")
    folder = small.bench.settings.inbox
    assert folder is not None
    (folder / ".taken").mkdir()
    (folder / ".taken" / f"{MARKER}.csv").write_text("in the way")
    ran = await swept(small)
    assert ran.how == ("FAILED", "Failed")
    assert ran.message.startswith("1 file stays in the inbox; of the others: 2 files: "), ran.message
    assert "1 rejected" in ran.message
    assert "1 BatchDone" in ran.message
    assert "Mend the folder or the disk" in ran.message
    assert MARKER not in ran.message
    (folder / ".taken" / f"{MARKER}.csv").unlink()
    assert (await swept(small)).message == "1 file: 1 BatchDone."


@pytest.mark.prefect
async def test_results_that_cannot_be_written_are_no_refused_request_and_the_next_run_writes_them(
    small: FlowLab,
) -> None:
    file_of(small, exception_row(1))
    folder = small.bench.settings.inbox
    assert folder is not None
    (folder / "done").write_text("no folder")
    ran = await run(small, file="site.csv")
    assert ran.how == ("FAILED", "Failed")
    assert "cannot be written" in ran.message
    assert small.effects() == {"dnd_exception_created": 1}
    (folder / "done").unlink()
    assert (await run(small, file="site.csv")).how == ("COMPLETED", "BatchDone")
    assert small.effects() == {"dnd_exception_created": 1}


@pytest.mark.prefect
async def test_a_file_dropped_twice_is_said_and_moved_and_opens_nothing(small: FlowLab) -> None:
    for _ in range(2):
        file_of(small, exception_row(1))
        ran = await run(small, file="site.csv")
        assert ran.how == ("COMPLETED", "BatchDone")
    assert "taken in before" in ran.message
    assert len(small.bench.ledger.cases()) == 1
    assert len(places(small)) == 2


@pytest.mark.prefect
async def test_a_run_that_was_stopped_leaves_its_file_to_the_next_one(small: FlowLab) -> None:
    file_of(small, *(subject_row(number) for number in range(1, 4)))
    held = small.fault("read_registration", "hold")
    running = asyncio.create_task(run(small, file="site.csv"))
    await small.control.wait_held(fault_id=held)
    running.cancel()
    await asyncio.wait({running})
    small.control.remove_faults()
    assert places(small) == [".taken/site.csv/site.csv"]
    assert (await swept(small)).message == "1 file: 1 BatchDone."
    assert small.effects() == {"registration_updated": 3, "device_registered": 3, "dnd_exception_created": 1}
    assert [place.split("/")[0] for place in places(small)] == ["done", "done"]


@pytest.mark.prefect
async def test_without_an_inbox_there_is_nothing_to_do(lab: FlowLab) -> None:
    ran = await swept(lab)
    assert ran.how == ("COMPLETED", "NothingDue")
    assert "ONBOARDING_INBOX" in ran.message
    assert (await run(lab, file="x.csv")).how == ("FAILED", "Failed")
