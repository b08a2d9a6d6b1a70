"""Work on many cases in one transaction: a commit costs the same for one write as for a hundred, and each fails alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from onboarding.clocks import boot_seconds
from onboarding.errors import BadInput, CaseContradicted, LedgerError
from onboarding.intake import IntakeRequest
from onboarding.keys import LedgerKey
from onboarding.ledger import leasing
from onboarding.ledger.claims import ClaimKey
from onboarding.ledger.columns import Row
from onboarding.ledger.leasing import Runner
from onboarding.ledger.opening import Addresses, request_place, stored_request
from onboarding.ledger.rows import NotAhead, ReadyRows, Rows
from onboarding.ledger.states import StepName
from onboarding.ledger.store import CommitUnknown, Store, StoreGone
from onboarding.ledger.writes import CaseWrite, Lease

T = TypeVar("T")
Clock = tuple[str, float]
WORTH_PREPARING: Final = 4
"""Works from which on SQLite's one write lock is taken only once all is computed: what they need is read twice then."""

FirstClaims = Callable[[IntakeRequest], Sequence[ClaimKey]]
ALONE: Final = object()
"""In place of a result: nothing was written, and the work is to be done alone, where it keeps nobody else waiting."""


@dataclass(frozen=True)
class Taking:
    """A wish for a case's lease. Its result is the lease, or who has it, or why the case cannot be worked.

    ``first_claims``: what a request's first step claims; taken with the lease if that step is to be worked and they are free.
    """

    case_id: str
    runner: Runner
    addresses: Addresses
    retry: bool = False
    first_claims: FirstClaims | None = None


@dataclass(frozen=True)
class Fenced(Generic[T]):
    """A write to a leased case. Its result is what ``change`` returns, which may be run more than once before it counts."""

    lease: Lease
    change: Callable[[CaseWrite], T]
    claims: Sequence[ClaimKey] = ()

    @property
    def case_id(self) -> str:
        """The case that is written."""
        return self.lease.case_id

    def forget(self) -> None:
        """It is not known what was written: the case is read again next time."""
        self.lease.case = None
        self.lease.steps.clear()


def work_together(
    store: Store, key: LedgerKey, works: Sequence[Taking | Fenced[Any]], *, wait: bool = False
) -> list[Any]:
    """Do all of it in one transaction, in this order. Returns for each its result, or the exception to raise.

    What one case's part raises is its own: nothing of that part is written. ``ALONE`` stands for a part that had to be left
    out because another transaction holds its case's row, or for each part if the transaction as a whole cannot be done.
    With ``wait`` such a row is waited for instead.
    """
    return begin_together(store, key, works, wait=wait).finish()


@dataclass(frozen=True)
class Begun:
    """Work that was begun; ``finish`` does the rest, and gives what ``work_together`` gives.

    ``only_commits``: all but that was done, and it has SQLite's write lock. So it must not come after anything that may wait
    for that lock, such as another such rest that has it not.
    """

    finish: Callable[[], list[Any]]
    only_commits: bool = False


def begin_together(store: Store, key: LedgerKey, works: Sequence[Taking | Fenced[Any]], *, wait: bool = False) -> Begun:
    """The part of ``work_together`` that waits for nobody: it looks and computes, and writes if SQLite's write lock is free."""
    before = boot_seconds()
    together = _Together(store, key, works, wait)
    commit: Callable[[], list[_Part]] | None = None
    try:
        write: Callable[[Connection], list[_Part]] = together.write
        if store.is_sqlite and len(works) >= WORTH_PREPARING:
            write = together.ahead()
            commit = store.begin_write(write)
    except Exception as error:  # noqa: BLE001 - whatever it was, it is handed to whom it belongs
        failed = _failed(works, error)
        return Begun(lambda: failed)

    def finish() -> list[Any]:
        try:
            return _written(before, store.write(write) if commit is None else commit())
        except Exception as error:  # noqa: BLE001 - as above
            return _failed(works, error)

    return Begun(finish, only_commits=commit is not None)


def _failed(works: Sequence[Taking | Fenced[Any]], error: Exception) -> list[Any]:
    if isinstance(error, CommitUnknown):
        for work in works:
            if isinstance(work, Fenced):
                work.forget()
        return [CommitUnknown(str(error)) for _ in works]
    if len(works) == 1:
        return [error]
    if isinstance(error, StoreGone):  # each alone would only wait as long again
        return [StoreGone(str(error)) for _ in works]
    return [ALONE] * len(works)


def _written(before: float, parts: "Sequence[_Part]") -> list[Any]:
    for part in parts:
        if part.lease is not None:  # a write's, as this commit left it
            # By this machine's clock alone: by the ledger's, a day could be left after that one was set back.
            kept = before + part.left_s
            part.lease.valid_until = max(kept, part.lease.valid_until) if part.left_s > 0 else before
            part.lease.case = part.case
            part.lease.steps |= part.steps
    return [part.result for part in parts]


@dataclass(frozen=True)
class _Part:
    """What one part of the transaction came to."""

    result: Any
    lease: Lease | None = None
    left_s: float = 0.0
    case: Row | None = None
    steps: Mapping[StepName, Row] = field(default_factory=dict)


@dataclass(frozen=True)
class _Together:
    """The work of one transaction."""

    store: Store
    key: LedgerKey
    works: Sequence[Taking | Fenced[Any]]
    wait: bool

    def write(self, connection: Connection) -> list[_Part]:
        """Do it all under the locks of this transaction."""
        rows, parts = self._do(connection, ahead=False)
        rows.write()
        return parts

    def ahead(self) -> Callable[[Connection], list[_Part]]:
        """Do it without SQLite's write lock. Returns what writes it under the lock, or does it anew if something changed."""

        def look(connection: Connection) -> tuple[Rows, ReadyRows, list[_Part]]:
            rows, parts = self._do(connection, ahead=True)
            return rows, rows.ready(), parts

        try:
            rows, ready, parts = self.store.read(look)
        except NotAhead:
            return self.write

        def write(connection: Connection) -> list[_Part]:
            self._check_schema(connection)
            if not rows.stand(connection):
                return self.write(connection)
            ready.write(connection)
            return parts

        return write

    def _do(self, connection: Connection, *, ahead: bool) -> tuple[Rows, list[_Part]]:
        self._check_schema(connection)
        fenced = [work for work in self.works if isinstance(work, Fenced)]
        rows = Rows(
            connection,
            cases=[work.case_id for work in self.works],
            known={work.case_id: work.lease.case for work in fenced if work.lease.case},
            taken=[work.case_id for work in self.works if isinstance(work, Taking)],
            skip_locked=not self.wait,
            ahead=ahead,
        )
        asked = {work.case_id: _asked(rows, self.key, work) for work in self.works if isinstance(work, Taking)}
        wanted = [*(work.claims for work in fenced), *(one.claims for one in asked.values())]
        rows.want_claims((claim.kind.value, claim.key) for claims in wanted for claim in claims)
        clock = self.store.clock(connection)
        alone = len(self.works) == 1
        return rows, [_part(rows, self.key, clock, work, asked.get(work.case_id), alone=alone) for work in self.works]

    def _check_schema(self, connection: Connection) -> None:
        if any(isinstance(work, Taking) for work in self.works):
            leasing.check_schema(connection)


@dataclass(frozen=True)
class _Asked:
    """What a case that is taken asks for, if that can be read, and what it claims first."""

    request: IntakeRequest | None = None
    claims: Sequence[ClaimKey] = ()


def _asked(rows: Rows, key: LedgerKey, work: Taking) -> _Asked:
    if work.first_claims is None or rows.case(work.case_id) is None:
        return _Asked()
    try:
        request = stored_request(key.decrypt(rows.request_sealed(work.case_id), request_place(work.case_id)))
    except (LedgerError, BadInput, ValueError):  # whoever has the lease reads it again, and says so
        return _Asked()
    return _Asked(request, work.first_claims(request))


def _part(
    rows: Rows, key: LedgerKey, clock: Clock, work: Taking | Fenced[Any], asked: _Asked | None, *, alone: bool
) -> _Part:
    if rows.skipped(work.case_id):
        return _Part(ALONE)
    try:
        if isinstance(work, Taking):
            return _take(rows, key, clock, work, asked or _Asked())
        return _write(rows, key, clock, work)
    except (SQLAlchemyError, NotAhead):
        raise  # the whole transaction's
    except Exception as error:
        if alone:
            raise
        return _Part(error)


def _take(rows: Rows, key: LedgerKey, clock: Clock, work: Taking, asked: _Asked) -> _Part:
    taken = leasing.take(
        rows, key, clock, work.case_id, work.runner, work.addresses, retry=work.retry, first_claims=asked.claims
    )
    if not isinstance(taken, Lease):
        return _Part(taken)
    taken.request = asked.request
    return _Part(taken, taken, taken.seconds, taken.case, taken.steps)


def _write(rows: Rows, key: LedgerKey, clock: Clock, work: Fenced[Any]) -> _Part:
    write = CaseWrite.begin(rows, key, clock, work.lease)
    if leasing.contradiction(write):
        write.contradict(leasing.LATE_ANSWER)
        write.end()
        return _Part(
            CaseContradicted(
                f"case {work.case_id}: an answer that came late says otherwise than the ledger; nothing more is sent. "
                f"Look at 'onboard show {work.case_id}' and at the other system, then decide."
            )
        )
    result = work.change(write)
    write.end()
    return _Part(result, work.lease, write.lease_left_s, write.case, write.step_rows)
