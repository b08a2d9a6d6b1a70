"""Releasing a batch: one commit says that all its good rows become cases; then they do, whoever has to finish it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, exists, select, update
from sqlalchemy.exc import IntegrityError

from onboarding.clocks import utc_now
from onboarding.errors import RequestConflict
from onboarding.ledger import opening
from onboarding.ledger.batch_states import BatchState, RowStanding
from onboarding.ledger.columns import BATCH_ROWS, BATCHES, CASES, Row, all_rows
from onboarding.ledger.drafting import BatchGone, bad_already, seal_problems
from onboarding.ledger.opening import Addresses, NewCases, Prepared
from onboarding.ledger.states import CaseStatus

if TYPE_CHECKING:
    from onboarding.ledger.ledger import Ledger

_CHUNK: Final = 500  # rows of six tables in one transaction: other runners wait for its end to renew their leases
_CLEARED: Final[Mapping[str, Any]] = {"request_sealed": None, "section_digests": None}


def release(ledger: "Ledger", batch_id: str, file_digest: str, rows: int) -> str:
    """Say that every good row of the batch becomes a case, and make them; returns the id of the file's batch.

    That is another one's if the very same file was released meanwhile; then nothing is changed, and this one's drafts are for
    the caller to reject. Raises ``BatchGone``.
    """
    try:
        found = ledger.store.write(lambda c: _say(c, batch_id, file_digest, rows))
    except IntegrityError:  # somebody else said it of the same file at the same time
        found = ledger.store.write(lambda c: _say(c, batch_id, file_digest, rows))
    finish_release(ledger, found)
    return found


def finish_releases(ledger: "Ledger") -> list[str]:
    """Finish every release that was interrupted; returns the ids of those batches. For whoever starts next."""
    query = select(BATCHES.c.id).where(BATCHES.c.state == BatchState.RELEASING)
    found = list(ledger.store.read(lambda c: c.execute(query).scalars().all()))
    for batch_id in found:
        finish_release(ledger, batch_id)
    return found


def finish_release(ledger: "Ledger", batch_id: str) -> None:
    """Make cases of the drafts of a batch that is being released; several may do so at once. Nothing for other batches."""
    last = 0
    while some := ledger.store.read(lambda c, last=last: _drafts(c, batch_id, last)):  # type: ignore[misc]
        last = some[-1]["number"]
        prepared = [_prepared(row) for row in some]
        batch = some[0]
        new = opening.new_cases(ledger.key, prepared, Addresses.of(batch), actor=batch["actor"], batch_id=batch_id)
        changed = ledger.store.write(lambda c, some=some, new=new: _open_many(c, batch_id, some, new))  # type: ignore[misc]
        for row in changed:
            ledger.store.write(lambda c, row=row: _open_one(c, ledger, batch_id, row))  # type: ignore[misc]
    ledger.store.write(lambda c: _end(c, batch_id))


def _say(connection: Connection, batch_id: str, file_digest: str, rows: int) -> str:
    same_file = select(BATCHES.c.id).where(
        BATCHES.c.file_digest == file_digest, BATCHES.c.state.in_([BatchState.RELEASING, BatchState.RELEASED])
    )
    if (found := connection.execute(same_file).scalar_one_or_none()) is not None:
        return str(found)
    said = (
        update(BATCHES)
        .where(BATCHES.c.id == batch_id, BATCHES.c.state == BatchState.FILLING)
        .values(state=BatchState.RELEASING.value, file_digest=file_digest, rows=rows, updated_at=utc_now())
        .returning(BATCHES.c.id)
    )
    if connection.execute(said).scalar_one_or_none() is None:
        raise BatchGone(f"batch {batch_id} is not being read in any more: start it again with the same command.")
    return batch_id


def _drafts(connection: Connection, batch_id: str, last: int) -> list[Row]:
    query = (
        select(BATCH_ROWS, BATCHES.c.actor, BATCHES.c.openspecimen_address, BATCHES.c.clinical_one_address)
        .join(BATCHES, BATCHES.c.id == BATCH_ROWS.c.batch_id)
        .where(
            BATCH_ROWS.c.batch_id == batch_id,
            BATCH_ROWS.c.number > last,
            BATCH_ROWS.c.standing == RowStanding.DRAFT,
            BATCHES.c.state == BatchState.RELEASING,
        )
        .order_by(BATCH_ROWS.c.number)
        .limit(_CHUNK)
    )
    return all_rows(connection.execute(query))


def _open_many(connection: Connection, batch_id: str, drafts: Sequence[Row], new: NewCases) -> list[Row]:
    """Make the cases of these drafts, and find those that stand with the same request; returns the other drafts."""
    _lock(connection, batch_id)
    left = _still_drafts(connection, batch_id, drafts)
    standing = _standing(connection, left)
    without = {row["case_id"] for row in left if row["business_key"] not in standing}
    made = opening.insert_cases(connection, new.of(without))
    if opened := [row["number"] for row in left if row["case_id"] in made]:
        _settle(connection, batch_id, BATCH_ROWS.c.number.in_(opened), RowStanding.OPENED)
    connection.execute(update(BATCHES).where(BATCHES.c.id == batch_id).values(updated_at=utc_now()))
    changed = []
    for row in left:
        case = standing.get(row["business_key"])
        same = case is not None and case["request_digest"] == row["request_digest"]
        if case is not None and same and not opening.done_elsewhere(case, Addresses.of(row)):
            _settle_one(connection, batch_id, row, RowStanding.FOUND, case_id=case["id"])
        elif row["case_id"] not in made:
            changed.append(row)
    return changed


def _open_one(connection: Connection, ledger: "Ledger", batch_id: str, row: Row) -> None:
    """A draft whose case stands with another request: replace that request, or say why not."""
    _lock(connection, batch_id)
    if not _still_drafts(connection, batch_id, [row]):
        return
    epoch, seconds = ledger.store.clock(connection)
    try:
        opened = opening.open_case(
            connection,
            ledger.key,
            _prepared(row),
            Addresses.of(row),
            actor=row["actor"],
            epoch=epoch,
            seconds=seconds,
            batch_id=batch_id,
        )
    except RequestConflict as conflict:  # the row could be taken when it was read in, and cannot any more
        number = row["number"]
        sealed = seal_problems(ledger.key, batch_id, number, [str(conflict)])
        _settle_one(connection, batch_id, row, RowStanding.LEFT_OUT, case_id=None, problems_sealed=sealed)
        _leave_out_repeats(connection, ledger, batch_id, row)
        return
    standing = RowStanding.OPENED if opened.created else RowStanding.REPLACED if opened.replaced else RowStanding.FOUND
    _settle_one(connection, batch_id, row, standing, case_id=opened.case_id)


def _leave_out_repeats(connection: Connection, ledger: "Ledger", batch_id: str, first: Row) -> None:
    repeats = select(BATCH_ROWS.c.number).where(
        BATCH_ROWS.c.batch_id == batch_id,
        BATCH_ROWS.c.business_key == first["business_key"],
        BATCH_ROWS.c.standing == RowStanding.REPEATED,
    )
    what = bad_already(first["line"])
    for number in connection.execute(repeats).scalars().all():
        sealed = seal_problems(ledger.key, batch_id, number, [what])
        left_out = {"problems_sealed": sealed, "case_id": None}
        _settle(connection, batch_id, BATCH_ROWS.c.number == number, RowStanding.LEFT_OUT, **left_out)


def _still_drafts(connection: Connection, batch_id: str, drafts: Sequence[Row]) -> list[Row]:
    """Those that nobody else has settled since they were read; the caller holds the batch's row."""
    query = select(BATCH_ROWS.c.number).where(
        BATCH_ROWS.c.batch_id == batch_id,
        BATCH_ROWS.c.number.between(drafts[0]["number"], drafts[-1]["number"]),
        BATCH_ROWS.c.standing == RowStanding.DRAFT,
    )
    left = set(connection.execute(query).scalars())
    return [row for row in drafts if row["number"] in left]


def _standing(connection: Connection, drafts: Sequence[Row]) -> dict[str, Row]:
    """The live cases of these business keys."""
    names = ("id", "business_key", "request_digest", "status", "openspecimen_address", "clinical_one_address")
    query = select(*(CASES.c[name] for name in names)).where(
        CASES.c.business_key.in_([row["business_key"] for row in drafts]), CASES.c.status != CaseStatus.CANCELLED
    )
    return {row["business_key"]: row for row in all_rows(connection.execute(query))} if drafts else {}


def _lock(connection: Connection, batch_id: str) -> None:
    """Let nobody else release rows of this batch until the transaction ends."""
    connection.execute(select(BATCHES.c.id).where(BATCHES.c.id == batch_id).with_for_update())


def _prepared(row: Row) -> Prepared:
    return Prepared(
        case_id=row["case_id"],
        business_key=row["business_key"],
        request_sealed=row["request_sealed"],
        request_digest=row["request_digest"],
        section_digests=row["section_digests"],
    )


def _settle_one(connection: Connection, batch_id: str, row: Row, standing: RowStanding, **values: Any) -> None:
    _settle(connection, batch_id, BATCH_ROWS.c.number == row["number"], standing, **values)
    if values["case_id"] is not None and values["case_id"] != row["case_id"]:
        connection.execute(
            update(BATCH_ROWS)
            .where(
                BATCH_ROWS.c.batch_id == batch_id,
                BATCH_ROWS.c.business_key == row["business_key"],
                BATCH_ROWS.c.standing == RowStanding.REPEATED,
            )
            .values(case_id=values["case_id"])
        )


def _settle(connection: Connection, batch_id: str, which: Any, standing: RowStanding, **values: Any) -> None:
    connection.execute(
        update(BATCH_ROWS)
        .where(BATCH_ROWS.c.batch_id == batch_id, which)
        .values(standing=standing.value, **_CLEARED, **values)
    )


def _end(connection: Connection, batch_id: str) -> None:
    drafts = exists().where(BATCH_ROWS.c.batch_id == batch_id, BATCH_ROWS.c.standing == RowStanding.DRAFT)
    connection.execute(
        update(BATCHES)
        .where(BATCHES.c.id == batch_id, BATCHES.c.state == BatchState.RELEASING, ~drafts)
        .values(state=BatchState.RELEASED.value, updated_at=utc_now())
    )
