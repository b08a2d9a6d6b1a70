"""Short waits are retried by Prefect under the lease, long ones park the case, and a person's Retry goes on with it."""

import asyncio
from pathlib import Path

import pytest
from prefect import flow
from prefect.client.schemas.objects import StateType
from prefect.settings import (
    PREFECT_FLOWS_DEFAULT_RETRIES,
    PREFECT_RESULTS_PERSIST_BY_DEFAULT,
    PREFECT_TASKS_DEFAULT_RETRIES,
    temporary_settings,
)

from flows.asked import asked_flow
from flows.onboard_subject import onboard_subject
from onboarding.ledger.states import CaseStatus, StepName
from onboarding.steps.case import SHORT_WAITS
from onboarding.steps.report import SHORT_WAIT_S
from onboarding.steps.session import CaseSession
from tasks import STEP_TASKS, registration
from tasks.step_task import RETRY_DELAYS_S, report_of, working_on
from tests.flows.lab import FlowLab, unknown_registration
from tests.steps.lab import leased, only
from tests.support.requests import MARKER, example, request

pytestmark = pytest.mark.prefect


async def test_a_short_pause_is_waited_for_by_the_task_under_the_lease(lab: FlowLab) -> None:
    lab.fault("update_registration", "throttle", when="before", retry_after=1)
    held = lab.fault("update_registration", "hold", nth=2)
    run = asyncio.create_task(lab.flow(request=only("registration")))
    await lab.control.wait_held(fault_id=held)
    (case,) = lab.bench.ledger.cases()
    assert case.lease_left_s > 0
    lab.control.remove_faults()
    ran = await run
    assert ran.how == ("COMPLETED", "Onboarded")
    task = (await lab.tasks(ran, 4))[0]
    assert (task.name, task.run_count) == (f"registration {case.id}", 2)
    assert (await lab.steps(ran))[0] == ("registration", "COMPLETED", "Completed")
    assert lab.case(case.id).takings == 1
    assert lab.effects() == {"registration_updated": 1}


async def test_short_waits_that_never_end_are_given_up_and_the_case_is_parked(lab: FlowLab) -> None:
    lab.control.listening("openspecimen", open=False)
    ran = await lab.flow(request=only("registration"))
    assert ran.how == ("COMPLETED", "RetryScheduled")
    assert "CONNECT_REFUSED" in ran.message
    (task,) = await lab.tasks(ran, 1)
    assert task.run_count == len(RETRY_DELAYS_S) + 1
    assert task.state is not None
    assert (task.state.type, task.state.name) == (StateType.COMPLETED, "RetryScheduled")
    (case,) = lab.bench.ledger.cases()
    assert case.status is CaseStatus.READY
    assert case.due_at is not None
    assert case.due_at > case.updated_at
    assert case.lease_left_s == 0


def test_tasks_wait_as_often_as_the_direct_door_does_and_as_long_as_the_longest_short_wait() -> None:
    assert len(RETRY_DELAYS_S) == SHORT_WAITS
    assert sum(RETRY_DELAYS_S) >= SHORT_WAIT_S


def test_nothing_else_is_retried_cached_or_stored_by_a_task() -> None:
    for step_task in STEP_TASKS:
        assert step_task.persist_result is False
        assert step_task.cache_key_fn is None
        assert step_task.cache_policy is not None
        assert step_task.cache_policy.compute_key(None, {"case_id": "X"}, {}) is None  # type: ignore[arg-type]
        assert step_task.timeout_seconds is None, "a time-out of Prefect would stop an effect half-way"


async def test_defaults_of_a_prefect_installation_change_neither_retries_nor_storage(
    lab: FlowLab, test_home: Path
) -> None:
    """A retry by Prefect itself would pass for a person's, and try refused steps again."""
    folders = [home / "storage" for home in (lab.server.home, test_home / "prefect")]
    before = {file for folder in folders for file in folder.rglob("*")}
    lab.fault("update_registration", "refuse", code="CPR_DUP_PPID", when="before")
    changed = {
        PREFECT_FLOWS_DEFAULT_RETRIES: 2,
        PREFECT_TASKS_DEFAULT_RETRIES: 2,
        PREFECT_RESULTS_PERSIST_BY_DEFAULT: True,
    }
    with temporary_settings(changed):
        assert asked_flow(storable=dict, name="another")(onboard_subject.fn).retries == 0
        refused = await lab.flow(request=only("registration"))
        assert refused.how == ("FAILED", "NeedsAttention")
        assert len(lab.calls("update_registration")) == 1
    assert {file for folder in folders for file in folder.rglob("*")} == before


async def test_retry_on_the_page_goes_on_with_a_refused_step_and_shows_what_was_done(lab: FlowLab) -> None:
    lab.fault("register_device", "refuse", phrase="Invalid subject ID", when="before")
    ran = await lab.flow(request=request())
    assert ran.how == ("FAILED", "NeedsAttention")
    before = lab.calls("update_registration")
    again = await lab.retried(ran)
    assert again.run.id == ran.run.id
    assert again.run.run_count == 2
    assert again.how == ("COMPLETED", "Onboarded")
    second = [task for task in await lab.tasks(again, 7) if task.flow_run_run_count == 2]
    assert [(task.name.split()[0], task.state and task.state.name) for task in second] == [
        ("registration", "AlreadyDone"),
        ("dispensation", "AlreadyDone"),
        ("device", "Completed"),
        ("dnd_exception", "Completed"),
    ]
    assert lab.calls("update_registration") == before
    (case,) = lab.bench.ledger.cases()
    (resumed,) = lab.trail(case.id, "case_resumed")
    assert resumed.actor == f"prefect run {ran.run.id}"
    assert lab.effects() == {"registration_updated": 1, "device_registered": 1, "dnd_exception_created": 1}


async def test_retry_on_the_page_never_sends_what_is_unknown_again(lab: FlowLab) -> None:
    unknown = await unknown_registration(lab)
    sent = lab.calls()
    again = await lab.retried(unknown)
    assert again.how == ("FAILED", "NeedsAttention")
    assert "then decide" in again.message
    assert lab.calls() == sent


async def test_retry_of_a_run_that_onboarded_sends_nothing(lab: FlowLab) -> None:
    ran = await lab.flow(request=request())
    sent = lab.calls()
    again = await lab.retried(ran)
    assert again.how == ("COMPLETED", "Onboarded")
    assert lab.calls() == sent


async def test_retry_takes_the_parameters_as_they_were_stored(lab: FlowLab) -> None:
    """A key that was not given must not come back as a null, which would clear what stands."""
    lab.fault("update_registration", "throttle", when="before", retry_after=60)
    ran = await lab.flow(request=only("registration"))
    (case,) = lab.bench.ledger.cases()
    again = await lab.retried(ran)
    assert again.how == ("COMPLETED", "RetryScheduled")
    assert lab.trail(case.id, "request_replaced") == []
    assert [one.id for one in lab.bench.ledger.cases()] == [case.id]


async def test_a_cancelled_run_leaves_its_case_to_be_resumed_at_once(lab: FlowLab) -> None:
    held = lab.fault("register_device", "hold", when="after")
    run = asyncio.create_task(lab.flow(request=request()))
    await lab.control.wait_held(fault_id=held)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    lab.control.remove_faults()
    assert await lab.control.wait_idle()
    (case,) = lab.bench.ledger.cases()
    assert case.status is CaseStatus.READY
    assert case.lease_left_s == 0, "nobody waits for the lease of a run that was cancelled"
    ran = await lab.flow(case_id=case.id)
    assert ran.how[0] == "COMPLETED"
    assert lab.effects()["device_registered"] == 1


async def test_an_answer_that_came_late_and_contradicts_asks_for_a_person(lab: FlowLab) -> None:
    case_id = await lab.open(example())
    held = lab.fault("read_registration", "hold")
    run = asyncio.create_task(lab.flow(case_id=case_id))
    await lab.control.wait_held(fault_id=held)
    late = {"step": "device", "attempt": 1, "fence": 0, "says": "applied", "code": "REGISTERED"}
    lab.bench.ledger.keep_late_answer(case_id, "a runner before", late)
    lab.control.remove_faults()
    ran = await run
    assert ran.how == ("FAILED", "NeedsAttention")
    assert ran.message.startswith(f"case {case_id}: an answer that came late says otherwise")
    assert lab.status(case_id) == (CaseStatus.ATTENTION, "LATE_ANSWER_CONTRADICTS")
    assert lab.calls("update_registration") == []


class FaultySession(CaseSession):
    """A session whose store fails in a way that nobody foresaw, with a text that must not get out."""

    async def look(self, step: StepName) -> None:  # type: ignore[override]
        raise RuntimeError(f"UPDATE steps SET body = '{MARKER}'")


async def test_an_unforeseen_fault_stops_the_run_and_its_text_stays_out_of_prefect(lab: FlowLab) -> None:
    case_id = await lab.open(example())

    @flow(persist_result=False)
    async def work(case_id: str) -> None:
        async with leased(lab.bench, case_id) as session:
            faulty = FaultySession.__new__(FaultySession)
            faulty.__dict__.update(session.__dict__)
            with working_on(faulty):
                await report_of(registration, case_id)

    ran = await lab.ended(await work(case_id, return_state=True))
    assert ran.how == ("FAILED", "Failed")
    assert "an unexpected RuntimeError in" in ran.message
    (task,) = await lab.tasks(ran, 1)
    assert task.state is not None
    assert "an unexpected RuntimeError in onboarding/steps/attempt.py, line " in str(task.state.message)
    logged = await lab.messages(ran, "an unexpected RuntimeError")
    assert MARKER not in "".join([*logged, ran.message, str(task.state.message)])


async def test_a_case_is_worked_twice_in_one_run_when_it_is_asked_for_twice(lab: FlowLab) -> None:
    """Prefect's default cache would hand the first result to the second call."""
    case_id = await lab.open(only("registration"))
    lab.fault("read_registration", "throttle", when="before", retry_after=60)
    names: list[str] = []

    @flow(persist_result=False)
    async def twice() -> None:
        for _ in range(2):
            async with leased(lab.bench, case_id) as session:
                with working_on(session):
                    names.append((await report_of(registration, case_id)).code or "")
                await session.abandon()

    await twice()
    assert names == ["THROTTLED", "THROTTLED"]
    case = lab.case(case_id)
    assert case.steps[StepName.REGISTRATION].waits == 2
