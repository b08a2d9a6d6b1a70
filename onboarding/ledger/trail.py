"""The trail: what happened to a case, append-only, each entry sealed together with the one before.

Each entry shows a digest of its link of the chain; the last link itself stands in the case's own row, and no other link is
stored. So without the key nobody can change, drop or reorder an entry unnoticed, nor cut entries off the end: the link that
would then be the last cannot be made from what the database holds. (From what it held can: who puts an older row of the case
back, from a copy, cuts off what came after.)
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, insert, select

from onboarding.keys import LedgerKey
from onboarding.ledger.columns import CASES, EVENTS, Row, all_rows

_canonical: Final = json.JSONEncoder(sort_keys=True).encode


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
    """Append an entry as number ``sequence`` after the link ``previous``; returns its link. The caller holds the case's row."""
    values, link = sealed(key, case_id, sequence, previous, entry)
    connection.execute(insert(EVENTS).values(**values))
    return link


def sealed(key: LedgerKey, case_id: str, sequence: int, previous: str, entry: Entry) -> tuple[Row, str]:
    """An entry as the row that will be number ``sequence`` after the link ``previous``, and its own link."""
    reason = None if entry.reason is None else key.encrypt(_bytes_of(entry.reason), f"event/{case_id}/{sequence}")
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
        "reason_sealed": reason,
        "key_id": key.key_id,
    }
    link = _link(key, values, previous)
    values["seal"] = _shown(key, link)
    return values, link


def _bytes_of(text: str) -> bytes:
    return text.encode(errors="backslashreplace")  # a command line can hold half a character, which UTF-8 cannot


def trail_problems(connection: Connection, key: LedgerKey, case_id: str) -> list[str]:
    """What is wrong with a case's trail, one line each; nothing when it is whole."""
    query = select(CASES.c.trail_sequence, CASES.c.trail_seal).where(CASES.c.id == case_id)
    head = connection.execute(query).one_or_none()
    if head is None:
        return [f"there is no case {case_id} in this ledger"]
    rows = all_rows(connection.execute(select(EVENTS).where(EVENTS.c.case_id == case_id).order_by(EVENTS.c.sequence)))
    return _chain_problems(key, rows, head.trail_sequence, head.trail_seal)


def _chain_problems(key: LedgerKey, rows: Sequence[Row], last: int, last_link: str) -> list[str]:
    link = ""
    for expected, row in enumerate(rows, start=1):
        if row["sequence"] != expected:
            return [f"entry {expected} is missing"]
        link = _link(key, row, link)
        if _shown(key, link) != row["seal"]:  # what follows hangs on this entry, so nothing can be said of it
            return [f"entry {expected} was changed, or sealed with another key"]
    if len(rows) != last:
        return [f"the trail ends at entry {len(rows)}, but the case names entry {last} as its last"]
    return [] if link == last_link else [f"the case's row was changed: it does not end with entry {last}"]


def _shown(key: LedgerKey, link: str) -> str:
    """What an entry shows of its link: enough to check it, too little to make it the last."""
    return key.seal("shown", link)


def _link(key: LedgerKey, row: Mapping[str, Any], previous: str) -> str:
    content = _canonical(
        {
            "at": row["at"].isoformat(timespec="microseconds"),
            "actor": row["actor"],
            "kind": row["kind"],
            "step": row["step"],
            "code": row["code"],
            "detail": row["detail"],
            "reason": row["reason_sealed"].hex() if row["reason_sealed"] else None,
        }
    )
    return key.seal(row["case_id"], str(row["sequence"]), row["key_id"], content, previous)
