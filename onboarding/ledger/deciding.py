"""A person's decision about a case: only what makes sense as it stands, in one transaction, under the row's lock."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sqlalchemy import Connection, update

from onboarding.clocks import DATABASE_EPOCH
from onboarding.errors import BadInput, IdentityConflict, OnboardingError
from onboarding.keys import LedgerKey
from onboarding.ledger import claims
from onboarding.ledger.claims import ClaimKey, ExceptionClaim
from onboarding.ledger.columns import CASES, QUIET_ENDS, Row
from onboarding.ledger.leasing import LATE_ANSWER, contradiction
from onboarding.ledger.opening import Addresses
from onboarding.ledger.reading import read_case
from onboarding.ledger.rows import Rows
from onboarding.ledger.states import CaseStatus, StepName, StepStatus
from onboarding.ledger.views import CaseView, Held, IntentView, StepView
from onboarding.ledger.writes import CaseWrite, Lease

LONGEST_REASON: Final = 2000


class Decision(StrEnum):
    """What a person can decide."""

    RETRY = "retry"
    APPLIED = "applied"
    ABSENT = "absent"
    CANCEL = "cancel"


class DecisionRefused(OnboardingError):
    """The decision does not fit the case as it stands; says what is offered instead."""


@dataclass(frozen=True)
class Decided:
    """A decision with its reason.

    Attributes:
        decision: what was decided.
        actor: who decided.
        reason: why, in free text; stored encrypted, in the trail.
        attempt: number of the step's last attempt that the person saw, or None for whatever stands.
        exception_id: under which id a DND exception exists, when it was decided that it does.
    """

    decision: Decision
    actor: str
    reason: str
    attempt: int | None = None
    exception_id: str | None = None


@dataclass(frozen=True)
class Holds:
    """What the case claims: the keys of its bound claims by step, and of its exception's content.

    Keys hold the systems' ``addresses``; those must be the ones that the case was opened for.
    """

    registration: Sequence[ClaimKey] = ()
    device: Sequence[ClaimKey] = ()
    exception: str | None = None
    addresses: Addresses | None = None


def step_to_decide(case: CaseView) -> StepView | None:
    """The step that a decision is about: the one a late answer contradicts, the unknown one, or the refused one."""
    if case.contradicted is not None:
        return case.steps[case.contradicted]
    for status in (StepStatus.UNKNOWN, StepStatus.REFUSED):
        for step in case.steps.values():
            if step.status is status:
                return step
    return None


def offered(case: CaseView) -> tuple[Decision, ...]:
    """The decisions that make sense for the case as it stands; none while a runner works on it."""
    if case.lease_left_s > 0 or case.status not in (CaseStatus.READY, CaseStatus.ATTENTION):
        return ()
    step = step_to_decide(case)
    in_doubt = any(s.status in (StepStatus.OPEN, StepStatus.UNKNOWN) or s.intent.in_doubt for s in case.steps.values())
    cancel = () if in_doubt else (Decision.CANCEL,)
    if case.contradicted is not None or (step is not None and step.status is StepStatus.UNKNOWN):
        return (Decision.APPLIED, Decision.ABSENT)
    if step is not None and step.code == "DEVICE_ALREADY_REGISTERED":
        return (Decision.RETRY, Decision.APPLIED, *cancel)
    if step is not None and step.code == "EXCEPTION_MISSING":
        return (Decision.RETRY, Decision.ABSENT, *cancel)
    return (Decision.RETRY, *cancel)


def decide(
    connection: Connection,
    key: LedgerKey,
    clock: tuple[str, float],
    case_id: str,
    decided: Decided,
    holds: Holds,
) -> None:
    """Carry out a decision. It takes the fence, so that a runner that was overtaken stays out; raises ``DecisionRefused``."""
    rows = Rows(connection, cases=[case_id])
    row = rows.case(case_id)
    case = read_case(connection, clock, case_id)
    if row is None or case is None:
        raise BadInput([f"there is no case {case_id} in this ledger; 'onboard status' lists them."])
    step = step_to_decide(case)
    _check(case, step, decided)
    if decided.decision in (Decision.APPLIED, Decision.ABSENT):
        _check_addresses(row, holds)
    lease = Lease(case_id, "", row["fence"] + 1, 0.0, decided.actor)
    write = CaseWrite(rows, key, clock, lease, row)
    write.keep_lease(lease.seconds)
    write.take_fence()
    facts = {"step": step.name.value, "attempt": step.intent.attempts} if step is not None else {}
    write.record(
        "decided",
        step=step.name if step is not None else None,
        code=decided.decision,
        detail=facts,
        reason=decided.reason,
    )
    if decided.decision is Decision.CANCEL:
        write.cancel()
        claims.release_all(connection, case_id)
    else:
        if step is not None:
            _settle(write, step, decided, holds)
            late = write.case["late_answers"] or []
            write.case["late_answers"] = [answer for answer in late if answer["step"] != step.name] or None
        write.resume_after_decision()
        if contradiction(write):  # of another step, which is to be decided next
            write.contradict(LATE_ANSWER)
    write.end()
    rows.write()


def _check(case: CaseView, step: StepView | None, decided: Decided) -> None:
    choices = offered(case)
    if case.lease_left_s > 0:
        raise DecisionRefused(
            f"case {case.id}: a runner works on it; its lease ends in {case.lease_left_s:.0f} s. Decide after that."
        )
    if decided.decision not in choices:
        allowed = f"what makes sense is: {', '.join(choices)}" if choices else f"it is {case.status}, so nothing is"
        raise DecisionRefused(f"case {case.id}: '{decided.decision}' makes no sense as it stands; {allowed}.")
    if decided.attempt is not None and step is not None and decided.attempt != step.intent.attempts:
        raise DecisionRefused(
            f"case {case.id}: {step.name} has had attempt {step.intent.attempts} since, not {decided.attempt}; look at "
            f"it again with 'onboard show {case.id}'."
        )
    if not decided.reason.strip():
        raise DecisionRefused(f"case {case.id}: a decision needs a reason; it goes into the trail.")
    if len(decided.reason) > LONGEST_REASON:
        raise DecisionRefused(f"case {case.id}: the reason is longer than {LONGEST_REASON} characters.")
    if _needs_exception_id(step, decided) and decided.exception_id is None:
        raise DecisionRefused(
            f"case {case.id}: say under which id the exception exists, so that no case creates it again (exception id)."
        )
    if decided.exception_id is not None and not _needs_exception_id(step, decided):
        raise DecisionRefused(f"case {case.id}: an exception id goes with 'applied' about a DND exception only.")


def _needs_exception_id(step: StepView | None, decided: Decided) -> bool:
    asks = step is not None and step.status is not StepStatus.NOT_REQUESTED and step.name is StepName.DND_EXCEPTION
    return asks and decided.decision is Decision.APPLIED


def _check_addresses(row: Row, holds: Holds) -> None:
    """What is held is found by the addresses too: with others, a decision would settle what the case never held."""
    if holds.addresses not in (None, Addresses.of(row)):
        raise DecisionRefused(
            f"case {row['id']}: it was opened for other systems than the ones set now; set those again, then decide."
        )


def _check_quiet(write: CaseWrite, intent: IntentView) -> None:
    """Nobody can know yet that something is absent while a request may still be applied."""
    left_s = intent.quiet_left_s
    by_database = intent.facts.get(QUIET_ENDS, {}).get(write.epoch)
    if intent.earlier_boot and by_database is not None:
        left_s = by_database - write.seconds  # another machine counts; for what a person saw, this clock is good enough
    elif intent.earlier_boot and write.epoch != DATABASE_EPOCH:
        left_s -= write.seconds  # whatever was sent was sent before this boot
    if left_s > 0:
        raise DecisionRefused(
            f"case {write.lease.case_id}: the last request may still be applied; look again in {left_s:.0f} s, then decide."
        )


def _settle(write: CaseWrite, step: StepView, decided: Decided, holds: Holds) -> None:
    if decided.decision is Decision.RETRY:  # offered for a refused step, or for none
        write.step(step.name).retry()
        return
    if step.status is StepStatus.NOT_REQUESTED:
        return  # a late answer about what is not asked for any more: the trail has what was decided, nothing follows
    applied = decided.decision is Decision.APPLIED
    outcome: dict[str, object] = {"decided": decided.decision.value}
    if applied and step.status is StepStatus.DONE:
        outcome = {**step.outcome, **outcome}
    if not applied:
        _check_quiet(write, step.intent)
    if step.name is StepName.DND_EXCEPTION:
        _settle_exception(write, step, holds, decided.exception_id if applied else None)
        if applied:
            outcome["exception_id"] = decided.exception_id
    elif applied:
        _bind(write, holds.registration if step.name is StepName.REGISTRATION else holds.device)
    write.step(step.name).decide(applied=applied, outcome=outcome)


def _settle_exception(write: CaseWrite, step: StepView, holds: Holds, exception_id: str | None) -> None:
    assert holds.exception is not None, "a case with an exception knows its content"
    claim = ExceptionClaim.to_decide(write, holds.exception)
    if isinstance(claim, Held):
        raise DecisionRefused(
            f"case {write.lease.case_id}: case {claim.by_case} works on the same exception; decide in {claim.left_s:.0f} s."
        )
    view = claim.view()
    if exception_id is None:
        its_doubt = step.status is StepStatus.UNKNOWN and (view.unknown or view.open)
        its_id = view.effect_id is not None and view.effect_id == step.outcome.get("exception_id")
        if not its_doubt and not its_id:
            return  # another case has made one since, or is about to; that this case's is absent says nothing about that
        _check_quiet(write, view.intent)
    claim.settle_by_decision(exception_id)
    _wake_those_who_wait(write)


def _wake_those_who_wait(write: CaseWrite) -> None:
    """Cases that wait for a decision about an exception of this study look again at once, and not after minutes."""
    waits = (CASES.c.status == CaseStatus.READY, CASES.c.reason == claims.UNKNOWN_ELSEWHERE, CASES.c.due_at > write.now)
    same = [CASES.c[name] == write.case[name] for name in ("study_id", "mode", "clinical_one_address")]
    free = (CASES.c.lease_owner.is_(None), CASES.c.id != write.lease.case_id)
    write.rows.connection.execute(update(CASES).where(*waits, *same, *free).values(due_at=write.now))


def _bind(write: CaseWrite, keys: Sequence[ClaimKey]) -> None:
    """What was applied after all is bound to this subject, unless another one has it by now."""
    try:
        held = claims.take_claims(write, keys)
    except IdentityConflict as error:
        raise DecisionRefused(f"case {write.lease.case_id}: {error.what} Find out who is right first.") from None
    if held is not None:
        raise DecisionRefused(
            f"case {write.lease.case_id}: case {held.by_case} of the same subject holds it; decide later."
        )
