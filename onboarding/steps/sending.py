"""Sending one effect: intent first, send once, commit what the answer says is known."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from onboarding.endings import Ending
from onboarding.errors import (
    CLINICAL_ONE,
    OPENSPECIMEN,
    AnswerError,
    InDoubt,
    LoginRefused,
    NotYet,
    Refused,
    Unavailable,
)
from onboarding.ledger.claims import ClaimKey
from onboarding.ledger.states import StepName
from onboarding.ledger.step_writes import StepWrite
from onboarding.ledger.views import Held, Intent
from onboarding.ledger.writes import CaseWrite
from onboarding.steps.holding import held_report, take
from onboarding.steps.report import StepReport
from onboarding.steps.session import CaseSession
from onboarding.vendors.wire import Deadline

SENDS_USED_UP = "SENDS_USED_UP"
PROBES_USED_UP = "PROBES_USED_UP"
SYSTEM_OF: Final = {StepName.REGISTRATION: OPENSPECIMEN, StepName.DEVICE: CLINICAL_ONE}
"""Where the effect of a step happens."""

_LOGIN_LOOK_S: Final = 3600.0


@dataclass(frozen=True)
class Sent:
    """An answer that means applied, with the number of the attempt."""

    attempt: int
    answer: Any


async def send_effect(
    session: CaseSession,
    step: StepName,
    intent: Intent,
    call: Callable[[Deadline], Awaitable[Any]],
    *,
    probe: bool = False,
    refused: Callable[[StepWrite, Refused], None] | None = None,
    still: Callable[[], None] | None = None,
    claims: Sequence[ClaimKey] = (),
) -> Sent | StepReport:
    """Get a place, commit the intent, send once, and record every answer but success, which the caller records.

    The deadline begins with the place and before the intent is committed, so that no queue of ours spends it, and that the
    request surely ends within the intent's quiet time. Without a place nothing is begun: that is ``Unavailable``.

    Args:
        session: the leased case.
        step: whose effect it is.
        intent: what is committed before anything is sent.
        call: sends, under the deadline it is given.
        probe: the send is to end a doubt that is open.
        refused: what a refusal means for this step; by default the step is refused, or unknown if it was in doubt.
        still: asked once the place is there, before the intent; it raises ``Unavailable`` if what was seen is too old by now.
        claims: taken with the intent; without them nothing is begun.

    Raises:
        AnswerError: nothing was begun.
    """
    attempt = 0

    def begin(write: CaseWrite) -> int | Held:
        return take(write, step, claims) or write.step(step).intend(intent, probe=probe)

    try:
        async with session.systems.turn(SYSTEM_OF[step], session.settings.request_timeout_seconds) as turn:
            if still is not None:
                still()
            begun = await session.commit(begin, claims=claims)
            if not isinstance(begun, Held):
                attempt = begun
                return Sent(attempt, await call(turn))
        return await held_report(session, step, begun)
    except InDoubt as error:
        doubt = error
        await session.commit(lambda write: write.step(step).doubt(doubt.code, **said(doubt)))
        return await doubt_report(session, step, error)
    except (LoginRefused, Unavailable, NotYet) as error:
        if not attempt:
            raise  # nothing was begun
        failed: AnswerError = error

        def not_applied(write: CaseWrite) -> int:
            write.step(step).not_applied(failed.code, **said(failed))
            return write.step(step).view().waits

        waits = await session.commit_answer(
            step, attempt=attempt, says="not_applied", code=error.code, change=not_applied
        )
        if isinstance(error, NotYet):
            raise  # only the device knows what that means for the dispensation
        return wait_report(session, step, error, waits)
    except Refused as error:
        if not attempt:
            raise  # nothing was begun
        refusal = error

        def change(write: CaseWrite) -> None:
            (refused or refuse_or_unknown)(write.step(step), refusal)

        await session.commit_answer(step, attempt=attempt, says="not_applied", code=error.code, change=change)
        return await settled_report(session, step, error)


def refuse_or_unknown(step: StepWrite, error: Refused) -> None:
    """A refusal ends the step; but the class of a later answer never ends an older doubt, so that becomes unknown."""
    if step.in_doubt:
        step.inconclusive(error.code, **said(error))
    else:
        step.refuse(error.code, **said(error))


def said(error: AnswerError) -> dict[str, Any]:
    """What the vendor said, in the form in which a step keeps it."""
    return {"http_status": error.http_status, "vendor_text": error.vendor_text}


def wait_report(session: CaseSession, step: StepName, error: LoginRefused | Unavailable, waits: int) -> StepReport:
    """Wait as long as the vendor asked, else longer each time; after a refused log-in, until its settings change."""
    if isinstance(error, LoginRefused):
        blocked = session.systems.login_digest(error.system)
        return StepReport(
            step, Ending.RETRY_SCHEDULED, error.code, _LOGIN_LOOK_S, error.system, error.http_status, blocked
        )
    wait_s = error.retry_after_s if error.retry_after_s is not None else session.backoff(waits)
    if error.code == "VENDOR_DOWN":  # it says when to look at the earliest; if it is down for long, that is too often
        wait_s = max(wait_s, session.backoff(waits))
    return StepReport(step, Ending.RETRY_SCHEDULED, error.code, wait_s, error.system, error.http_status)


async def doubt_report(session: CaseSession, step: StepName, error: InDoubt) -> StepReport:
    """The outcome is in doubt. What can be read back is read soon; a probe with an effect waits for the quiet time."""
    view = await session.look(step)
    left_s = view.intent.quiet_left_s
    wait_s = left_s if step is StepName.DEVICE else min(left_s, session.backoff(view.waits))
    return StepReport(step, Ending.RETRY_SCHEDULED, error.code, wait_s, error.system, error.http_status)


async def settled_report(session: CaseSession, step: StepName, error: AnswerError) -> StepReport:
    """How a step stands after a refusal: needing a person, or (if its doubt was ended by it) done."""
    view = await session.look(step)
    ending = Ending.DONE if view.done_at is not None else Ending.NEEDS_ATTENTION
    return StepReport(step, ending, view.code, system=error.system, http_status=error.http_status)
