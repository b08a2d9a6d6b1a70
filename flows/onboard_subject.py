"""Onboard one clinical-trial subject: the flow that the page, schedules and the API start."""

import asyncio
from typing import Annotated, Any

from prefect.client.schemas.objects import State
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from flows import ahead
from flows.asked import ID_PATTERN, Asked, NotShown, asked_flow, name_of_run, read_asked, shown, storable_request
from flows.plan_artifact import plan_rows, save_plan
from flows.run import ended, ended_by, is_page_retry, not_worked, tag_run, workbench_of_this_run
from onboarding.endings import Ending
from onboarding.intake import IntakeRequest, parse_request
from onboarding.ledger.leasing import Closed
from onboarding.ledger.views import Held
from onboarding.request import OnboardingRequest
from onboarding.steps.planning import plan
from onboarding.workbench import Workbench, check_mode, logging_in
from tasks import work_by_tasks

RequestField = Annotated[
    OnboardingRequest | NotShown,
    shown(
        title="Request",
        description="Who is onboarded, and what for: fill in the subject and at least one other section. A section in which "
        "nothing is filled in is not asked for. Leave everything empty to go on with a case.",
    ),
]
CaseField = Annotated[
    str | NotShown,
    shown(
        title="Case",
        description="A case to go on with, instead of a request. Example: 7K3Q9M2XW4TB",
        pattern=ID_PATTERN,
    ),
]
DryRunField = Annotated[
    bool, shown(title="Dry run", description="Read only, and show what would be done. Nothing is sent or stored.")
]
RetryField = Annotated[
    bool,
    shown(
        title="Try refused steps again",
        description="For a case that needs attention, after what was refused is mended.",
    ),
]


def run_name() -> str:
    """A name without personal data: the case, or the end of the subject's id. Asked for, a run gets ready."""
    ahead.get_ready()
    return name_of_run(flow_run.parameters)


@asked_flow(storable=storable_request, name="onboard-subject", flow_run_name=run_name)
async def onboard_subject(
    request: RequestField = None,
    case_id: CaseField = None,
    dry_run: DryRunField = False,
    retry_refused: RetryField = False,
) -> State[Any]:
    """Onboard one subject: registration, dispensation, device, DND exception, in this order.

    Read how it ended by the name of the state: Completed is not yet onboarded, Onboarded is.
    """
    try:
        asked = read_asked({"request": request, "case_id": case_id, "dry_run": dry_run, "retry_refused": retry_refused})
        async with workbench_of_this_run() as bench:
            if asked.dry_run:
                return await _show_plan(bench, asked)
            case = await _find_case(bench, asked)
            study = asked.request.subject.study_id if asked.request is not None else None
            return await _onboard(bench, case, study, retry=asked.retry_refused or is_page_retry())
    except Exception as error:  # noqa: BLE001 - Prefect would store the text of any, and pickle it
        return ended_by(error)


async def _onboard(bench: Workbench, case_id: str, study_id: str | None, *, retry: bool) -> State[Any]:
    tagging = asyncio.create_task(tag_run(bench, case_id, study_id))  # the work need not wait for a label
    try:
        async with bench.session(case_id, retry=retry) as session:
            if isinstance(session, Held | Closed):
                return not_worked(case_id, session)
            async with logging_in(session):
                report = await work_by_tasks(session)
            return ended(report.ending, case_id, code=report.code)
    finally:
        await tagging


async def _find_case(bench: Workbench, asked: Asked) -> str:
    if asked.request is None:
        assert asked.case_id is not None
        return asked.case_id
    opened = await bench.open_case(asked.request)
    if opened.replaced:
        get_run_logger().info("request_replaced case=%s sections=%s", opened.case_id, ",".join(opened.replaced))
    return opened.case_id


async def _show_plan(bench: Workbench, asked: Asked) -> State[Any]:
    request: IntakeRequest = (
        parse_request(asked.request.vendor_json())
        if asked.request is not None
        else await bench.in_thread(bench.ledger.request, asked.case_id)
    )
    check_mode(request, bench.settings)
    lines = await plan(request, bench.systems, bench.settings)
    await save_plan(lines)
    for row in plan_rows(lines):
        get_run_logger().info("plan %s", " | ".join(f"{key}: {value}" for key, value in row.items() if value))
    return ended(Ending.PLANNED, asked.case_id)
