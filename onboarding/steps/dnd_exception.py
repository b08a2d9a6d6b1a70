"""Step 4: the DND exception exists, once, however many subjects need it.

An exception belongs to a study, its kit types, places and visits, not to a subject, and the server makes another one each
time. So cases take turns on its content, list first, adopt an equal one, and list again before any second attempt. Source:
vendor documentation ("Create DND Exception" and its list).
"""

from onboarding.endings import Ending
from onboarding.errors import CLINICAL_ONE, InDoubt, LoginRefused, NotYet, Refused, Unavailable
from onboarding.fields import compact_json
from onboarding.ledger.claims import ExceptionClaim
from onboarding.ledger.states import StepName, StepStatus
from onboarding.ledger.views import ClaimView, Held, Intent
from onboarding.ledger.writes import CaseWrite
from onboarding.steps.holding import held_report
from onboarding.steps.report import StepReport
from onboarding.steps.sending import SENDS_USED_UP, said, wait_report
from onboarding.steps.session import CaseSession
from onboarding.vendors.clinical_one import DndException

STEP = StepName.DND_EXCEPTION


async def ensure_dnd_exception(session: CaseSession) -> StepReport:
    """Take the content's claim, list what exists, adopt or settle or create."""
    section = session.request.dnd_exception
    assert section is not None
    wanted = section.normalised()
    key = session.exception_key(wanted)

    def begin(write: CaseWrite) -> Held | ClaimView:
        claim = ExceptionClaim.take(write, key)
        if isinstance(claim, Held):
            write.step(STEP).wait("HELD_BY_ANOTHER_CASE")
            return claim
        if claim.view().unknown:
            write.step(STEP).wait("EXCEPTION_UNKNOWN_IN_ANOTHER_CASE")
            write.made_progress()  # it waits for a person's decision about another case, however long that takes
        elif claim.view().open and not claim.view().intent.in_doubt:
            claim.doubt()  # whoever committed the intent stopped before its answer
        return claim.view()

    begun = await session.commit(begin)
    if isinstance(begun, Held):
        return await held_report(session, STEP, begun, brief=True)
    if begun.unknown:
        view = await session.look(STEP)
        wait_s = session.backoff(view.waits + 6)  # a person must decide first
        return StepReport(STEP, Ending.RETRY_SCHEDULED, "EXCEPTION_UNKNOWN_IN_ANOTHER_CASE", wait_s)
    try:
        listed = await _listed(session)
    except (Refused, NotYet) as error:
        if begun.open and not isinstance(error, LoginRefused):
            return await _unknown(session, key, error.code)
        raise
    equal = sorted(entry.id for entry in listed if entry.content == wanted)
    if begun.effect_id is not None:
        return await _known_id(session, begun, listed, equal)
    if equal:
        return await _adopt(session, begun, equal, code="PROBE_FOUND_APPLIED" if begun.open else "ALREADY_SO")
    if begun.open:
        return await _settle(session, begun, listed)
    return await _create(session, begun, listed)


async def _listed(session: CaseSession) -> list[DndException]:
    subject = session.request.subject
    client = session.systems.clinical_one
    return await client.list_exceptions(subject.study_id, str(subject.mode), deadline=session.deadline())


async def _known_id(session: CaseSession, claim: ClaimView, listed: list[DndException], equal: list[str]) -> StepReport:
    """The claim has an id: done if it is listed (or an equal one is); never created again."""
    assert claim.effect_id is not None
    if claim.effect_id in {entry.id for entry in listed}:
        return await _adopt(
            session, claim, [claim.effect_id, *(i for i in equal if i != claim.effect_id)], code="ALREADY_SO"
        )
    if equal:
        return await _adopt(session, claim, equal, code="ALREADY_SO")
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


async def _adopt(session: CaseSession, claim: ClaimView, ids: list[str], *, code: str) -> StepReport:
    """The exception exists under the first id; equal ones beside it are flagged."""
    outcome: dict[str, object] = {"exception_id": ids[0]}
    if ids[1:]:
        outcome["duplicates"] = ids[1:]

    def adopt(write: CaseWrite) -> None:
        held = ExceptionClaim.held(write, claim.key)
        held.adopt(ids[0], ids[1:])
        held.give_back()
        write.step(STEP).found(outcome, code=code)

    await session.commit(adopt)
    ending = Ending.ALREADY_DONE if code == "ALREADY_SO" else Ending.DONE
    return StepReport(STEP, ending, code)


async def _settle(session: CaseSession, claim: ClaimView, listed: list[DndException]) -> StepReport:
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


async def _create(session: CaseSession, claim: ClaimView, listed: list[DndException]) -> StepReport:
    section = session.request.dnd_exception
    assert section is not None
    body = section.body()
    subject = session.request.subject
    if claim.intent.absences >= session.settings.max_sends:
        await session.commit(lambda write: _refuse(write, claim.key, SENDS_USED_UP))
        return StepReport(STEP, Ending.NEEDS_ATTENTION, SENDS_USED_UP, system=CLINICAL_ONE)
    deadline = session.deadline()
    facts = {"listed": sorted(entry.id for entry in listed)}
    intent = Intent(compact_json(body).encode(), session.settings.quiet_seconds, facts)

    def intend(write: CaseWrite) -> int:
        _close_step_doubt(write)
        return write.step(STEP).mirror_intent(ExceptionClaim.held(write, claim.key).intend(intent))

    attempt = await session.commit(intend)
    try:
        exception_id = await session.systems.clinical_one.create_exception(
            subject.study_id, str(subject.mode), body, deadline=deadline, check=session.check_lease
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
    write.step(STEP).refuse(code, **(said(error) if error else {}))


def _close_step_doubt(write: CaseWrite) -> None:
    """The doubt stands on the claim; once that is settled, a step that still shows it as open is pending again."""
    if write.step(STEP).status is StepStatus.OPEN:
        write.step(STEP).absent("SETTLED_ON_THE_CLAIM")
