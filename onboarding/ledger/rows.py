"""The rows that one transaction works on: read and locked together, changed in memory, written together at its end.

So a transaction over many cases costs a handful of statements, and a case whose part fails leaves nothing behind: what it
changed is handed over (``put_...``) only once all of its part is done.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, product
from operator import itemgetter
from typing import Any, Final, Generic, TypeVar

from sqlalchemy import Connection, bindparam, case, insert, update
from sqlalchemy.dialects import postgresql

from onboarding.clocks import utc_now
from onboarding.ledger.columns import CASES, CLAIMS, EVENTS, STEPS, Row
from onboarding.ledger.fixed import CHUNK, FixedRows, FixedWrite, Ready, marks
from onboarding.ledger.states import CLAIM_ENDS, ENDS_WITHOUT_HOLDER, ClaimEnd, ClaimState, StepName

Settled = tuple[str, str, ClaimEnd]
"""The case that held it, the kind of claim, and how it ends."""
K = TypeVar("K", str, tuple[str, str])
ClaimId = tuple[str, str]
"""A claim's kind and key."""

_UNCHANGED_BY_WORK: Final = ("request_sealed", "request_digest", "section_digests", "business_key")
_WORKED: Final = [column for column in CASES.c if column.name not in _UNCHANGED_BY_WORK]
# Whatever changes a case's row, but for its lease's end (its holder's doing), leaves another fence, owner, or entry behind.
_VERSION: Final = FixedRows([CASES.c.id, CASES.c.fence, CASES.c.lease_owner, CASES.c.trail_sequence])
_LEASE: Final = FixedRows([CASES.c.lease_owner, CASES.c.lease_epoch, CASES.c.lease_until, CASES.c.fence])
_STANDS: Final = FixedRows([*_VERSION.columns, CASES.c.lease_epoch, CASES.c.lease_until])
_CASE: Final = FixedRows(_WORKED)
_REQUEST: Final = FixedRows([CASES.c.id, CASES.c.request_sealed])
_STEP: Final = FixedRows(list(STEPS.c))
_CLAIM: Final = FixedRows(list(CLAIMS.c))
_NOTHING: Final[Mapping[str, Row]] = {}
_AT_EACH_WRITE: Final = frozenset({"lease_until", "lease_epoch", "updated_at", "trail_sequence", "trail_seal"})
_AT_SOME_WRITES: Final = frozenset(
    {
        "reason",
        "due_at",
        "blocked_login",
        "lease_owner",
        "fence",
        "takings",
        "idle_takings",
        "late_answers",
        "flow_run_id",
    }
)
_STATUS: Final = frozenset({"status"})
_BY_WORK: Final = _AT_EACH_WRITE | _AT_SOME_WRITES | _STATUS
_at_some_writes: Final = itemgetter(*_AT_SOME_WRITES)
_AT_EACH_MOVE: Final = frozenset({"status", "code", "updated_at"})
_OF_INTENT: Final = frozenset(
    {"attempts", "probes", "absences", "in_doubt", "intent", "intent_sealed", "quiet_until", "quiet_epoch"}
)
_OF_OUTCOME: Final = frozenset(STEPS.c.keys()) - {"case_id", "name"} - _AT_EACH_MOVE - _OF_INTENT
_of_intent: Final = itemgetter(*_OF_INTENT)
_of_outcome: Final = itemgetter(*_OF_OUTCOME)
_kept: Final = itemgetter(*(column.name for column in _WORKED if column.name not in _BY_WORK))


def _saving(table: Any, columns: Iterable[str], **place: str) -> FixedWrite:
    """An UPDATE of these columns of one row; ``place``: which parameter names it by which column."""
    found = (table.c[column] == bindparam(parameter) for parameter, column in place.items())
    return FixedWrite(update(table).where(*found), sorted(columns))


# The fence is in the condition once more: the rows are locked, so it must still match.
# By whether what changes at some writes did, and the status: SQLite writes an index anew if a column that it is made of, or its
# condition, is set to whatever value.
_SAVE_CASE: Final = {
    (some, status): _saving(
        CASES,
        _AT_EACH_WRITE | (_AT_SOME_WRITES if some else frozenset()) | (_STATUS if status else frozenset()),
        of_id="id",
        of_fence="fence",
    )
    for some in (False, True)
    for status in (False, True)
}
# By whether a move changed what is kept of the intent, and of how it came out: those are most of a row.
_SAVE_STEP: Final = {
    (of_intent, of_outcome): _saving(
        STEPS,
        _AT_EACH_MOVE | (_OF_INTENT if of_intent else frozenset()) | (_OF_OUTCOME if of_outcome else frozenset()),
        of_case="case_id",
        of_name="name",
    )
    for of_intent in (False, True)
    for of_outcome in (False, True)
}
_SAVE_CLAIM: Final = _saving(CLAIMS, {*CLAIMS.c.keys()} - {"kind", "key"}, of_kind="kind", of_key="key")
_ADD_EVENT: Final = FixedWrite(insert(EVENTS), EVENTS.c.keys())
_ADD_CLAIM: Final = FixedWrite(insert(CLAIMS), CLAIMS.c.keys())
_NEW_CLAIM: Final[Mapping[str, Any]] = {
    **dict.fromkeys(CLAIMS.c.keys()),
    "bound_to": "",
    "state": ClaimState.FREE.value,
    "attempts": 0,
    "probes": 0,
    "absences": 0,
    "in_doubt": False,
}


def _settling(end: ClaimEnd) -> FixedWrite:
    state = case({old.value: new.value for old, new in CLAIM_ENDS[end].items()}, value=CLAIMS.c.state)
    mine = update(CLAIMS).where(CLAIMS.c.holder_case == bindparam("of_case"), CLAIMS.c.kind == bindparam("of_kind"))
    now = bindparam("now", type_=CLAIMS.c.updated_at.type)
    return FixedWrite(mine.values(state=state, updated_at=now, **_after(end, bindparam("effect"))), [])


def _after(end: ClaimEnd, case_id: Any) -> Row:
    """What else changes in a claim that ends like this."""
    values: Row = {"holder_case": None} if end in ENDS_WITHOUT_HOLDER else {}
    return values | ({"effect_id": case_id} if end is ClaimEnd.BOUND else {})


_SETTLE: Final = {end: _settling(end) for end in ClaimEnd}


class NotAhead(Exception):
    """What was prepared needs to see what it is itself about to write: it can be done under the write lock only."""


class Rows:
    """What one transaction read and is about to write.

    ``cases`` are those it is about, read with one statement, in one order everywhere; ``want_claims`` says which claims it
    will surely need. What else it turns out to need is read one by one. ``taken``: the cases that are taken, which need
    their requests and all of their steps too. ``known``: rows of cases as they were left before; each is used if its case
    still has that version. ``skip_locked``: a case whose row another transaction holds is left out instead of being waited
    for (PostgreSQL; SQLite has one writer).

    ``ahead`` (SQLite): read without its write lock, to be written only if ``stand`` says so in the transaction that does.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        cases: Iterable[str] = (),
        taken: Iterable[str] = (),
        known: Mapping[str, Row] = _NOTHING,
        skip_locked: bool = False,
        ahead: bool = False,
    ) -> None:
        self.connection = connection
        self._ahead = ahead
        self._is_sqlite = connection.dialect.name == "sqlite"
        self._known = known
        self._skip_locked = skip_locked
        self._cases: Sheet[str] = Sheet()
        self._steps: Sheet[tuple[str, str]] = Sheet()
        self._claims: Sheet[ClaimId] = Sheet()
        self._wanted_claims: frozenset[ClaimId] = frozenset()
        self._taken = frozenset(taken)
        self._requests: dict[str, bytes] = {}
        self._events: list[Row] = []
        self._settled: list[Settled] = []
        self._claims_seen: dict[ClaimId, Row | None] = {}
        self._held_by: defaultdict[str, set[ClaimId]] = defaultdict(set)  # what each case holds or held here
        self._leases_seen: dict[str, Row] = {}
        self._read_cases(sorted(set(cases)))
        self.now: Final = utc_now()  # one moment for all of it, and after whoever had the rows locked

    # Reading

    def want_claims(self, claims: Iterable[ClaimId]) -> None:
        """These will be needed: they are read together, by the time the first of them is."""
        self._wanted_claims |= frozenset(claims)
        if self._ahead:  # now, since what is written later would not show in them
            self._read_claims(sorted(self._wanted_claims))

    def skipped(self, case_id: str) -> bool:
        """Whether the case may have a row that another transaction holds."""
        return self._skip_locked and case_id not in self._cases.now

    def case(self, case_id: str) -> Row | None:
        """The row of one of the ``cases``, locked; None if there is none (or if it was skipped)."""
        return self._cases.now.get(case_id)

    def request_sealed(self, case_id: str) -> bytes:
        """The case's request, encrypted."""
        if case_id not in self._requests:
            found = _REQUEST.by(self.connection, "id", sorted(self._taken | {case_id}))
            self._requests |= {row["id"]: row["request_sealed"] for row in found}
        return self._requests[case_id]

    def step(self, case_id: str, name: StepName, known: Row | None = None) -> Row:
        """A step's row; whoever holds the case's row holds its steps.

        ``known``: the row as it was read or written under the same fence before; so it still stands, and need not be read.
        """
        place = (case_id, name.value)
        if place not in self._steps.now and known is not None:
            self._steps.know(place, known)
        if place not in self._steps.now:
            wanted = sorted(self._taken | {case_id})  # cases that are taken need all of their steps
            for row in _STEP.by(self.connection, "case_id", wanted):
                self._steps.know((row["case_id"], row["name"]), row)
        return self._steps.now[place]

    def claim(self, kind: str, key: str) -> Row:
        """A claim's row, locked; it is made, free, if nobody ever claimed this."""
        place = (kind, key)
        if place not in self._claims.now:
            self._read_claims(sorted(self._wanted_claims | {place}))
            self._wanted_claims = frozenset()
        return self._claims.now[place]

    def lease_of(self, case_id: str) -> Row:
        """Who works on another case, as it stands here; its row is not locked."""
        known = self._cases.now.get(case_id)
        if known is not None:
            return known
        (row,) = _LEASE.by(self.connection, "id", [case_id])
        self._leases_seen[case_id] = row
        return row

    def stand(self, connection: Connection) -> bool:
        """Whether everything that was read ahead stands as it was read; what is said holds for as long as the write lock."""
        self.connection = connection
        cases = {row["id"]: row for row in _STANDS.by(connection, "id", sorted(self._cases.read))}
        return (
            all(_agree(cases.get(case_id), row) for case_id, row in self._cases.read.items())
            and self._claims_now(sorted(self._claims_seen)) == self._claims_seen
            and all([*_LEASE.by(connection, "id", [case_id])] == [row] for case_id, row in self._leases_seen.items())
        )

    def _read_cases(self, case_ids: Sequence[str]) -> None:
        if self._ahead:  # whether these stand is looked at later
            for case_id in case_ids:
                if case_id in self._known:
                    self._cases.know(case_id, self._known[case_id])
            case_ids = [case_id for case_id in case_ids if case_id not in self._known]
        for row in self._locked_cases(_VERSION, [case_id for case_id in case_ids if case_id in self._known]):
            known = self._known[row["id"]]
            if all(known[column] == value for column, value in row.items()):
                self._cases.know(row["id"], known)
        for row in self._locked_cases(_CASE, [case_id for case_id in case_ids if case_id not in self._cases.now]):
            self._cases.know(row["id"], row)

    def _locked_cases(self, rows: FixedRows, case_ids: Sequence[str]) -> Iterator[Row]:
        lock = "FOR UPDATE SKIP LOCKED" if self._skip_locked else "FOR UPDATE"
        return rows.by(self.connection, "id", case_ids, lock)

    def _read_claims(self, places: Sequence[ClaimId]) -> None:
        if self._settled and self._ahead:
            raise NotAhead
        for settling in self._all_ready(self._settling()):  # else what is read would not show it
            settling.run(self.connection)
        found = self._claims_now([place for place in places if place not in self._claims.now])
        self._claims_seen |= found
        if not self._is_sqlite and (missing := [place for place, row in found.items() if row is None]):
            free = [self._free(place) for place in missing]  # made at once, to be locked
            self.connection.execute(postgresql.insert(CLAIMS).on_conflict_do_nothing(), free)
            found |= self._claims_now(missing)
        for place, row in found.items():
            self._claims.know(place, self._free(place) if row is None else row)
            if row is not None:
                self._held_by[row["holder_case"]].add(place)

    def _claims_now(self, places: Sequence[ClaimId]) -> dict[ClaimId, Row | None]:
        """These claims as they stand, locked; None for what nobody ever claimed."""
        found: dict[ClaimId, Row | None] = dict.fromkeys(places)
        for start in range(0, len(places), CHUNK):
            some = places[start : start + CHUNK]
            text = f"SELECT {_CLAIM.names} FROM {CLAIMS.name} WHERE (kind, key) IN "  # noqa: S608 - names of ours
            if self._is_sqlite:
                # Given the VALUES themselves, SQLite would look through the whole table.
                pairs = f"(SELECT * FROM (VALUES {marks(some, '(?, ?)')}))"  # noqa: S608 - marks alone
                rows = _CLAIM.read(self.connection, f"{text} {pairs}", tuple(chain(*some)))
            else:
                pairs, lists = (
                    "(SELECT * FROM unnest(%s::text[], %s::text[]))",
                    tuple(map(list, zip(*some, strict=True))),
                )
                rows = _CLAIM.read(self.connection, f"{text} {pairs} ORDER BY kind, key FOR UPDATE", lists)
            found |= {(row["kind"], row["key"]): row for row in rows}
        return found

    def _free(self, place: ClaimId) -> Row:
        """A claim that nobody ever made."""
        return {**_NEW_CLAIM, "kind": place[0], "key": place[1], "updated_at": self.now}

    # Changing

    def put_case(self, row: Row) -> None:
        """The case's row is to stand like this."""
        self._cases.now[row["id"]] = row

    def put_step(self, row: Row) -> None:
        """The step's row is to stand like this."""
        self._steps.now[row["case_id"], row["name"]] = row

    def put_claim(self, row: Row) -> None:
        """The claim's row is to stand like this."""
        place = (row["kind"], row["key"])
        self._claims.now[place] = row
        self._held_by[row["holder_case"]].add(place)

    def put_events(self, rows: Sequence[Row]) -> None:
        """These entries are to be appended."""
        self._events += rows

    def settle_claims(self, settled: Sequence[Settled]) -> None:
        """Whatever these cases hold of these kinds ends like this, whether it was read here or not."""
        # The statement that does it changes those that stand, so what was read is changed too. A transaction may know
        # hundreds of claims, and end a hundred: each looks at those of its own case alone.
        places = {place for case_id, _kind, _end in settled for place in self._held_by[case_id]}
        for rows, place in product((self._claims.read, self._claims.now), places):
            row = rows[place]
            for end in ends_of(row, settled):
                rows[place] = settled_claim(row, end)
        self._settled += settled

    # Writing

    def write(self) -> None:
        """Write everything that changed. The caller commits."""
        self.ready().write(self.connection)

    def ready(self) -> "ReadyRows":
        """What writes everything that changed; nothing is changed here any more."""
        of: dict[tuple[bool, bool], list[Row]] = {changed: [] for changed in _SAVE_CASE}
        for case_id in self._cases.changed():
            before, now = self._cases.read[case_id], self._cases.now[case_id]
            assert _kept(now) == _kept(before), "work changes nothing else of a case"
            row = {**now, "of_id": case_id, "of_fence": before["fence"]}
            of[_at_some_writes(now) != _at_some_writes(before), now["status"] != before["status"]].append(row)
        steps: dict[tuple[bool, bool], list[Row]] = {changed: [] for changed in _SAVE_STEP}
        for place in self._steps.changed():
            before, now = self._steps.read[place], self._steps.now[place]
            changed = (_of_intent(now) != _of_intent(before), _of_outcome(now) != _of_outcome(before))
            steps[changed].append({**now, "of_case": place[0], "of_name": place[1]})
        new = {place for place, row in self._claims_seen.items() if row is None and self._is_sqlite}
        made = [self._claims.now[place] for place in sorted(new)]
        claims = [place for place in self._claims.changed() if place not in new]
        saved = [{**self._claims.now[place], "of_kind": place[0], "of_key": place[1]} for place in claims]
        rest = [
            *((_SAVE_STEP[changed], rows) for changed, rows in steps.items()),
            (_ADD_EVENT, self._events),
            *self._settling(),
            (_ADD_CLAIM, made),
            (_SAVE_CLAIM, saved),
        ]
        return ReadyRows(
            self._all_ready((_SAVE_CASE[changed], rows) for changed, rows in of.items()), self._all_ready(rest)
        )

    def _settling(self) -> list[tuple[FixedWrite, list[Row]]]:
        settled, self._settled = self._settled, []
        return [
            (
                _SETTLE[end],
                [
                    {"of_case": case_id, "of_kind": kind, "now": self.now, "effect": case_id}
                    for case_id, kind, _ in which
                ],
            )
            for end, which in groupby(settled, key=lambda one: one[2])
        ]

    def _all_ready(self, writes: Iterable[tuple[FixedWrite, Sequence[Row]]]) -> list[Ready]:
        return [fixed.ready(self.connection.dialect, rows) for fixed, rows in writes if rows]


@dataclass(frozen=True)
class ReadyRows:
    """What a transaction writes, with values as the driver takes them."""

    cases: Sequence[Ready]
    rest: Sequence[Ready]

    def write(self, connection: Connection) -> None:
        """Write it all. The caller commits."""
        for ready in self.cases:
            if ready.run(connection).rowcount != len(ready.values):
                raise AssertionError("a fenced row vanished under its lock")
        for ready in self.rest:
            ready.run(connection)


def _agree(now: Row | None, before: Row) -> bool:
    return now is not None and all(before[column] == value for column, value in now.items())


class Sheet(Generic[K]):
    """Rows of one table by their place: as they were read, and as they are to stand."""

    def __init__(self) -> None:
        self.read: dict[K, Row] = {}
        self.now: dict[K, Row] = {}

    def know(self, place: K, row: Row) -> None:
        """The row stands like this, unless it is known already."""
        if place not in self.now:
            self.read[place] = self.now[place] = row

    def changed(self) -> list[K]:
        """The places whose rows changed, in their order."""
        return sorted(
            place for place, row in self.now.items() if row is not (before := self.read[place]) and row != before
        )


def ends_of(claim: Row, settled: Sequence[Settled]) -> list[ClaimEnd]:
    """How this claim ends by what was settled, if it does."""
    return [end for case_id, kind, end in settled if (claim["holder_case"], claim["kind"]) == (case_id, kind)]


def settled_claim(claim: Row, end: ClaimEnd) -> Row:
    """A claim as it stands after this end."""
    state = CLAIM_ENDS[end][ClaimState(claim["state"])].value
    return {**claim, **_after(end, claim["holder_case"]), "state": state}
