"""The rows that one transaction works on: read and locked together, changed in memory, written together at its end.

So a transaction over many cases costs a handful of statements, and a case whose part fails leaves nothing behind: what it
changed is handed over (``put_...``) only once all of its part is done.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Update, bindparam, case, insert, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite

from onboarding.clocks import utc_now
from onboarding.ledger.columns import CASES, CLAIMS, EVENTS, STEPS, Row, all_rows, one_row
from onboarding.ledger.states import CLAIM_ENDS, ENDS_WITHOUT_HOLDER, ClaimEnd, ClaimState, StepName

Settled = tuple[str, str, ClaimEnd]
"""The case that held it, the kind of claim, and how it ends."""
ClaimId = tuple[str, str]
"""A claim's kind and key."""

_UNCHANGED_BY_WORK: Final = ("request_sealed", "request_digest", "section_digests", "business_key")
_WORKED: Final = [column for column in CASES.c if column.name not in _UNCHANGED_BY_WORK]
_FIXED: Final = frozenset(
    {
        *("id", "study_id", "mode", "subject_id", "inventory_id", "openspecimen_address", "clinical_one_address"),
        *("batch_id", "created_at"),
    }
)
_SAVE_CASE: Final = update(CASES).where(CASES.c.id == bindparam("of_id"), CASES.c.fence == bindparam("of_fence"))
_SAVE_STEP: Final = update(STEPS).where(STEPS.c.case_id == bindparam("of_case"), STEPS.c.name == bindparam("of_name"))
_SAVE_CLAIM: Final = update(CLAIMS).where(CLAIMS.c.kind == bindparam("of_kind"), CLAIMS.c.key == bindparam("of_key"))
_NEW_CLAIM: Final[Mapping[str, Any]] = {
    "bound_to": "",
    "state": ClaimState.FREE.value,
    "attempts": 0,
    "probes": 0,
    "absences": 0,
    "in_doubt": False,
}


def _settling(end: ClaimEnd) -> Update:
    state = case({old.value: new.value for old, new in CLAIM_ENDS[end].items()}, value=CLAIMS.c.state)
    mine = update(CLAIMS).where(CLAIMS.c.holder_case == bindparam("of_case"), CLAIMS.c.kind == bindparam("of_kind"))
    return mine.values(state=state, updated_at=bindparam("now"), **_after(end, bindparam("effect")))


def _after(end: ClaimEnd, case_id: Any) -> Row:
    """What else changes in a claim that ends like this."""
    values: Row = {"holder_case": None} if end in ENDS_WITHOUT_HOLDER else {}
    return values | ({"effect_id": case_id} if end is ClaimEnd.BOUND else {})


_SETTLE: Final = {end: _settling(end) for end in ClaimEnd}
_CHUNK: Final = 400  # databases bound the number of values in one statement


class Rows:
    """What one transaction read and is about to write.

    ``cases`` and ``claims`` are what it will surely need: they are read with one statement, in one order everywhere. What
    else it turns out to need is read one by one. ``taken``: the cases that are taken, which need their
    requests and all of their steps too. ``skip_locked``: a case whose row another transaction holds is left out
    instead of being waited for (PostgreSQL; SQLite has one writer).
    """

    def __init__(
        self,
        connection: Connection,
        *,
        cases: Iterable[str] = (),
        claims: Iterable[ClaimId] = (),
        taken: Iterable[str] = (),
        skip_locked: bool = False,
    ) -> None:
        self.connection = connection
        self._skip_locked = skip_locked
        self._cases: dict[str, Row | None] = {}
        self._fences: dict[str, int] = {}
        self._steps: dict[tuple[str, str], Row] = {}
        self._claims: dict[ClaimId, Row] = {}
        self._wanted_claims = frozenset(claims)
        self._requests: dict[str, bytes] = {}
        self._taken = frozenset(taken)
        self._changed_cases: set[str] = set()
        self._changed_steps: set[tuple[str, str]] = set()
        self._changed_claims: set[ClaimId] = set()
        self._events: list[Row] = []
        self._settled: list[Settled] = []
        self._read_cases(sorted(set(cases)))

    # Reading

    def skipped(self, case_id: str) -> bool:
        """Whether the case may have a row that another transaction holds."""
        return self._skip_locked and self._cases.get(case_id) is None

    def case(self, case_id: str) -> Row | None:
        """The case's row, locked; None if there is none (or if it was skipped)."""
        if case_id not in self._cases:
            self._read_cases([case_id])
        return self._cases[case_id]

    def request_sealed(self, case_id: str) -> bytes:
        """The case's request, encrypted."""
        if case_id not in self._requests:
            wanted = sorted(self._taken | {case_id})
            query = select(CASES.c.id, CASES.c.request_sealed).where(CASES.c.id.in_(wanted))
            self._requests |= {row.id: row.request_sealed for row in self.connection.execute(query)}
        return self._requests[case_id]

    def step(self, case_id: str, name: StepName) -> Row:
        """A step's row; whoever holds the case's row holds its steps."""
        place = (case_id, name.value)
        if place not in self._steps:
            wanted = sorted(self._taken | {case_id})  # cases that are taken need all of their steps
            for row in all_rows(self.connection.execute(select(STEPS).where(STEPS.c.case_id.in_(wanted)))):
                self._steps.setdefault((row["case_id"], row["name"]), row)
        return self._steps[place]

    def knows_step(self, row: Row) -> None:
        """This row of a step was read or written under the same fence before, so it still stands."""
        self._steps.setdefault((row["case_id"], row["name"]), row)

    def claim(self, kind: str, key: str) -> Row:
        """A claim's row, locked; it is made, free, if nobody ever claimed this."""
        place = (kind, key)
        if place not in self._claims:
            self._read_claims(sorted(self._wanted_claims | {place}))
            self._wanted_claims = frozenset()
        return self._claims[place]

    def _read_cases(self, case_ids: Sequence[str]) -> None:
        for start in range(0, len(case_ids), _CHUNK):
            wanted = case_ids[start : start + _CHUNK]
            query = select(*_WORKED).where(CASES.c.id.in_(wanted)).order_by(CASES.c.id)
            query = query.with_for_update(skip_locked=self._skip_locked)
            self._cases |= dict.fromkeys(wanted)
            for row in all_rows(self.connection.execute(query)):
                self._cases[row["id"]] = row
                self._fences[row["id"]] = row["fence"]

    def _read_claims(self, places: Sequence[ClaimId]) -> None:
        self._write_settled()  # else what is read would not show what was settled in this transaction
        new = [place for place in places if place not in self._claims]
        for start in range(0, len(new), _CHUNK):
            wanted = new[start : start + _CHUNK]
            self._look_at_claims(wanted)
            missing = [place for place in wanted if place not in self._claims]
            if missing:
                now = utc_now()
                free = [{"kind": kind, "key": key, **_NEW_CLAIM, "updated_at": now} for kind, key in missing]
                made = (sqlite if self.connection.dialect.name == "sqlite" else postgresql).insert(CLAIMS)
                self.connection.execute(made.on_conflict_do_nothing(), free)
                self._look_at_claims(missing)

    def _look_at_claims(self, places: Sequence[ClaimId]) -> None:
        query = select(CLAIMS).where(tuple_(CLAIMS.c.kind, CLAIMS.c.key).in_(places))
        query = query.order_by(CLAIMS.c.kind, CLAIMS.c.key).with_for_update()
        for row in all_rows(self.connection.execute(query)):
            self._claims[row["kind"], row["key"]] = row

    def lease_of(self, case_id: str) -> Row:
        """Who works on another case, as it stands here; its row is not locked."""
        known = self._cases.get(case_id)
        if known is not None:
            return known
        query = select(CASES.c.lease_owner, CASES.c.lease_epoch, CASES.c.lease_until, CASES.c.fence)
        return one_row(self.connection.execute(query.where(CASES.c.id == case_id)))

    # Changing

    def put_case(self, row: Row) -> None:
        """The case's row is to stand like this."""
        self._cases[row["id"]] = row
        self._changed_cases.add(row["id"])

    def put_step(self, row: Row) -> None:
        """The step's row is to stand like this."""
        place = (row["case_id"], row["name"])
        self._steps[place] = row
        self._changed_steps.add(place)

    def put_claim(self, row: Row) -> None:
        """The claim's row is to stand like this."""
        place = (row["kind"], row["key"])
        self._claims[place] = row
        self._changed_claims.add(place)

    def put_events(self, rows: Sequence[Row]) -> None:
        """These entries are to be appended."""
        self._events += rows

    def settle_claims(self, settled: Sequence[Settled]) -> None:
        """Whatever these cases hold of these kinds ends like this, whether it was read here or not."""
        for row in list(self._claims.values()):
            for end in ends_of(row, settled):
                self.put_claim(settled_claim(row, end))
        self._settled += settled

    # Writing

    def write(self) -> None:
        """Write everything that changed. The caller commits."""
        self._write_cases()
        steps = [self._steps[place] for place in sorted(self._changed_steps)]
        if steps:
            self.connection.execute(_SAVE_STEP, [_for_update(row, of_case="case_id", of_name="name") for row in steps])
        if self._events:
            self.connection.execute(insert(EVENTS), self._events)
        self._write_settled()
        claims = [self._claims[place] for place in sorted(self._changed_claims)]
        if claims:
            self.connection.execute(_SAVE_CLAIM, [_for_update(row, of_kind="kind", of_key="key") for row in claims])

    def _write_cases(self) -> None:
        """The fence is in the condition once more: the rows are locked, so it must still match."""
        values = []
        for case_id in sorted(self._changed_cases):
            row = self._cases[case_id]
            assert row is not None, "a case that is written was read"
            kept = {name: value for name, value in row.items() if name not in _FIXED}
            values.append({**kept, "of_id": case_id, "of_fence": self._fences[case_id]})
        if values:
            done = self.connection.execute(_SAVE_CASE, values)
            assert done.rowcount == len(values), "a fenced row vanished under its lock"

    def _write_settled(self) -> None:
        settled, self._settled, now = self._settled, [], utc_now()
        for end in ClaimEnd:
            which = [
                {
                    "of_case": case_id,
                    "of_kind": kind,
                    "now": now,
                    **({"effect": case_id} if end is ClaimEnd.BOUND else {}),
                }
                for case_id, kind, one in settled
                if one is end
            ]
            if which:
                self.connection.execute(_SETTLE[end], which)


def ends_of(claim: Row, settled: Sequence[Settled]) -> list[ClaimEnd]:
    """How this claim ends by what was settled, if it does."""
    return [end for case_id, kind, end in settled if (claim["holder_case"], claim["kind"]) == (case_id, kind)]


def settled_claim(claim: Row, end: ClaimEnd) -> Row:
    """A claim as it stands after this end."""
    state = CLAIM_ENDS[end][ClaimState(claim["state"])].value
    return {**claim, **_after(end, claim["holder_case"]), "state": state}


def _for_update(row: Row, **places: str) -> Row:
    """The row's values, with those of its key under the names that the statement's condition asks for."""
    values = dict(row)
    return values | {name: values.pop(column) for name, column in places.items()}
