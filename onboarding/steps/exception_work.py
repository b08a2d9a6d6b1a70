"""The work on a DND exception's claim that is in hand: list, adopt, settle a doubt, or create.

Source: vendor documentation ("Create DND Exception" and its list).
"""

from collections.abc import Mapping
from typing import Any, Final

from onboarding.clocks import boot_seconds
from onboarding.endings import Ending
from onboarding.errors import CLINICAL_ONE, InDoubt, LoginRefused, NotYet, Refused, Unavailable
from onboarding.fields import compact_json
from onboarding.ledger.claims import UNKNOWN_ELSEWHERE, ExceptionClaim
from onboarding.ledger.states import StepName, StepStatus
from onboarding.ledger.views import ClaimView, Intent
from onboarding.ledger.writes import CaseWrite
from onboarding.steps.report import StepReport
from onboarding.steps.sending import SENDS_USED_UP, said, wait_report
from onboarding.steps.session import CaseSession
from onboarding.vendors.exceptions import ExceptionList

STEP: Final = StepName.DND_EXCEPTION
GLANCE_S: Final = 5.0
"""How old a list may be that shows what is wanted: an exception seen so shortly ago is as good as one seen now, since
nothing keeps it from being removed right after any look. What proves that something is *not* there is never that old."""


async def work_claim(session: CaseSession, begun: ClaimView, wanted: Mapping[str, Any], looked_at: float) -> StepReport:
    """See, adopt, settle or create the exception. ``looked_at``: when this attempt began (seconds since boot).

    A list of a moment ago may show what is wanted. What is concluded from its not being there needs a later one:
    - before it is created, and when a doubt is to end as absent: begun after the claim was taken, so that no other case of
      ours can have created it since, and that the quiet time, if it was over, was over for the list;
    - when an id that was known is missing: begun in this attempt (somebody may have mended it) and after the settle time.
    """
    if begun.unknown:
        view = await session.look(STEP)
        wait_s = session.backoff(view.waits + 6)  # a person must decide first
        return StepReport(STEP, Ending.RETRY_SCHEDULED, UNKNOWN_ELSEWHERE, wait_s)
    taken_at = boot_seconds()
    try:
        for since in (taken_at - GLANCE_S, _proving(session, begun, looked_at, taken_at)):
            listed = await listed_since(session, since)
            equal = listed.equal_to(wanted)
            if begun.effect_id is not None and begun.effect_id in listed.ids:
                equal = [begun.effect_id, *(one for one in equal if one != begun.effect_id)]
            if equal:
                break
    except (Refused, NotYet) as error:
        if begun.open and not isinstance(error, LoginRefused):
            return await _unknown(session, begun.key, error.code)
        raise
    if equal:
        applied = begun.open and begun.effect_id is None
        return await _adopt(session, begun, equal, code="PROBE_FOUND_APPLIED" if applied else "ALREADY_SO")
    if begun.effect_id is not None:
        return await _missing(session, begun)
    if begun.open:
        return await _settle(session, begun, listed)
    return await _create(session, begun, listed)


async def listed_since(session: CaseSession, since: float) -> ExceptionList:
    """The exceptions of the case's study, listed not before ``since`` (seconds since boot)."""
    subject = session.request.subject
    return await session.systems.clinical_one.exceptions_since(
        subject.study_id, str(subject.mode), since, timeout_s=session.settings.request_timeout_seconds
    )


def _proving(session: CaseSession, claim: ClaimView, looked_at: float, taken_at: float) -> float:
    """When a list must have been begun to prove by what is not in it."""
    if claim.effect_id is None:
        return taken_at
    over_for_s = 0.0 if claim.effect_age_s is None else claim.effect_age_s - session.settings.settle_seconds
    return max(looked_at, taken_at - over_for_s) if over_for_s > 0 else looked_at


async def _missing(session: CaseSession, claim: ClaimView) -> StepReport:
    """The claim has an id that is not listed, and nothing equal is: it may yet be; after that never created again."""
    settle_s = session.settings.settle_seconds
    if claim.effect_age_s is not None and claim.effect_age_s < settle_s:
        await session.commit(lambda write: write.step(STEP).wait("EXCEPTION_NOT_LISTED_YET"))
        left_s = settle_s - claim.effect_age_s
        return StepReport(STEP, Ending.RETRY_SCHEDULED, "EXCEPTION_NOT_LISTED_YET", left_s, CLINICAL_ONE)

    def missing(write: CaseWrite) -> None:
        _close_step_doubt(write)
        write.step(STEP).refuse("EXCEPTION_MISSING", detail={"exception_id": claim.effect_id})
        ExceptionClaim.held(write, claim.key).give_back()

    await session.commit(missing)
    return StepReport(STEP, Ending.NEEDS_ATTENTION, "EXCEPTION_MISSING", system=CLINICAL_ONE)


def outcome_of(ids: list[str]) -> dict[str, object]:
    """The exception exists under the first id; equal ones beside it are flagged."""
    return {"exception_id": ids[0], **({"duplicates": ids[1:]} if ids[1:] else {})}


async def _adopt(session: CaseSession, claim: ClaimView, ids: list[str], *, code: str) -> StepReport:
    outcome = outcome_of(ids)

    def adopt(write: CaseWrite) -> None:
        held = ExceptionClaim.held(write, claim.key)
        held.adopt(ids[0], ids[1:])
        held.give_back()
        write.step(STEP).found(outcome, code=code)

    await session.commit(adopt)
    ending = Ending.ALREADY_DONE if code == "ALREADY_SO" else Ending.DONE
    return StepReport(STEP, ending, code)


async def _settle(session: CaseSession, claim: ClaimView, listed: ExceptionList) -> StepReport:
    """No equal entry is listed. After the quiet time: nothing new is absent; something new is unknown."""
    quiet_left_s = claim.intent.quiet_left_s
    if quiet_left_s > 0:
        await session.commit(lambda write: write.step(STEP).wait("IN_DOUBT"))
        return StepReport(STEP, Ending.RETRY_SCHEDULED, "IN_DOUBT", quiet_left_s, CLINICAL_ONE)
    if claim.intent.facts.get("applied"):
        return await _unknown(session, claim.key, "EXCEPTION_NOT_LISTED")
    before = set(claim.intent.facts["listed"])
    new = {session.exception_key(entry.content) for entry in listed if entry.id not in before}
    if new - await session.other_claims_with(sorted(new)):
        return await _unknown(session, claim.key, "UNEXPECTED_EXCEPTION")

    def absent(write: CaseWrite) -> ClaimView:
        held = ExceptionClaim.held(write, claim.key)
        held.absent()
        _close_step_doubt(write)
        return held.view()

    return await _create(session, await session.commit(absent), listed)


async def _create(session: CaseSession, claim: ClaimView, listed: ExceptionList) -> StepReport:
    section = session.request.dnd_exception
    assert section is not None
    body = section.body()
    subject = session.request.subject
    if claim.intent.absences >= session.settings.max_sends:
        await session.commit(lambda write: _refuse(write, claim.key, SENDS_USED_UP))
        return StepReport(STEP, Ending.NEEDS_ATTENTION, SENDS_USED_UP, system=CLINICAL_ONE)
    facts = {"listed": sorted(listed.ids)}
    intent = Intent(compact_json(body).encode(), session.settings.quiet_seconds, facts)

    def intend(write: CaseWrite) -> int:
        _close_step_doubt(write)
        return write.step(STEP).mirror_intent(ExceptionClaim.held(write, claim.key).intend(intent))

    client, attempt = session.systems.clinical_one, 0
    try:
        async with client.turn(session.settings.request_timeout_seconds) as turn:
            attempt = await session.commit(intend)
            exception_id = await client.create_exception(
                subject.study_id, str(subject.mode), body, deadline=turn, check=session.check_lease
            )
    except InDoubt as error:
        doubt = error

        def record_doubt(write: CaseWrite) -> float:
            held = ExceptionClaim.held(write, claim.key)
            held.doubt()
            write.step(STEP).doubt(doubt.code, **said(doubt))
            return min(held.view().intent.quiet_left_s, session.backoff(write.step(STEP).view().waits))

        wait_s = await session.commit(record_doubt)
        return StepReport(STEP, Ending.RETRY_SCHEDULED, error.code, wait_s, CLINICAL_ONE, error.http_status)
    except (LoginRefused, Unavailable) as error:
        if not attempt:
            raise  # nothing was begun
        failed: LoginRefused | Unavailable = error

        def not_applied(write: CaseWrite) -> int:
            ExceptionClaim.held(write, claim.key).clear()
            write.step(STEP).not_applied(failed.code, **said(failed))
            return write.step(STEP).view().waits

        waits = await session.commit_answer(
            STEP, attempt=attempt, says="not_applied", code=error.code, change=not_applied
        )
        return wait_report(session, STEP, failed, waits)
    except (Refused, NotYet) as error:  # nothing here waits for a dispensation
        refusal: Refused | NotYet = error
        await session.commit_answer(
            STEP,
            attempt=attempt,
            says="not_applied",
            code=error.code,
            change=lambda write: _refuse(write, claim.key, refusal.code, refusal),
        )
        return StepReport(STEP, Ending.NEEDS_ATTENTION, error.code, system=error.system, http_status=error.http_status)
    return await _created(session, claim, exception_id, attempt)


async def _created(session: CaseSession, claim: ClaimView, exception_id: str | None, attempt: int) -> StepReport:
    """Applied. Without an id in the answer, the id comes from the list: the claim stays open until it is there."""
    if exception_id is None:

        def without_id(write: CaseWrite) -> None:
            held = ExceptionClaim.held(write, claim.key)
            held.note(applied=True)
            held.doubt()
            write.step(STEP).doubt("APPLIED_WITHOUT_ID")

        await session.commit_answer(STEP, attempt=attempt, says="applied", code="APPLIED_WITHOUT_ID", change=without_id)
        return StepReport(STEP, Ending.RETRY_SCHEDULED, "APPLIED_WITHOUT_ID", 0.0, CLINICAL_ONE)
    created = exception_id

    def applied(write: CaseWrite) -> None:
        held = ExceptionClaim.held(write, claim.key)
        held.adopt(created, [])
        held.give_back()
        write.step(STEP).applied({"exception_id": created}, code="CREATED")

    await session.commit_answer(STEP, attempt=attempt, says="applied", code="CREATED", change=applied)
    return StepReport(STEP, Ending.DONE, "CREATED")


async def _unknown(session: CaseSession, key: str, code: str) -> StepReport:
    def unknown(write: CaseWrite) -> None:
        ExceptionClaim.held(write, key).call_unknown()
        write.step(STEP).inconclusive(code)

    await session.commit(unknown)
    return StepReport(STEP, Ending.NEEDS_ATTENTION, code, system=CLINICAL_ONE)


def _refuse(write: CaseWrite, key: str, code: str, error: Refused | NotYet | None = None) -> None:
    held = ExceptionClaim.held(write, key)
    held.clear()
    if code == SENDS_USED_UP:
        held.count_absences_anew()  # a person looks now; what they mend gets as many sends again
    held.give_back()
    if write.step(STEP).in_doubt:
        _close_step_doubt(write)  # another case has settled since what this step was in doubt about
    write.step(STEP).refuse(code, **(said(error) if error else {}))


def _close_step_doubt(write: CaseWrite) -> None:
    """The doubt stands on the claim; once that is settled, a step that still shows it as open is pending again."""
    if write.step(STEP).status is StepStatus.OPEN:
        write.step(STEP).absent("SETTLED_ON_THE_CLAIM")
