"""The trail: what happened to a case, append-only, each entry sealed together with the one before.

The head of the chain (sequence and seal) stands in the case's own row, so entries cut off the end are missed too. Without
the key nobody can make a seal; with the database alone nobody can change, drop or reorder an entry unnoticed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select

from onboarding.keys import LedgerKey
from onboarding.ledger.columns import CASES, EVENTS, Row, all_rows


@dataclass(frozen=True)
class Entry:
    """One entry as it is written. ``reason`` is free text and is stored encrypted."""

    at: datetime
    actor: str
    kind: str
    step: str | None = None
    code: str | None = None
    detail: Mapping[str, Any] | None = None
    reason: str | None = None


def append(connection: Connection, key: LedgerKey, case_id: str, sequence: int, previous: str, entry: Entry) -> str:
    """Append an entry as number ``sequence`` and return its seal. The caller holds the case's row."""
    sealed = None if entry.reason is None else key.encrypt(entry.reason.encode(), f"event/{case_id}/{sequence}")
    detail = dict(entry.detail) if entry.detail else None
    values: dict[str, Any] = {
        "case_id": case_id,
        "sequence": sequence,
        "at": entry.at,
        "actor": entry.actor,
        "kind": entry.kind,
        "step": entry.step,
        "code": entry.code,
        "detail": detail,
        "reason_sealed": sealed,
        "key_id": key.key_id,
    }
    seal = _seal(key, values, previous)
    connection.execute(insert(EVENTS).values(**values, seal=seal))
    return seal


def trail_problems(connection: Connection, key: LedgerKey, case_id: str) -> list[str]:
    """What is wrong with a case's trail, one line each; nothing when it is whole."""
    head = connection.execute(select(CASES.c.trail_sequence, CASES.c.trail_seal).where(CASES.c.id == case_id)).one()
    rows = all_rows(connection.execute(select(EVENTS).where(EVENTS.c.case_id == case_id).order_by(EVENTS.c.sequence)))
    return _chain_problems(key, rows, head.trail_sequence, head.trail_seal)


def _chain_problems(key: LedgerKey, rows: Sequence[Row], last: int, last_seal: str) -> list[str]:
    problems = []
    previous = ""
    for expected, row in enumerate(rows, start=1):
        if row["sequence"] != expected:
            problems.append(f"entry {expected} is missing")
            break
        if _seal(key, row, previous) != row["seal"]:
            problems.append(f"entry {expected} was changed, or sealed with another key")
        previous = row["seal"]
    if not problems and (len(rows) != last or previous != last_seal):
        problems.append(f"the trail ends at entry {len(rows)}, but the case names entry {last} as its last")
    return problems


def _seal(key: LedgerKey, row: Mapping[str, Any], previous: str) -> str:
    content = json.dumps(
        {
            "at": row["at"].isoformat(timespec="microseconds"),
            "actor": row["actor"],
            "kind": row["kind"],
            "step": row["step"],
            "code": row["code"],
            "detail": row["detail"],
            "reason": row["reason_sealed"].hex() if row["reason_sealed"] else None,
        },
        sort_keys=True,
    )
    return key.seal(row["case_id"], str(row["sequence"]), row["key_id"], content, previous)
