"""Keeping the rows of a file before its batch is released: what can be taken, and what asks for the same twice."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, insert, select, update

from onboarding.clocks import utc_now
from onboarding.errors import LedgerError, OnboardedElsewhere, RequestConflict
from onboarding.keys import LedgerKey
from onboarding.ledger import opening
from onboarding.ledger.batch_states import BatchState, RowStanding
from onboarding.ledger.columns import BATCH_ROWS, BATCHES, CASES, Row, all_rows, maybe_row
from onboarding.ledger.opening import Addresses, Prepared
from onboarding.ledger.states import CaseStatus

if TYPE_CHECKING:
    from onboarding.ledger.ledger import Ledger

MAY_BE_RELEASED: Final = (RowStanding.DRAFT, RowStanding.REPEATED)


class BatchGone(LedgerError):
    """The batch is not being read in any more: it was given up, or released by somebody else."""


@dataclass(frozen=True)
class Draft:
    """One good row of a file: ``number`` counts the file's rows from 1, ``line`` is where it begins."""

    number: int
    line: int
    prepared: Prepared


@dataclass(frozen=True)
class BadRow:
    """One row that cannot be taken, and why; ``problems`` hold no personal data."""

    number: int
    line: int
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Standing:
    """The live case that a request would find: whether it asks for the very ``same``, and why it does not take it, if so."""

    case_id: str
    same: bool
    refusal: str | None


def standing_case(ledger: "Ledger", prepared: Prepared, addresses: Addresses) -> Standing | None:
    """The case that a row with this request would find now, if any; a read."""
    query = select(CASES).where(CASES.c.business_key == prepared.business_key, CASES.c.status != CaseStatus.CANCELLED)

    def look(connection: Connection) -> Standing | None:
        case = maybe_row(connection.execute(query))
        if case is None:
            return None
        same = case["request_digest"] == prepared.request_digest
        refusal = _refusal(connection, ledger.store.clock(connection), case, prepared, addresses)
        return Standing(case["id"], same, refusal)

    return ledger.store.read(look)


def add_rows(ledger: "Ledger", batch_id: str, drafts: Sequence[Draft], bad: Sequence[BadRow] = ()) -> list[BadRow]:
    """Keep some rows (a thousand or so, in one transaction), in the file's order; returns those that cannot be taken besides ``bad``.

    Those are rows that ask for another row's onboarding in another way (both rows are told) or for a change that their
    case does not take. Raises ``BatchGone``.
    """
    refused = ledger.store.read(lambda c: _refusals(c, ledger.store.clock(c), batch_id, drafts))

    def change(connection: Connection) -> list[BadRow]:
        _keep_filling(connection, batch_id)
        rows, found = _sorted_out(connection, ledger.key, batch_id, drafts, refused)
        rows += [_left_out(ledger.key, batch_id, each) for each in bad]
        if rows:
            connection.execute(insert(BATCH_ROWS), rows)
        return found

    return ledger.store.write(change)


def problems_place(batch_id: str, number: int) -> str:
    """The place for which the problems of one row are encrypted."""
    return f"batch/{batch_id}/{number}/problems"


def seal_problems(key: LedgerKey, batch_id: str, number: int, problems: Iterable[str]) -> bytes:
    """The problems of one row, encrypted: a key that nobody knows, as the file spells it, may be a name."""
    return key.encrypt(utf8(json.dumps(list(problems))), problems_place(batch_id, number))


def _refusals(
    connection: Connection, clock: tuple[str, float], batch_id: str, drafts: Sequence[Draft]
) -> dict[int, str]:
    """Why the standing case of a row does not take the row, by the row's number."""
    keys = [draft.prepared.business_key for draft in drafts]
    query = select(CASES).where(CASES.c.business_key.in_(keys), CASES.c.status != CaseStatus.CANCELLED)
    standing = {row["business_key"]: row for row in all_rows(connection.execute(query))} if keys else {}
    if not standing:
        return {}
    addresses = _addresses_of(connection, batch_id)
    found = {
        draft.number: _refusal(connection, clock, standing[draft.prepared.business_key], draft.prepared, addresses)
        for draft in drafts
        if draft.prepared.business_key in standing
    }
    return {number: why for number, why in found.items() if why is not None}


def _refusal(
    connection: Connection, clock: tuple[str, float], case: Row, prepared: Prepared, addresses: Addresses
) -> str | None:
    """Why this live case does not take the request, if it does not."""
    if opening.done_elsewhere(case, addresses):
        return str(OnboardedElsewhere(case["id"]))
    if case["request_digest"] == prepared.request_digest:
        return None
    try:
        opening.refuse_conflict(connection, case, opening.changed_sections(case, prepared), *clock)
    except RequestConflict as conflict:
        return str(conflict)
    return None


def _addresses_of(connection: Connection, batch_id: str) -> Addresses:
    """The systems for which a batch opens cases; raises ``BatchGone``."""
    query = select(BATCHES.c.openspecimen_address, BATCHES.c.clinical_one_address).where(BATCHES.c.id == batch_id)
    found = maybe_row(connection.execute(query))
    if found is None:
        raise BatchGone(f"batch {batch_id} is not being read in any more: start it again with the same command.")
    return Addresses.of(found)


def _keep_filling(connection: Connection, batch_id: str) -> None:
    kept = (
        update(BATCHES)
        .where(BATCHES.c.id == batch_id, BATCHES.c.state == BatchState.FILLING)
        .values(updated_at=utc_now())
        .returning(BATCHES.c.id)
    )
    if connection.execute(kept).scalar_one_or_none() is None:
        raise BatchGone(f"batch {batch_id} is not being read in any more: start it again with the same command.")


def _sorted_out(
    connection: Connection, key: LedgerKey, batch_id: str, drafts: Sequence[Draft], refused: Mapping[int, str]
) -> tuple[list[Row], list[BadRow]]:
    """The rows as they are stored, and those that cannot be taken."""
    firsts = _first_rows(connection, batch_id, [draft.prepared.business_key for draft in drafts])
    rows: dict[int, Row] = {}
    found: dict[int, BadRow] = {}

    def leave_out(number: int, line: int, problem: str) -> Row:
        found[number] = BadRow(number, line, (problem,))
        return _left_out(key, batch_id, found[number])

    for draft in drafts:
        number, line, prepared = draft.number, draft.line, draft.prepared
        first = firsts.get(prepared.business_key)
        if first is None:
            row = leave_out(number, line, refused[number]) if number in refused else _draft_row(batch_id, draft)
            row |= {"business_key": prepared.business_key, "request_digest": prepared.request_digest}
            firsts[prepared.business_key] = row
        elif first["request_digest"] == prepared.request_digest and first["standing"] == RowStanding.DRAFT:
            row = {**_empty_row(batch_id, number, line, RowStanding.REPEATED), "same_as": first["number"]}
            row |= {"business_key": prepared.business_key, "case_id": first["case_id"]}
        else:
            same = first["request_digest"] == prepared.request_digest
            row = leave_out(number, line, bad_already(first["line"]) if same else same_onboarding(first["line"]))
            for other in _others(connection, batch_id, prepared.business_key, rows):
                problem = same_onboarding(row["line"])
                _overwrite(connection, rows, other, leave_out(other["number"], other["line"], problem))
            first["standing"] = RowStanding.LEFT_OUT.value
        rows[number] = row
    return list(rows.values()), [found[number] for number in sorted(found)]


def bad_already(other_line: int) -> str:
    """What is wrong with a row that repeats one which cannot be taken."""
    return f"request: is the same as the one in line {other_line}, which cannot be taken either"


def same_onboarding(other_line: int) -> str:
    """What is wrong with each of two rows of a file that ask for one onboarding in two ways."""
    return (
        f"request: asks for the same onboarding (study, mode, subject and device) as the row in line {other_line}, but in "
        "another way; keep one of them"
    )


def _first_rows(connection: Connection, batch_id: str, keys: Sequence[str]) -> dict[str, Row]:
    columns = [
        BATCH_ROWS.c[name] for name in ("business_key", "number", "line", "standing", "request_digest", "case_id")
    ]
    query = select(*columns).where(
        BATCH_ROWS.c.batch_id == batch_id, BATCH_ROWS.c.business_key.in_(keys), BATCH_ROWS.c.request_digest.is_not(None)
    )
    return {row["business_key"]: row for row in all_rows(connection.execute(query))} if keys else {}


def _others(connection: Connection, batch_id: str, business_key: str, rows: Mapping[int, Row]) -> list[Row]:
    """Rows that were thought good so far and ask for this onboarding too, stored already or about to be."""
    query = select(BATCH_ROWS).where(
        BATCH_ROWS.c.batch_id == batch_id,
        BATCH_ROWS.c.business_key == business_key,
        BATCH_ROWS.c.standing.in_(MAY_BE_RELEASED),
    )
    stored = all_rows(connection.execute(query))
    return stored + [
        row for row in rows.values() if row["business_key"] == business_key and row["standing"] in MAY_BE_RELEASED
    ]


def _overwrite(connection: Connection, rows: dict[int, Row], row: Row, values: Row) -> None:
    kept = {name: row[name] for name in ("business_key", "request_digest")}
    if row["number"] in rows:
        row.update({**values, **kept})
        return
    connection.execute(
        update(BATCH_ROWS)
        .where(BATCH_ROWS.c.batch_id == row["batch_id"], BATCH_ROWS.c.number == row["number"])
        .values(**{**values, **kept})
    )


def _empty_row(batch_id: str, number: int, line: int, standing: RowStanding) -> Row:
    nothing = dict.fromkeys(column.name for column in BATCH_ROWS.c)
    return {**nothing, "batch_id": batch_id, "number": number, "line": line, "standing": standing.value}


def _left_out(key: LedgerKey, batch_id: str, bad: BadRow) -> Row:
    sealed = seal_problems(key, batch_id, bad.number, bad.problems)
    return {**_empty_row(batch_id, bad.number, bad.line, RowStanding.LEFT_OUT), "problems_sealed": sealed}


def _draft_row(batch_id: str, draft: Draft) -> Row:
    return {
        **_empty_row(batch_id, draft.number, draft.line, RowStanding.DRAFT),
        "case_id": draft.prepared.case_id,
        "section_digests": dict(draft.prepared.section_digests),
        "request_sealed": draft.prepared.request_sealed,
    }


def utf8(text: str) -> bytes:
    """Text as bytes, whatever it holds."""
    return text.encode(errors="backslashreplace")  # a file's name can hold half a character
