"""Batches: the rows of one file wait here, encrypted, until all of them may become cases.

A row is no case before its batch is released, so one that is dropped leaves nothing behind in any trail. Every function is
a few short transactions of a ``Ledger``, so that the leases of other runners are renewed in between.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, delete, func, insert, or_, select, true, update

from onboarding.clocks import utc_now
from onboarding.keys import LedgerKey
from onboarding.ledger import opening
from onboarding.ledger.batch_states import BatchState, RowStanding
from onboarding.ledger.columns import BATCH_ROWS, BATCHES, CASES, all_rows, maybe_row
from onboarding.ledger.drafting import MAY_BE_RELEASED, problems_place, utf8
from onboarding.ledger.opening import Addresses
from onboarding.ledger.states import CaseStatus

if TYPE_CHECKING:
    from onboarding.ledger.ledger import Ledger

CHUNK: Final = 1000
ABANDONED_AFTER: Final = timedelta(days=1)
_NOT_DONE: Final = or_(CASES.c.status.is_(None), CASES.c.status != CaseStatus.DONE)
_STAND_IN: Final = (RowStanding.OPENED, RowStanding.FOUND, RowStanding.REPLACED)


@dataclass(frozen=True)
class BatchView:
    """One batch as the ledger knows it. ``rows`` and ``file_digest`` are known once the whole file was read."""

    id: str
    state: BatchState
    name: str | None
    file_digest: str | None
    rows: int
    actor: str
    addresses: Addresses
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True)
class BatchCounts:
    """How far a released batch is.

    ``cases``: how many stand in each status with each reason code (or None). A case that is ready with a reason waits, one
    without was not worked yet. ``rows``: how many rows came to what.
    """

    cases: Mapping[tuple[CaseStatus, str | None], int]
    rows: Mapping[RowStanding, int]

    def of(self, status: CaseStatus) -> int:
        """How many cases stand in this status."""
        return sum(number for (found, _), number in self.cases.items() if found is status)

    @property
    def all_done(self) -> bool:
        """Whether every row has a case, and each is done."""
        without = (RowStanding.LEFT_OUT, RowStanding.DRAFT)
        return self.rows.keys().isdisjoint(without) and all(status is CaseStatus.DONE for status, _ in self.cases)


@dataclass(frozen=True)
class RowOutcome:
    """What became of one row, and how its case stands now. ``same_as``: the row of the file that asks for the very same."""

    number: int
    line: int
    standing: RowStanding
    case_id: str | None
    status: CaseStatus | None
    reason: str | None
    same_as: int | None
    problems: tuple[str, ...]


def open_batch(ledger: "Ledger", addresses: Addresses, *, actor: str, name: str | None = None) -> str:
    """Begin a batch; returns its id. ``name``, of the file, is kept encrypted."""
    batch_id = opening.new_id()
    now = utc_now()
    values = {
        "id": batch_id,
        "state": BatchState.FILLING.value,
        "name_sealed": None if name is None else ledger.key.encrypt(utf8(name), f"batch/{batch_id}/name"),
        "actor": actor,
        "openspecimen_address": addresses.openspecimen,
        "clinical_one_address": addresses.clinical_one,
        "rows": 0,
        "created_at": now,
        "updated_at": now,
    }
    ledger.store.write(lambda c: c.execute(insert(BATCHES).values(**values)))
    return batch_id


def reject(ledger: "Ledger", batch_id: str, *, file_digest: str | None = None, rows: int = 0) -> None:
    """Drop every draft of a batch that was never released; what was wrong with its bad rows stays for a day.

    ``file_digest`` and ``rows`` are given if the whole file was read.
    """
    _mark(ledger, batch_id, BatchState.REJECTED, file_digest=file_digest, rows=rows)
    _delete_rows(ledger, batch_id, only_drafts=True)


def sweep(ledger: "Ledger", *, now: datetime | None = None) -> list[str]:
    """Remove what is left of batches whose reading died, or that were rejected, a day ago; returns their ids."""
    before = (now or utc_now()) - ABANDONED_AFTER
    query = select(BATCHES.c.id).where(
        BATCHES.c.state.in_([BatchState.FILLING, BatchState.REJECTED]), BATCHES.c.updated_at < before
    )
    old = list(ledger.store.read(lambda c: c.execute(query).scalars().all()))
    for batch_id in old:
        _mark(ledger, batch_id, BatchState.REJECTED)  # its process, should it still be there, is told
        _delete_rows(ledger, batch_id, only_drafts=False)
        gone = delete(BATCHES).where(BATCHES.c.id == batch_id, BATCHES.c.state == BatchState.REJECTED)
        ledger.store.write(lambda c, gone=gone: c.execute(gone))  # type: ignore[misc]
    return old


def batch(ledger: "Ledger", batch_id: str) -> BatchView | None:
    """One batch, or None."""
    row = ledger.store.read(lambda c: maybe_row(c.execute(select(BATCHES).where(BATCHES.c.id == batch_id))))
    return None if row is None else _view(ledger.key, row)


def batch_of_file(ledger: "Ledger", file_digest: str) -> BatchView | None:
    """The batch that was released from this very file, or None."""
    query = select(BATCHES).where(
        BATCHES.c.file_digest == file_digest, BATCHES.c.state.in_([BatchState.RELEASING, BatchState.RELEASED])
    )
    row = ledger.store.read(lambda c: maybe_row(c.execute(query)))
    return None if row is None else _view(ledger.key, row)


def file_digest(ledger: "Ledger", sha256: str) -> str:
    """The keyed digest by which a file is recognised, of the SHA-256 of its bytes in hex."""
    return ledger.key.digest("batch file", sha256)


def counts(ledger: "Ledger", batch_id: str) -> BatchCounts:
    """How many cases stand where, and what its rows came to."""
    of_batch = BATCH_ROWS.c.batch_id == batch_id
    cases = (
        select(CASES.c.status, CASES.c.reason, func.count())
        .join(BATCH_ROWS, BATCH_ROWS.c.case_id == CASES.c.id)
        .where(of_batch, BATCH_ROWS.c.standing.in_(_STAND_IN))
        .group_by(CASES.c.status, CASES.c.reason)
    )
    rows = select(BATCH_ROWS.c.standing, func.count()).where(of_batch).group_by(BATCH_ROWS.c.standing)

    def look(connection: Connection) -> BatchCounts:
        return BatchCounts(
            {(CaseStatus(status), reason): number for status, reason, number in connection.execute(cases)},
            {RowStanding(standing): number for standing, number in connection.execute(rows)},
        )

    return ledger.store.read(look)


def outcomes(ledger: "Ledger", batch_id: str, *, done: bool | None = None) -> Iterator[RowOutcome]:
    """Every row of the batch in the file's order, read piece by piece; rows of a rejected batch are its bad ones.

    Row 0 is what was wrong with the whole file. ``done``: only rows whose case is done, or only the others.
    """
    last = -1
    wanted = {None: true(), True: CASES.c.status == CaseStatus.DONE, False: _NOT_DONE}[done]
    while True:
        query = (
            select(BATCH_ROWS, CASES.c.status, CASES.c.reason)
            .join(CASES, CASES.c.id == BATCH_ROWS.c.case_id, isouter=True)
            .where(BATCH_ROWS.c.batch_id == batch_id, BATCH_ROWS.c.number > last, wanted)
            .order_by(BATCH_ROWS.c.number)
            .limit(CHUNK)
        )
        rows = ledger.store.read(lambda c, query=query: all_rows(c.execute(query)))  # type: ignore[misc]
        if not rows:
            return
        for row in rows:
            yield _outcome(ledger.key, row)
        last = rows[-1]["number"]


def _mark(ledger: "Ledger", batch_id: str, state: BatchState, **values: Any) -> None:
    change = update(BATCHES).where(BATCHES.c.id == batch_id, BATCHES.c.state == BatchState.FILLING)
    ledger.store.write(lambda c: c.execute(change.values(state=state.value, updated_at=utc_now(), **values)))


def _delete_rows(ledger: "Ledger", batch_id: str, *, only_drafts: bool) -> None:
    """Delete rows of a batch that is rejected, some at a time."""
    rejected = select(BATCHES.c.id).where(BATCHES.c.id == batch_id, BATCHES.c.state == BatchState.REJECTED)
    which = [BATCH_ROWS.c.batch_id == batch_id]
    if only_drafts:
        which.append(BATCH_ROWS.c.standing.in_(MAY_BE_RELEASED))

    def change(connection: Connection) -> int:
        if connection.execute(rejected).scalar_one_or_none() is None:
            return 0
        some = select(BATCH_ROWS.c.number).where(*which).order_by(BATCH_ROWS.c.number).limit(CHUNK)
        numbers = list(connection.execute(some).scalars())
        if numbers:
            connection.execute(delete(BATCH_ROWS).where(*which, BATCH_ROWS.c.number.between(numbers[0], numbers[-1])))
        return len(numbers)

    while ledger.store.write(change):
        pass


def _view(key: LedgerKey, row: Mapping[str, Any]) -> BatchView:
    sealed = row["name_sealed"]
    return BatchView(
        id=row["id"],
        state=BatchState(row["state"]),
        name=None if sealed is None else key.decrypt(sealed, f"batch/{row['id']}/name").decode(),
        file_digest=row["file_digest"],
        rows=row["rows"],
        actor=row["actor"],
        addresses=Addresses.of(row),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def _outcome(key: LedgerKey, row: Mapping[str, Any]) -> RowOutcome:
    sealed = row["problems_sealed"]
    plain = b"[]" if sealed is None else key.decrypt(sealed, problems_place(row["batch_id"], row["number"]))
    return RowOutcome(
        number=row["number"],
        line=row["line"],
        standing=RowStanding(row["standing"]),
        case_id=row["case_id"],
        status=None if row["status"] is None else CaseStatus(row["status"]),
        reason=row["reason"],
        same_as=row["same_as"],
        problems=tuple(json.loads(plain)),
    )
