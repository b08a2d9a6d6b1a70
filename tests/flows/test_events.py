"""Each ending is an event that automations can follow: a stable name, ids and a code, and nothing else."""

from uuid import UUID

import pytest
from prefect import flow, get_client
from prefect.context import FlowRunContext

from flows.events import FAILED, emit_ending, event_name
from flows.run import ended, ended_by
from onboarding.endings import Ending
from onboarding.errors import BadInput, BadSettings, CaseContradicted, LeaseLost
from tests.flows.lab import FlowLab
from tests.flows.test_setup_command import events_of
from tests.support.prefect_server import PrefectServer
from tests.support.requests import MARKER, PARTICIPANT, example

pytestmark = pytest.mark.prefect
CASE, BATCH, CODE = "7K3Q9M2XW4TB", "4M8R2C6ZQ1VA", "CPR_DUP_PPID"
OF_STEPS = (Ending.DONE, Ending.ALREADY_DONE, Ending.NOT_REQUESTED)
OF_RUNS = [ending for ending in Ending if ending not in OF_STEPS]


def run_id() -> UUID:
    context = FlowRunContext.get()
    assert context is not None
    assert context.flow_run is not None
    return context.flow_run.id


async def test_every_ending_of_a_run_is_an_event_of_its_own_with_ids_and_code(prefect_server: PrefectServer) -> None:
    @flow
    async def ends_in_every_way() -> None:
        for ending in OF_RUNS:
            ended(ending, CASE, code=CODE, what=f"words for people, {MARKER}")
            ended(ending, None, batch_id=BATCH, what=f"words for people, {MARKER}")

    await ends_in_every_way()
    async with get_client() as client:
        for resource, case, batch, code in (
            (f"onboarding.case.{CASE}", CASE, None, CODE),
            (f"onboarding.batch.{BATCH}", None, BATCH, None),
        ):
            found = await events_of(client, "onboarding.", resource, at_least=len(OF_RUNS))
            assert {one["event"] for one in found} == {event_name(ending.value) for ending in OF_RUNS}
            for one in found:
                ending = one["event"].removeprefix("onboarding.")
                assert one["payload"] == {"ending": ending, "case": case, "batch": batch, "code": code}
            assert MARKER not in str(found)


async def test_an_error_that_ends_a_run_is_an_event_that_names_its_type_and_not_its_text(
    prefect_server: PrefectServer,
) -> None:
    errors: dict[str, Exception] = {
        "onboarding.RequestRefused": BadInput([f"about {MARKER}"]),
        "onboarding.NeedsAttention": CaseContradicted(CASE),
        "onboarding.LeaseLost": LeaseLost(CASE),
        "onboarding.Failed": ValueError(f"about {MARKER}"),
    }

    @flow
    async def ends_by_errors() -> UUID:
        for error in (*errors.values(), BadSettings([f"about {MARKER}"])):
            ended_by(error)
        return run_id()

    resource = f"onboarding.run.{await ends_by_errors()}"
    async with get_client() as client:
        found = await events_of(client, "onboarding.", resource, at_least=len(errors) + 1)
    assert {one["event"] for one in found} == set(errors)
    failed = {one["payload"]["code"] for one in found if one["event"] == event_name(FAILED)}
    assert failed == {"ValueError", "BadSettings"}
    assert MARKER not in str(found)


async def test_the_events_of_a_case_with_a_persons_details_hold_nothing_of_them(lab: FlowLab) -> None:
    case_id = await lab.open(example(registration__participant=PARTICIPANT))
    lab.fault("update_registration", "refuse", code=CODE, when="before")
    ran = await lab.flow(case_id=case_id)
    assert ran.how == ("FAILED", "NeedsAttention")
    async with get_client() as client:
        (found,) = await events_of(client, "onboarding.", f"onboarding.case.{case_id}")
        of_prefect = await events_of(client, "prefect.flow-run.", f"prefect.flow-run.{ran.run.id}")
    assert (found["payload"]["case"], found["payload"]["code"]) == (case_id, CODE)
    assert MARKER not in str([found, *of_prefect])


def test_outside_a_flow_run_nothing_is_told() -> None:
    emit_ending(Ending.ONBOARDED.value, case_id=CASE)
