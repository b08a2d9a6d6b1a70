"""What flows share: settings and connections of this run, states by the table of endings, tags that find a case's runs."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.states import Cancelled, Completed, Failed

from blocks import connections_for_flows
from flows import ahead
from flows.events import FAILED, emit_ending
from onboarding.advice import advice
from onboarding.endings import ENDINGS, Ending
from onboarding.errors import (
    BadInput,
    BadSettings,
    CaseContradicted,
    LeaseLost,
    LedgerError,
    OnboardingError,
    RequestConflict,
)
from onboarding.ledger.deciding import DecisionRefused
from onboarding.ledger.leasing import Closed
from onboarding.ledger.states import CaseStatus
from onboarding.ledger.views import CaseView, Held
from onboarding.settings import load_settings
from onboarding.workbench import Workbench, open_workbench
from tasks.faults import told

_MAKERS: Final = {"COMPLETED": Completed, "FAILED": Failed, "CANCELLED": Cancelled}
_log: Final = logging.getLogger("onboarding.flows")


@asynccontextmanager
async def workbench_of_this_run() -> AsyncIterator[Workbench]:
    """The workbench that this process's settings, or the blocks of the Prefect server, describe."""
    settings = load_settings()
    connections = await connections_for_flows(settings)
    run_id = _flow_run_id()
    async with open_workbench(
        settings,
        connections,
        actor=f"prefect run {run_id}",
        flow_run_id=run_id,
        ledger=ahead.opened_ledger(),
        await_close=not ahead.OF_ONE_RUN,
    ) as bench:
        yield bench


def ended(
    ending: Ending,
    case_id: str | None,
    *,
    code: str | None = None,
    what: str | None = None,
    batch_id: str | None = None,
) -> State[Any]:
    """The state in which a run ends: type and name by the table, a message that says what to do next.

    An event with the same name tells it to automations.
    """
    facts = ENDINGS[ending]
    emit_ending(ending.value, case_id=case_id, batch_id=batch_id, code=code)
    case = f"case {case_id}: " if case_id else ""
    detail = what or (f"{code}: {advice(code)}" if code else f"{facts.meaning}.")
    return _MAKERS[facts.state](name=str(ending), message=f"{case}{detail}")


def ended_by(error: Exception) -> State[Any]:
    """The state of a run that an error ended. Of an error that is none of ours, only type and place are said."""
    what = str(error)
    if isinstance(error, BadSettings):
        emit_ending(FAILED, code=type(error).__name__)
        return Failed(message=what)
    if isinstance(error, BadInput | RequestConflict | DecisionRefused):
        return ended(Ending.REQUEST_REFUSED, None, what=what)
    if isinstance(error, CaseContradicted):
        return ended(Ending.NEEDS_ATTENTION, None, what=what)
    if isinstance(error, LeaseLost):
        return ended(Ending.LEASE_LOST, None, what=what)
    emit_ending(FAILED, code=type(error).__name__)
    return Failed(message=what if isinstance(error, OnboardingError) else told(error))


def not_worked(case_id: str, why: Held | Closed) -> State[Any]:
    """The state of a run that could not work its case."""
    if isinstance(why, Held):
        return ended(
            Ending.HELD_BY_ANOTHER_RUN, case_id, what=f"another run works on it; its lease ends in {why.left_s:.0f} s."
        )
    if why.status is CaseStatus.DONE:
        return ended(Ending.ONBOARDED, case_id, what="it was onboarded before; nothing was sent.")
    if why.status is CaseStatus.ATTENTION:
        return ended(Ending.NEEDS_ATTENTION, case_id, code=why.reason)
    return ended(Ending.REQUEST_REFUSED, case_id, what=f"it is {why.status} and cannot be worked.")


async def tag_run(bench: Workbench, case_id: str, study_id: str | None = None) -> None:
    """Tag this run with its case and study, so that all runs of a case are found; a failure is only noted.

    ``study_id``: the case's, if it is known; else the ledger is asked.
    """
    if study_id is not None:
        await label_run(f"case:{case_id}", f"study:{study_id}")
        return
    try:
        case: CaseView | None = await bench.in_thread(bench.ledger.case, case_id)
    except LedgerError as error:  # the work itself says so, if it meets it too
        _log.warning("run_not_tagged case=%s error=%s", case_id, type(error).__name__)
        return
    if case is not None:
        await label_run(f"case:{case_id}", f"study:{case.study_id}")


async def label_run(*labels: str) -> None:
    """Add tags to this run; a failure is only noted."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    tags = sorted({*context.flow_run.tags, *labels})
    try:
        client = context.client  # the run's own: another one would cost more than the request
        assert isinstance(client, PrefectClient), "every flow here is asynchronous"
        await client.update_flow_run(context.flow_run.id, tags=tags)
    except Exception as error:  # noqa: BLE001 - a label, whatever keeps it from being set
        _log.warning("run_not_tagged labels=%s error=%s", ",".join(labels), type(error).__name__)


def is_page_retry() -> bool:
    """Whether a person retried this run (the page's Retry runs the same flow run again, from the top)."""
    context = FlowRunContext.get()
    return context is not None and context.flow_run is not None and context.flow_run.run_count > 1


def _flow_run_id() -> str | None:
    context = FlowRunContext.get()
    return str(context.flow_run.id) if context is not None and context.flow_run is not None else None
