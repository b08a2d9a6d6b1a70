"""Working one case from its first open step to an ending: what the command line and batches do without Prefect."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from onboarding.endings import Ending
from onboarding.ledger.states import StepName
from onboarding.steps.attempt import attempt_step
from onboarding.steps.dnd_exception import seen_already
from onboarding.steps.report import StepReport
from onboarding.steps.session import CaseSession

OnWait = Callable[[StepReport], None]
SHORT_WAITS = 4
"""Times a step is waited for here, with the lease, before the case is parked."""


@dataclass(frozen=True)
class CaseReport:
    """How the work on a case ended."""

    case_id: str | None
    ending: Ending
    code: str | None = None
    step: StepName | None = None
    due_at: datetime | None = None
    steps: tuple[StepReport, ...] = field(default=())


async def work_step(session: CaseSession, step: StepName, on_wait: OnWait | None = None) -> StepReport:
    """Attempt a step; short waits are waited for here, under the renewed lease, and told to ``on_wait``."""
    for _ in range(SHORT_WAITS):
        report = await attempt_step(session, step)
        if not report.waits_shortly:
            return report
        if on_wait is not None:
            on_wait(report)
        await session.flush()
        await asyncio.sleep(report.wait_s)
    return await attempt_step(session, step)


async def work_case(session: CaseSession, on_wait: OnWait | None = None) -> CaseReport:
    """Work every step in order; stop at the first that does not go on. ``on_wait`` is told of each short wait."""
    session.beside_last_effect = seen_already
    done: list[StepReport] = []
    for step in StepName:
        report = await work_step(session, step, on_wait)
        done.append(report)
        if not report.goes_on:
            return await conclude(session, done)
    await session.finish()
    return CaseReport(session.case_id, Ending.ONBOARDED, steps=tuple(done))


async def conclude(session: CaseSession, done: list[StepReport]) -> CaseReport:
    """Park the case, or ask for a person, after the last report."""
    last = done[-1]
    due_at = await session.conclude(last)
    return CaseReport(session.case_id, last.ending, last.code, last.step, due_at, tuple(done))
