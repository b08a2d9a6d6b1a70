"""`resume_cases`: every due case, a few by runs of their own, whatever Prefect still shows of the run that left it."""

import asyncio
from collections.abc import Awaitable
from typing import Any, cast

import pytest
from prefect import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun
from prefect.flow_engine import run_flow
from prefect.states import Running, Scheduled
from sqlalchemy import update

from flows.onboard_subject import onboard_subject
from flows.resume_cases import MOST_CASES, RUNS_OF_THEIR_OWN, read_limit, resume_cases, storable_limit
from onboarding.clocks import utc_now
from onboarding.errors import BadInput
from onboarding.ledger import batches
from onboarding.ledger.columns import BATCHES
from onboarding.ledger.leasing import Runner
from onboarding.ledger.states import CaseStatus
from onboarding.ledger.writes import Lease
from tests.flows.lab import STEPS, FlowLab, Ran
from tests.steps.lab import STUDY, only
from vendor_sandbox import seed

COUNT_PER_CASE = 4


async def resumed(lab: FlowLab, **parameters: Any) -> Ran:
    return await lab.ended(await resume_cases(**parameters, return_state=True))


async def open_cases(lab: FlowLab, *subjects: int) -> list[str]:
    return [await lab.open(only("dnd_exception", subject__subject_id=seed.subject_id(one))) for one in subjects]


async def runs_of(case_id: str) -> list[FlowRun]:
    chosen = FlowRunFilter(tags=FlowRunFilterTags(all_=[f"case:{case_id}"]))
    async with get_client() as client:
        return await client.read_flow_runs(flow_run_filter=chosen)


@pytest.mark.prefect
async def test_each_due_case_is_worked_by_a_tagged_run_of_four_tasks_the_oldest_first(lab: FlowLab) -> None:
    cases = await open_cases(lab, 3, 1, 2)
    ran = await resumed(lab)
    assert ran.how == ("COMPLETED", "Resumed")
    assert ran.message == "3 cases were due: 3 Onboarded."
    began = []
    for case_id in cases:
        (run,) = await runs_of(case_id)
        assert (run.name, run.state_name) == (f"case {case_id}", "Onboarded")
        assert f"study:{STUDY}" in run.tags
        began.append(run.start_time)
    assert run.state is not None
    assert [name for name, _, _ in await lab.steps(Ran(run.state, run))] == list(STEPS)
    assert began == sorted(began, key=str)
    assert lab.effects() == {"dnd_exception_created": 1}


@pytest.mark.prefect
async def test_a_case_that_needs_a_person_or_waits_does_not_fail_the_run(lab: FlowLab) -> None:
    await open_cases(lab, 1, 2, 3)
    lab.fault("list_exceptions", "refuse", phrase="Invalid study ID or version")
    lab.fault("list_exceptions", "throttle", nth=2, retry_after=60)
    ran = await resumed(lab)
    assert ran.how == ("COMPLETED", "Resumed")
    assert ran.message == "3 cases were due: 2 RetryScheduled, 1 NeedsAttention."
    again = await resumed(lab)
    assert (again.how, again.message) == (("COMPLETED", "NothingDue"), "no case was due.")


@pytest.mark.prefect
async def test_what_is_left_of_a_file_whose_reading_died_is_removed_a_day_later_without_another_file(
    lab: FlowLab,
) -> None:
    ledger = lab.bench.ledger
    begun = [batches.open_batch(ledger, lab.bench.systems.addresses, actor="tester") for _ in range(2)]
    old = update(BATCHES).where(BATCHES.c.id == begun[0]).values(updated_at=utc_now() - batches.ABANDONED_AFTER)
    ledger.store.write(lambda connection: connection.execute(old))
    await resumed(lab)
    assert [batches.batch(ledger, batch_id) is None for batch_id in begun] == [True, False]


@pytest.mark.prefect
async def test_no_more_cases_than_asked_for_are_worked_and_the_rest_comes_next(lab: FlowLab) -> None:
    cases = await open_cases(lab, 2, 1)
    ran = await resumed(lab, limit=1)
    assert ran.message == "1 case was due: 1 Onboarded. There may be more."
    assert [lab.case(case_id).status for case_id in cases] == [CaseStatus.DONE, CaseStatus.READY]
    await resumed(lab, limit=1)
    assert lab.case(cases[1]).status is CaseStatus.DONE


@pytest.mark.prefect
async def test_many_due_cases_are_worked_in_the_run_itself_many_at_a_time(lab: FlowLab) -> None:
    """A run for each would work less than one case a second: too few, where a large batch waits for its dispensations."""
    many = RUNS_OF_THEIR_OWN + 1
    cases = await open_cases(lab, *range(1, many + 1))
    together = lab.fault("list_exceptions", "hold")
    running = asyncio.create_task(resumed(lab))
    await lab.control.wait_held(fault_id=together)
    while sum(lab.case(case_id).lease_left_s > 0 for case_id in cases) < 2:  # noqa: ASYNC110 - the ledger signals nobody
        await asyncio.sleep(0.05)
    lab.control.remove_faults()
    ran = await running
    assert ran.how == ("COMPLETED", "Resumed")
    assert ran.message == f"{many} cases were due: {many} Onboarded."
    assert await runs_of(cases[0]) == []
    assert lab.effects() == {"dnd_exception_created": 1}


@pytest.mark.prefect
async def test_a_case_whose_dead_run_prefect_still_shows_as_running_is_gone_on_with(lab: FlowLab) -> None:
    """As after kill -9 of a worker and its run: nothing tells Prefect, and the case's lease ends by itself."""
    case_id = await lab.open(only("registration"))
    async with get_client() as client:
        dead = await client.create_flow_run(onboard_subject, parameters={"case_id": case_id})
        await client.set_flow_run_state(dead.id, Running(), force=True)
    killed = Runner("killed", 2.0, str(dead.id))
    assert isinstance(lab.bench.ledger.take(case_id, killed, lab.bench.systems.addresses), Lease)
    assert await lab.bench.find_due(10) == []
    await asyncio.sleep(lab.case(case_id).lease_left_s)  # nobody is left to signal its end
    assert (await resumed(lab)).message == "1 case was due: 1 Onboarded."
    assert lab.case(case_id).status is CaseStatus.DONE
    async with get_client() as client:
        assert (await client.read_flow_run(dead.id)).state_name == "Running"


@pytest.mark.prefect
async def test_a_retry_of_the_run_works_what_is_due_then(lab: FlowLab) -> None:
    (first,) = await open_cases(lab, 1)
    ran = await resumed(lab)
    (second,) = await open_cases(lab, 2)
    async with get_client() as client:
        await client.set_flow_run_state(ran.run.id, Scheduled(), force=True)
        run = await client.read_flow_run(ran.run.id)
    again = await lab.ended(await cast("Awaitable[Any]", run_flow(resume_cases, run, return_type="state")))
    assert again.message == "1 case was due: 1 Onboarded."
    assert [lab.case(case_id).status for case_id in (first, second)] == [CaseStatus.DONE, CaseStatus.DONE]


@pytest.mark.prefect
@pytest.mark.parametrize("limit", [0, MOST_CASES + 1, True, "ten", None, 1.5])
async def test_a_limit_that_makes_no_sense_is_refused_before_anything_is_worked(lab: FlowLab, limit: Any) -> None:
    await open_cases(lab, 1)
    ran = await resumed(lab, limit=limit)
    assert ran.how == ("FAILED", "RequestRefused")
    assert ran.message.startswith("limit: must be ")
    assert lab.calls() == []


def test_only_a_number_is_stored() -> None:
    assert storable_limit({"limit": "Ada Lovelace"}) == {}
    assert storable_limit({"limit": 5}) == {"limit": 5}
    assert read_limit(5) == 5
    with pytest.raises(BadInput):
        read_limit("5")


@pytest.mark.prefect
async def test_a_ledger_that_cannot_be_opened_fails_the_run_with_its_reason(
    lab: FlowLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONBOARDING_LEDGER_KEY", "A" * 43 + "=")
    ran = await resumed(lab)
    assert ran.state.type.value == "FAILED"
    assert "key" in ran.message
