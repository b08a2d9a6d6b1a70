"""Step 4: the DND exception exists, once, however many subjects need it.

An exception belongs to a study, its kit types, places and visits, not to a subject, and the server makes another one each
time. So one case at a time works on its content. Once the exception is known, no case needs a hold on it: it looks whether
it is listed, in a list that all share.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from onboarding.clocks import boot_seconds
from onboarding.endings import Ending
from onboarding.ledger.claims import HELD_RETRY_S, UNKNOWN_ELSEWHERE, ClaimKey, ClaimKind, ExceptionClaim
from onboarding.ledger.states import StepStatus
from onboarding.ledger.views import ClaimView, Held
from onboarding.ledger.writes import CaseWrite
from onboarding.steps.exception_work import GLANCE_S, STEP, listed_since, outcome_of, work_claim
from onboarding.steps.holding import held_report
from onboarding.steps.report import StepReport
from onboarding.steps.session import Beside, CaseSession
from onboarding.vendors.exceptions import ExceptionList
from onboarding.vendors.wire import Deadline

PATIENCE_S: Final = 5.0
"""How long a case waits here for another one that works on the same exception, before its step waits as for any other."""

_FIRST_POLL_S: Final = 0.05
_LONGEST_POLL_S: Final = 0.5


def seen_already(session: CaseSession) -> Beside | None:
    """The whole step, if the exception is known and was listed a moment ago: nobody needs to be asked, nor to wait.

    Only for work that shows no step by itself, since this one is done before its turn: as late as its last moment.
    """
    section = session.request.dnd_exception
    listed = None if section is None else _listed_lately(session)
    if section is None or listed is None:
        return None
    wanted, seen = section.normalised(), listed
    key = session.exception_key(wanted)

    def see(write: CaseWrite) -> None:
        claim = ExceptionClaim.seen(write, key).view()
        if claim.settled and write.step(STEP).status is StepStatus.PENDING:
            _found(write, claim, seen, wanted)

    return Beside(see, [ClaimKey(ClaimKind.EXCEPTION, key, "")])


@dataclass(frozen=True)
class InHand:
    """The claim is this case's to work on (or to wait for a decision about)."""

    claim: ClaimView


async def ensure_dnd_exception(session: CaseSession) -> StepReport:
    """See the exception that is known; else take its claim, in turn, and list, adopt, settle or create it."""
    section = session.request.dnd_exception
    assert section is not None
    wanted = section.normalised()
    key = session.exception_key(wanted)
    turns = session.systems.exception_turns
    looked_at, patience = boot_seconds(), Deadline(PATIENCE_S)
    has_turn, careful = turns.take(key), False
    while True:
        needless = False
        try:
            begun = await _begin(session, key, wanted, patience, may_take=has_turn, careful=careful)
            if isinstance(begun, InHand):
                report = await work_claim(session, begun.claim, wanted, looked_at)
                needless = report.goes_on
                return report
            needless = isinstance(begun, ClaimView | StepReport)
        finally:
            if has_turn:
                turns.hand_on(key, needless=needless)
        if isinstance(begun, StepReport):
            return begun
        if isinstance(begun, ClaimView):
            found = await _see(session, begun, wanted)
            if found is not None:
                return found
            careful = True
        elif patience.passed():
            return await _wait(session, begun)
        has_turn = await turns.wait(key, patience.remaining())


async def _begin(
    session: CaseSession, key: str, wanted: Mapping[str, Any], patience: Deadline, *, may_take: bool, careful: bool
) -> StepReport | ClaimView | InHand | Held:
    """Look at the claim, and take it if need be: settled (no hold needed), in hand, or held by somebody else.

    One that is settled, and known to be listed, is all there is to do: the step is done with the look.

    With the turn (``may_take``), a claim that a case of another process holds is looked at again shortly, for all who wait
    here. A case that holds the claim already needs no turn. ``careful``: what is settled is not listed, so look under a hold.
    """

    def begin(write: CaseWrite) -> StepReport | ClaimView | InHand | Held:
        seen = ExceptionClaim.seen(write, key)
        if seen.view().settled and not careful:
            return (listed and _found(write, seen.view(), listed, wanted)) or seen.view()
        if not (may_take or seen.is_mine or seen.view().unknown):
            return Held("", HELD_RETRY_S)
        claim = ExceptionClaim.take(write, key)
        if isinstance(claim, Held):
            return claim
        if claim.view().unknown:
            write.step(STEP).wait(UNKNOWN_ELSEWHERE)
            write.made_progress()  # it waits for a person's decision about another case, however long that takes
        elif claim.view().open and not claim.view().intent.in_doubt:
            claim.doubt()  # whoever committed the intent stopped before its answer
        return InHand(claim.view())

    pause_s = _FIRST_POLL_S
    while True:
        listed = _listed_lately(session)
        begun = await session.commit(begin, claims=[ClaimKey(ClaimKind.EXCEPTION, key, "")])
        if not (may_take and isinstance(begun, Held)) or patience.passed():
            return begun
        await asyncio.sleep(min(pause_s, patience.remaining()))
        pause_s = min(_LONGEST_POLL_S, pause_s * 1.5)


def _listed_lately(session: CaseSession) -> ExceptionList | None:
    subject, since = session.request.subject, boot_seconds() - GLANCE_S
    return session.systems.clinical_one.exceptions_known(subject.study_id, str(subject.mode), since)


async def _wait(session: CaseSession, held: Held) -> StepReport:
    await session.commit(lambda write: write.step(STEP).wait("HELD_BY_ANOTHER_CASE"))
    return await held_report(session, STEP, held, brief=True)


async def _see(session: CaseSession, claim: ClaimView, wanted: Mapping[str, Any]) -> StepReport | None:
    """The exception is known: done if its id is listed. None if it is not, which only a fresh list under a hold proves."""
    listed = await listed_since(session, boot_seconds() - GLANCE_S)
    if claim.effect_id not in listed.ids:
        return None
    return await session.commit(lambda write: _found(write, claim, listed, wanted))


def _found(write: CaseWrite, claim: ClaimView, listed: ExceptionList, wanted: Mapping[str, Any]) -> StepReport | None:
    """The step is done if the claim's id is listed."""
    assert claim.effect_id is not None
    if claim.effect_id not in listed.ids:
        return None
    others = (one for one in listed.equal_to(wanted) if one != claim.effect_id)
    write.step(STEP).found(outcome_of([claim.effect_id, *others]), code="ALREADY_SO")
    return StepReport(STEP, Ending.ALREADY_DONE, "ALREADY_SO")
