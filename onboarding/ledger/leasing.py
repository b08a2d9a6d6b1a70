"""Taking, renewing and giving back the right to work on a case; finding the cases that are due."""

import secrets
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, and_, exists, false, or_, select, true

from onboarding.errors import BadInput, IdentityConflict, LedgerError
from onboarding.keys import LedgerKey
from onboarding.ledger.claims import ClaimKey, take_claims
from onboarding.ledger.columns import BATCH_ROWS, CASES, VENDORS, Row
from onboarding.ledger.opening import Addresses
from onboarding.ledger.rows import Rows
from onboarding.ledger.states import CaseEvent, CaseStatus, StepName, StepStatus, next_case_status
from onboarding.ledger.store import SCHEMA_VERSION, schema_version
from onboarding.ledger.views import Held
from onboarding.ledger.writes import CaseWrite, Lease

NO_PROGRESS: Final = "NO_PROGRESS"
_WORKED: Final = (StepStatus.PENDING, StepStatus.OPEN)
SETTINGS_CHANGED: Final = "SETTINGS_CHANGED"
LATE_ANSWER: Final = "LATE_ANSWER_CONTRADICTS"
REQUEST_UNREADABLE: Final = "REQUEST_UNREADABLE"


@dataclass(frozen=True)
class Closed:
    """The case cannot be worked as it stands: done, cancelled, or waiting for a person."""

    status: CaseStatus
    reason: str | None


@dataclass(frozen=True)
class Runner:
    """Who takes a lease: the actor for the trail, the Prefect run if there is one, how long a lease lasts (seconds).

    ``modes``: the study modes that it may touch, or None for any.
    """

    actor: str
    lease_seconds: float
    flow_run_id: str | None = None
    max_idle_takings: int = 60
    modes: tuple[str, ...] | None = None


def refuse_mode(mode: str, modes: Collection[str]) -> None:
    """Raise ``BadInput`` for a study mode that this installation may not touch."""
    if mode not in modes:
        raise BadInput([f"subject.mode: {mode!r} is not allowed here; allowed: {', '.join(modes)} (ONBOARDING_MODES)."])


def take(
    rows: Rows,
    key: LedgerKey,
    clock: tuple[str, float],
    case_id: str,
    runner: Runner,
    addresses: Addresses,
    *,
    retry: bool = False,
    first_claims: Sequence[ClaimKey] = (),
) -> Lease | Held | Closed:
    """Take the case's lease by one compare-and-set on its locked row.

    ``retry`` is a person's wish to go on with a case that needs attention: refused steps are tried again, unknown ones are not.
    ``first_claims``: what its first step claims, taken too if that is to be worked and nobody else has them.
    """
    row = rows.case(case_id)
    if row is None:
        raise LedgerError(f"there is no case {case_id} in this ledger: 'onboard status' lists them.")
    if runner.modes is not None:
        refuse_mode(row["mode"], runner.modes)  # another installation, or other settings, may have opened it
    epoch, seconds = clock
    left = _left(row, epoch, seconds)
    if left > 0:
        return Held(case_id, left)
    status = CaseStatus(row["status"])
    if status in (CaseStatus.DONE, CaseStatus.CANCELLED) or (status is CaseStatus.ATTENTION and not retry):
        return Closed(status, row["reason"])
    lease = Lease(case_id, secrets.token_hex(16), row["fence"] + 1, runner.lease_seconds, runner.actor)
    write = CaseWrite(rows, key, clock, lease, row)
    write.keep_lease(lease.seconds)
    write.case.update(
        lease_owner=lease.owner,
        takings=row["takings"] + 1,
        idle_takings=row["idle_takings"] + 1,
        flow_run_id=runner.flow_run_id or row["flow_run_id"],
        blocked_login=None,
        due_at=write.now,  # should this runner be killed, the case is due as soon as its lease is over
    )
    if status is CaseStatus.ATTENTION and (closed := _resume(write)):
        return closed
    for name in StepName:
        write.step(name).restart_quiet_time()
    write.take_fence()
    write.record("lease_taken", detail={"fence": lease.fence, "flow_run_id": runner.flow_run_id})
    reason = _why_not(write, addresses, runner)
    if reason:
        write.need_attention(reason)
        write.end()
        return Closed(CaseStatus.ATTENTION, reason)
    if write.step(StepName.REGISTRATION).status in _WORKED:
        with suppress(IdentityConflict):  # the step asks for them again, and says so
            if take_claims(write, first_claims) is None:
                lease.first_claims = tuple(first_claims)
    write.end()
    lease.case, lease.steps = write.case, write.step_rows
    lease.request_sealed = rows.request_sealed(case_id)
    return lease


def find_due(
    connection: Connection,
    clock: tuple[str, float],
    *,
    now: datetime,
    limit: int,
    logins: Sequence[str] = (),
    modes: Sequence[str] | None = None,
    batch_id: str | None = None,
) -> list[str]:
    """Ids of cases that are ready and due and that no runner holds, oldest due first.

    ``logins`` are the digests of the connections' present credentials: a case that waits because one of them was refused
    is left out until it changes, or until the refusal is forgotten. ``modes``: no cases of other modes than these, which
    would be refused each time and keep others from their turn. ``batch_id``: only cases that this batch asks for. Without it,
    cases that nobody has begun yet are left out while another of their batch is held: the run that has it begins them.
    """
    epoch, seconds = clock
    free = or_(CASES.c.lease_owner.is_(None), CASES.c.lease_epoch != epoch, CASES.c.lease_until <= seconds)
    blocked = CASES.c.blocked_login.is_(None)
    refused = select(VENDORS.c.digest).where(VENDORS.c.kind == "login")
    changed = CASES.c.blocked_login.not_in(list(logins)) if logins else false()
    let_in = or_(blocked, changed, CASES.c.blocked_login.not_in(refused))
    due = or_(CASES.c.due_at <= now, CASES.c.blocked_login.is_not(None))
    allowed = true() if modes is None else CASES.c.mode.in_(list(modes))
    of_batch = (
        ~_waits_for_its_batch(epoch, seconds)
        if batch_id is None
        else exists().where(BATCH_ROWS.c.case_id == CASES.c.id, BATCH_ROWS.c.batch_id == batch_id)
    )
    query = (
        select(CASES.c.id)
        .where(CASES.c.status == CaseStatus.READY, free, let_in, due, allowed, of_batch)
        .order_by(CASES.c.due_at, CASES.c.id)
        .limit(limit)
    )
    return list(connection.execute(query).scalars())


def _waits_for_its_batch(epoch: str, seconds: float) -> ColumnElement[bool]:
    """Whether nobody has begun a case, though a runner has another one of its batch."""
    other = CASES.alias("other")
    held = select(other.c.batch_id).where(
        other.c.status == CaseStatus.READY,
        other.c.batch_id.is_not(None),
        other.c.lease_owner.is_not(None),
        other.c.lease_epoch == epoch,
        other.c.lease_until > seconds,
    )
    return and_(CASES.c.takings == 0, CASES.c.batch_id.is_not(None), CASES.c.batch_id.in_(held))


def keep_late_answer(connection: Connection, key: LedgerKey, case_id: str, actor: str, answer: dict[str, Any]) -> None:
    """Append an answer that reached a runner after its lease: the one write without a fence, under the row's lock.

    ``answer``: ``step``, ``attempt``, ``fence``, ``says`` (``applied`` or ``not_applied``) and ``code``.
    """
    rows = Rows(connection, cases=[case_id])
    row = rows.case(case_id)
    assert row is not None, "a case that was worked stands in the ledger"
    lease = Lease(case_id, row["lease_owner"] or "", row["fence"], 0.0, actor)
    write = CaseWrite(rows, key, (row["lease_epoch"] or "", row["lease_until"] or 0.0), lease, row)
    write.record("late_answer", step=StepName(answer["step"]), code=answer["code"], detail=answer)
    write.case["late_answers"] = [*(row["late_answers"] or []), answer]
    status = CaseStatus(row["status"])
    nobody_works_it = status in (CaseStatus.DONE, CaseStatus.ATTENTION)  # so no fenced write would say it
    if nobody_works_it and _contradicts(write, answer):
        write.case.update(status=next_case_status(status, CaseEvent.CONTRADICTED).value, reason=LATE_ANSWER)
        write.record(f"case_{CaseEvent.CONTRADICTED}", code=LATE_ANSWER)
    write.end()
    rows.write()


def contradiction(write: CaseWrite) -> bool:
    """Whether a late answer says otherwise than the ledger; answers that agree by now are forgotten."""
    late = write.case["late_answers"] or []
    if not late:
        return False
    if any(_contradicts(write, answer) for answer in late):
        return True
    write.case["late_answers"] = [
        a for a in late if write.step(StepName(a["step"])).status is not StepStatus.DONE
    ] or None
    return False


def _contradicts(write: CaseWrite, answer: dict[str, Any]) -> bool:
    return write.step(StepName(answer["step"])).view().contradicts(answer)


def _why_not(write: CaseWrite, addresses: Addresses, runner: Runner) -> str | None:
    """What keeps this case from being worked at all, as a reason code."""
    if contradiction(write):
        return LATE_ANSWER
    if (write.case["openspecimen_address"], write.case["clinical_one_address"]) != (
        addresses.openspecimen,
        addresses.clinical_one,
    ):
        return SETTINGS_CHANGED
    if write.case["idle_takings"] > runner.max_idle_takings:
        return NO_PROGRESS
    return None


def _resume(write: CaseWrite) -> Closed | None:
    """A person's retry: refused steps are pending again; a case with an unknown step waits for a decision instead."""
    steps = [write.step(name) for name in StepName]
    if any(step.status is StepStatus.UNKNOWN for step in steps):
        return Closed(CaseStatus.ATTENTION, write.case["reason"])
    for step in steps:
        if step.status is StepStatus.REFUSED:
            step.retry()
    write.case["status"] = next_case_status(CaseStatus.ATTENTION, CaseEvent.RESUMED).value
    write.case["reason"] = None
    write.case["idle_takings"] = 1
    write.record("case_resumed")
    return None


def _left(row: Row, epoch: str, seconds: float) -> float:
    if row["lease_owner"] is None or row["lease_epoch"] != epoch:
        return 0.0
    return max(0.0, float(row["lease_until"]) - seconds)


def check_schema(connection: Connection) -> None:
    """Refuse a ledger of another schema than this version works on."""
    found = schema_version(connection)
    if found != SCHEMA_VERSION:
        raise LedgerError(
            f"the ledger has schema {found or 'none'}, this version needs {SCHEMA_VERSION}: run 'onboard migrate' "
            "(an older version of this program cannot work on a newer ledger)."
        )
