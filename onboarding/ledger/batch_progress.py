"""How far a batch is, step by step: what screens, artifacts and the decision to wait or to end are made from."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, Select, exists, func, or_, select, true

from onboarding.clocks import utc_now
from onboarding.ledger import batches
from onboarding.ledger.batch_states import BatchState
from onboarding.ledger.batches import BatchView
from onboarding.ledger.columns import BATCH_ROWS, BATCHES, CASES, EVENTS, STEPS
from onboarding.ledger.states import CaseStatus, StepName, StepStatus

if TYPE_CHECKING:
    from onboarding.ledger.ledger import Ledger

SAMPLE: Final = 500
"""Cases that are looked at to tell how long a step takes."""

_OPEN: Final = (CaseStatus.READY, CaseStatus.ATTENTION)


@dataclass(frozen=True)
class StepCount:
    """So many cases of a batch have this step in this status, with this code (or None)."""

    step: StepName
    status: StepStatus
    code: str | None
    number: int


@dataclass(frozen=True)
class OpenBatch:
    """A batch that was released and is not all done."""

    batch: BatchView
    waiting: int
    attention: int


def step_counts(ledger: "Ledger", batch_id: str) -> list[StepCount]:
    """How many of the batch's cases have each step where, each case once."""
    query = (
        select(STEPS.c.name, STEPS.c.status, STEPS.c.code, func.count())
        .where(STEPS.c.case_id.in_(_cases_of(batch_id)))
        .group_by(STEPS.c.name, STEPS.c.status, STEPS.c.code)
    )
    rows = ledger.store.read(lambda c: c.execute(query).all())
    return [StepCount(StepName(name), StepStatus(status), code, number) for name, status, code, number in rows]


def next_look_s(
    ledger: "Ledger", batch_id: str, *, logins: Sequence[str] = (), modes: Sequence[str] | None = None
) -> float | None:
    """Seconds until the next case of the batch is due, or until the lease of whoever works on one would end.

    None if nothing is waited for: all are done or need a person, or wait for a log-in's settings. Arguments as of
    ``Ledger.find_due``.
    """
    allowed = true() if modes is None else CASES.c.mode.in_(list(modes))
    let_in = CASES.c.blocked_login.is_(None)
    if logins:
        let_in = or_(let_in, CASES.c.blocked_login.not_in(list(logins)))
    # Asked of each case that is ready, of which few are left when this matters, and not of each row of the batch.
    of_batch = exists().where(BATCH_ROWS.c.case_id == CASES.c.id, BATCH_ROWS.c.batch_id == batch_id)
    ready = (CASES.c.status == CaseStatus.READY, allowed, of_batch)

    def look(connection: Connection) -> float | None:
        epoch, seconds = ledger.store.clock(connection)
        held = (CASES.c.lease_owner.is_not(None), CASES.c.lease_epoch == epoch, CASES.c.lease_until > seconds)
        free = or_(CASES.c.lease_owner.is_(None), CASES.c.lease_epoch != epoch, CASES.c.lease_until <= seconds)
        until = connection.execute(select(func.min(CASES.c.lease_until)).where(*ready, *held)).scalar_one()
        due = connection.execute(select(func.min(CASES.c.due_at)).where(*ready, free, let_in)).scalar_one()
        left = [] if until is None else [float(until) - seconds]
        if due is not None:
            left.append(max(0.0, (due - utc_now()).total_seconds()))
        return min(left, default=None)

    return ledger.store.read(look)


def blocked(ledger: "Ledger", batch_id: str) -> int:
    """How many cases of the batch wait until the settings of a log-in that was refused change; no time brings them on."""
    of_batch = exists().where(BATCH_ROWS.c.case_id == CASES.c.id, BATCH_ROWS.c.batch_id == batch_id)
    query = (
        select(func.count())
        .select_from(CASES)
        .where(CASES.c.status == CaseStatus.READY, CASES.c.blocked_login.is_not(None), of_batch)
    )
    return int(ledger.store.read(lambda c: c.execute(query).scalar_one()))


def being_worked(ledger: "Ledger", case_ids: Sequence[str]) -> int:
    """How many of these cases a runner has the lease on now; a few thousand at most."""

    def look(connection: Connection) -> int:
        epoch, seconds = ledger.store.clock(connection)
        held = (CASES.c.lease_owner.is_not(None), CASES.c.lease_epoch == epoch, CASES.c.lease_until > seconds)
        query = select(func.count()).select_from(CASES).where(CASES.c.id.in_(list(case_ids)), *held)
        return int(connection.execute(query).scalar_one())

    return ledger.store.read(look)


def open_batches(ledger: "Ledger", *, limit: int = 10) -> list[OpenBatch]:
    """Batches that are not all done, the newest first."""
    query = (
        select(BATCHES.c.id, CASES.c.status, func.count())
        .join(BATCH_ROWS, BATCH_ROWS.c.batch_id == BATCHES.c.id)
        .join(CASES, CASES.c.id == BATCH_ROWS.c.case_id)
        .where(
            BATCHES.c.state.in_([BatchState.RELEASING, BatchState.RELEASED]),
            CASES.c.status.in_(_OPEN),
            BATCH_ROWS.c.same_as.is_(None),
        )
        .group_by(BATCHES.c.id, BATCHES.c.created_at, CASES.c.status)
        .order_by(BATCHES.c.created_at.desc())
        .limit(limit * len(_OPEN))
    )
    found: dict[str, dict[str, int]] = {}
    for batch_id, status, number in ledger.store.read(lambda c: c.execute(query).all()):
        found.setdefault(batch_id, {})[status] = number
    views = [(batches.batch(ledger, batch_id), numbers) for batch_id, numbers in list(found.items())[:limit]]
    return [
        OpenBatch(view, numbers.get(CaseStatus.READY, 0), numbers.get(CaseStatus.ATTENTION, 0))
        for view, numbers in views
        if view is not None
    ]


def step_seconds(ledger: "Ledger", batch_id: str, *, sample: int = SAMPLE) -> Mapping[StepName, float]:
    """How long each step took, the median of the cases that were done last: from the end of the one before it.

    The first counts from when its case was taken the last time; a step that was found done long before counts as nothing.
    """
    some = (
        select(CASES.c.id)
        .where(CASES.c.id.in_(_cases_of(batch_id)), CASES.c.status == CaseStatus.DONE)
        .order_by(CASES.c.updated_at.desc())
        .limit(sample)
    )

    def look(connection: Connection) -> tuple[Sequence[Any], Sequence[Any]]:
        ids = list(connection.execute(some).scalars())
        taken = (
            select(EVENTS.c.case_id, func.max(EVENTS.c.at))
            .where(EVENTS.c.case_id.in_(ids), EVENTS.c.kind == "lease_taken")
            .group_by(EVENTS.c.case_id)
        )
        done = select(STEPS.c.case_id, STEPS.c.name, STEPS.c.done_at).where(
            STEPS.c.case_id.in_(ids), STEPS.c.done_at.is_not(None)
        )
        return connection.execute(taken).all(), connection.execute(done).all()

    taken, done = ledger.store.read(look)
    begun = dict(map(tuple, taken))
    ends: dict[str, dict[str, datetime]] = defaultdict(dict)
    for case_id, name, at in done:
        ends[case_id][name] = at
    took: dict[StepName, list[float]] = defaultdict(list)
    for case_id, of_case in ends.items():
        before = begun.get(case_id)
        for name in StepName:
            at = of_case.get(name.value)
            if at is None or before is None or at < before:
                continue
            took[name].append((at - before).total_seconds())
            before = at
    return {name: median(times) for name, times in took.items()}


def _cases_of(batch_id: str) -> Select[tuple[str]]:
    """The ids of the batch's cases."""
    return select(BATCH_ROWS.c.case_id).where(BATCH_ROWS.c.batch_id == batch_id, BATCH_ROWS.c.case_id.is_not(None))
