"""Taking a step's claims, and waiting for whoever holds one."""

from collections.abc import Sequence

from onboarding.endings import Ending
from onboarding.ledger.claims import ClaimKey, take_claims
from onboarding.ledger.states import StepName
from onboarding.ledger.views import Held, StepView
from onboarding.ledger.writes import CaseWrite
from onboarding.steps.report import StepReport
from onboarding.steps.session import CaseSession


async def hold(session: CaseSession, step: StepName, keys: Sequence[ClaimKey]) -> StepView | StepReport:
    """Take the step's claims. Gives the step as it stands then, or the report of waiting for another case of the subject.

    Those that were taken with the lease need no taking, once: they are the same as if they were taken now.

    Raises ``IdentityConflict`` if another subject holds one.
    """
    if session.holds_since_the_lease(keys):
        return await session.look(step)
    taken = await session.commit(lambda write: take(write, step, keys) or write.step(step).view(), claims=keys)
    return await held_report(session, step, taken) if isinstance(taken, Held) else taken


def take(write: CaseWrite, step: StepName, keys: Sequence[ClaimKey]) -> Held | None:
    """Take the step's claims within a write, or note that it waits for whoever holds one."""
    held = take_claims(write, keys)
    if held is not None:
        write.step(step).wait("HELD_BY_ANOTHER_CASE")
    return held


async def held_report(session: CaseSession, step: StepName, held: Held, *, brief: bool = False) -> StepReport:
    """Another case is at it: look again soon. ``brief``: it is given back after a request or two, long before a lease ends."""
    view = await session.look(step)
    pause_s = session.backoff(view.waits)
    wait_s = min(held.left_s, pause_s) if brief else max(held.left_s, pause_s)
    return StepReport(step, Ending.RETRY_SCHEDULED, "HELD_BY_ANOTHER_CASE", wait_s)
