"""Reading the ledger for people: cases, steps, trails."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, or_, select

from onboarding.keys import LedgerKey
from onboarding.ledger.columns import BATCH_ROWS, CASES, EVENTS, STEPS, all_rows, maybe_row, step_view
from onboarding.ledger.states import CaseStatus, StepName
from onboarding.ledger.views import CaseView, EventView, StepView

_CHUNK = 500


def read_case(connection: Connection, clock: tuple[str, float], case_id: str) -> CaseView | None:
    """One case with its steps, or None."""
    row = maybe_row(connection.execute(select(CASES).where(CASES.c.id == case_id)))
    return None if row is None else _with_steps(connection, clock, [row])[0]


def read_cases(
    connection: Connection,
    clock: tuple[str, float],
    *,
    statuses: Sequence[CaseStatus] = (),
    batch_id: str | None = None,
    limit: int | None = None,
) -> list[CaseView]:
    """Cases with their steps, the newest first. Those of a batch may have been opened by another one that asked first."""
    query = select(CASES).order_by(CASES.c.created_at.desc(), CASES.c.id).limit(limit)
    if statuses:
        query = query.where(CASES.c.status.in_([status.value for status in statuses]))
    if batch_id is not None:
        asked_for = select(BATCH_ROWS.c.case_id).where(BATCH_ROWS.c.batch_id == batch_id)
        asked_for = asked_for.where(BATCH_ROWS.c.case_id.is_not(None))
        query = query.where(or_(CASES.c.batch_id == batch_id, CASES.c.id.in_(asked_for)))
    rows = all_rows(connection.execute(query))
    found: list[CaseView] = []
    for start in range(0, len(rows), _CHUNK):  # databases bound the number of values in one statement
        found += _with_steps(connection, clock, rows[start : start + _CHUNK])
    return found


def read_events(connection: Connection, key: LedgerKey, case_id: str) -> list[EventView]:
    """A case's trail, the oldest entry first, reasons decrypted."""
    query = select(EVENTS).where(EVENTS.c.case_id == case_id).order_by(EVENTS.c.sequence)
    return [
        EventView(
            sequence=row["sequence"],
            at=row["at"],
            actor=row["actor"],
            kind=row["kind"],
            step=row["step"],
            code=row["code"],
            detail=row["detail"] or {},
            reason=_reason(key, row),
        )
        for row in all_rows(connection.execute(query))
    ]


def read_vendor_texts(connection: Connection, key: LedgerKey, case_id: str) -> dict[str, str]:
    """The vendors' own words for each step that has some."""
    rows = connection.execute(select(STEPS.c.name, STEPS.c.vendor_text_sealed).where(STEPS.c.case_id == case_id))
    return {
        name: key.decrypt(sealed, f"step/{case_id}/{name}/vendor_text").decode()
        for name, sealed in rows
        if sealed is not None
    }


def _reason(key: LedgerKey, row: Mapping[str, Any]) -> str | None:
    sealed = row["reason_sealed"]
    return None if sealed is None else key.decrypt(sealed, f"event/{row['case_id']}/{row['sequence']}").decode()


def _with_steps(connection: Connection, clock: tuple[str, float], rows: Sequence[Mapping[str, Any]]) -> list[CaseView]:
    epoch, seconds = clock
    steps: dict[str, dict[StepName, StepView]] = {row["id"]: {} for row in rows}
    for step in all_rows(connection.execute(select(STEPS).where(STEPS.c.case_id.in_(list(steps))))):
        view = step_view(step, epoch, seconds)
        steps[step["case_id"]][view.name] = view
    return [_case_view(row, {name: steps[row["id"]][name] for name in StepName}, epoch, seconds) for row in rows]


def _case_view(row: Mapping[str, Any], steps: Mapping[StepName, StepView], epoch: str, seconds: float) -> CaseView:
    live = row["lease_owner"] is not None and row["lease_epoch"] == epoch
    late = [(StepName(answer["step"]), answer) for answer in row["late_answers"] or []]
    return CaseView(
        id=row["id"],
        study_id=row["study_id"],
        mode=row["mode"],
        subject_id=row["subject_id"],
        inventory_id=row["inventory_id"],
        batch_id=row["batch_id"],
        status=CaseStatus(row["status"]),
        reason=row["reason"],
        due_at=row["due_at"],
        blocked=row["blocked_login"] is not None,
        lease_left_s=max(0.0, row["lease_until"] - seconds) if live else 0.0,
        fence=row["fence"],
        takings=row["takings"],
        idle_takings=row["idle_takings"],
        flow_run_id=row["flow_run_id"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        steps=steps,
        contradicted=next((step for step, answer in late if steps[step].contradicts(answer)), None),
    )
