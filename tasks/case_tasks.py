"""One case by the four tasks of its steps, in order, under the flow run that is under way."""

from onboarding.endings import Ending
from onboarding.steps.case import CaseReport, conclude
from onboarding.steps.session import CaseSession
from tasks.device import device
from tasks.dispensation import dispensation
from tasks.dnd_exception import dnd_exception
from tasks.registration import registration
from tasks.step_task import report_of, working_on

STEP_TASKS = (registration, dispensation, device, dnd_exception)


async def work_by_tasks(session: CaseSession) -> CaseReport:
    """Work a leased case, a task run for each step, tagged with the case; stop at the first that does not go on."""
    case_id = session.case_id
    with working_on(session) as reports:
        for step_task in STEP_TASKS:
            if not (await report_of(step_task, case_id)).goes_on:
                return await conclude(session, reports)
    await session.finish()
    return CaseReport(case_id, Ending.ONBOARDED, steps=tuple(reports))
