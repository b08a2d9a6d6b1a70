"""One attempt at one step, with what every step's calls have in common: what an error means for the step."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from onboarding.endings import Ending
from onboarding.errors import AnswerError, LoginRefused, NotYet, Refused, Unavailable
from onboarding.ledger.states import StepName, StepStatus
from onboarding.ledger.views import StepView
from onboarding.ledger.writes import CaseWrite
from onboarding.steps import device, dispensation, dnd_exception, registration
from onboarding.steps.report import StepReport
from onboarding.steps.sending import said, wait_report
from onboarding.steps.session import CaseSession

STEP_WORK: Final[Mapping[StepName, Callable[[CaseSession], Awaitable[StepReport]]]] = {
    StepName.REGISTRATION: registration.ensure_registration,
    StepName.DISPENSATION: dispensation.ensure_dispensation,
    StepName.DEVICE: device.ensure_device,
    StepName.DND_EXCEPTION: dnd_exception.ensure_dnd_exception,
}
_SETTLED: Final[Mapping[StepStatus, Ending]] = {
    StepStatus.DONE: Ending.ALREADY_DONE,
    StepStatus.NOT_REQUESTED: Ending.NOT_REQUESTED,
    StepStatus.REFUSED: Ending.NEEDS_ATTENTION,
    StepStatus.UNKNOWN: Ending.NEEDS_ATTENTION,
}


async def attempt_step(session: CaseSession, step: StepName) -> StepReport:
    """Work one step once. A report that waits has not been parked yet; the caller waits or concludes."""
    view = await session.look(step)
    if view.status in _SETTLED:
        return StepReport(step, _SETTLED[view.status], view.code)
    if step is StepName.DEVICE and await _was_rolled_back(session):
        seen = await attempt_step(session, StepName.DISPENSATION)
        if not seen.goes_on:
            return seen
    if view.status is StepStatus.OPEN and not view.intent.in_doubt:
        await session.commit(lambda write: write.step(step).doubt("RUNNER_STOPPED"))
    try:
        return await STEP_WORK[step](session)
    except AnswerError as error:
        return await _record_read_error(session, step, view, error)


async def _was_rolled_back(session: CaseSession) -> bool:
    """Whether the dispensation was rolled back in this very run, so that it must be seen again before the device."""
    return session.guard is None and (await session.look(StepName.DISPENSATION)).status is StepStatus.PENDING


async def _record_read_error(session: CaseSession, step: StepName, view: StepView, error: AnswerError) -> StepReport:
    """A look at the other system failed, or said no: nothing was sent. An open doubt is not ended by a failed look."""
    if isinstance(error, LoginRefused | Unavailable):
        failed = error
        await session.commit(lambda write: write.step(step).wait(failed.code, **said(failed)))
        return wait_report(session, step, error, view.waits)
    # Outside the device's own steps, words about a dispensation are a refusal like any other.
    assert isinstance(error, Refused | NotYet), f"a {type(error).__name__} is not the answer to a look"
    refusal: Refused | NotYet = error

    def refuse(write: CaseWrite) -> None:
        if write.step(step).status is StepStatus.OPEN:
            write.step(step).inconclusive(refusal.code, **said(refusal))
        else:
            write.step(step).refuse(refusal.code, **said(refusal))

    await session.commit(refuse)
    return StepReport(step, Ending.NEEDS_ATTENTION, error.code, system=error.system, http_status=error.http_status)
