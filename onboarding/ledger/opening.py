"""Opening a case: the same request finds the same case, a changed one replaces what was not sent yet, or is refused."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, select, update

from onboarding.clocks import utc_now
from onboarding.errors import OnboardedElsewhere, RequestConflict
from onboarding.keys import LedgerKey
from onboarding.ledger import trail
from onboarding.ledger.claims import give_back_claims
from onboarding.ledger.columns import CASES, NO_INTENT, STEPS, Row, all_rows, one_row
from onboarding.ledger.fixed import FixedRows
from onboarding.ledger.preparing import (
    STEPS_OF_SECTION,
    Addresses,
    NewCases,
    Prepared,
    insert_cases,
    new_cases,
    new_id,
    prepare,
    request_place,
    stored_request,
)
from onboarding.ledger.states import (
    CaseEvent,
    CaseStatus,
    StepEvent,
    StepStatus,
    next_case_status,
    next_step_status,
)
from onboarding.request import OnboardingRequest

__all__ = [
    "Addresses",
    "NewCases",
    "Opened",
    "Prepared",
    "changed_sections",
    "done_elsewhere",
    "insert_cases",
    "new_cases",
    "new_id",
    "open_case",
    "prepare",
    "refuse_conflict",
    "request_place",
    "stored_request",
]
_CASE: Final = FixedRows(list(CASES.c))


@dataclass(frozen=True)
class Opened:
    """The case of a request: ``created`` now, or found; ``replaced`` names the sections that a changed request replaced."""

    case_id: str
    created: bool
    replaced: tuple[str, ...] = ()


def open_case(
    connection: Connection,
    key: LedgerKey,
    request: OnboardingRequest | Prepared,
    addresses: Addresses,
    *,
    actor: str,
    epoch: str,
    seconds: float,
    batch_id: str | None = None,
) -> Opened:
    """Find or make the request's case, in one transaction; raises ``RequestConflict``."""
    prepared = request if isinstance(request, Prepared) else prepare(key, request)
    existing = _live_case(connection, prepared.business_key)
    if existing is None:
        if insert_cases(connection, new_cases(key, [prepared], addresses, actor=actor, batch_id=batch_id)):
            return Opened(prepared.case_id, created=True)
        existing = _live_case(connection, prepared.business_key)  # another runner was first
        assert existing is not None, "a live case with this business key stands"
    if done_elsewhere(existing, addresses):
        raise OnboardedElsewhere(existing["id"])
    if existing["request_digest"] == prepared.request_digest:
        return Opened(existing["id"], created=False)
    changed = changed_sections(existing, prepared)
    refuse_conflict(connection, existing, changed, epoch, seconds)
    _replace(connection, key, existing, prepared, changed, actor)
    return Opened(existing["id"], created=False, replaced=tuple(changed))


def done_elsewhere(case: Mapping[str, Any], addresses: Addresses) -> bool:
    """Whether the case is done, at other systems than these. One that is not done is closed when a runner takes it."""
    return case["status"] == CaseStatus.DONE and Addresses.of(case) != addresses


def changed_sections(case: Mapping[str, Any], prepared: Prepared) -> list[str]:
    """Which sections of the prepared request differ from the case's."""
    return [
        name for name in STEPS_OF_SECTION if case["section_digests"].get(name) != prepared.section_digests.get(name)
    ]


def _live_case(connection: Connection, wanted: str) -> Row | None:
    """The case with this business key that is not cancelled, its row locked."""
    mark, lock = ("?", "") if connection.dialect.name == "sqlite" else ("%s", "FOR UPDATE")
    query = f"SELECT {_CASE.names} FROM {CASES.name} WHERE business_key = {mark} AND status <> {mark} {lock}"  # noqa: S608
    found = _CASE.read(connection, query, (wanted, CaseStatus.CANCELLED.value))
    assert len(found) <= 1, "one case lives for a business key"
    return found[0] if found else None


def refuse_conflict(connection: Connection, case: Row, changed: list[str], epoch: str, seconds: float) -> None:
    """Raise ``RequestConflict`` if these sections of the case cannot be replaced as it stands."""
    if case["lease_owner"] is not None and case["lease_epoch"] == epoch and case["lease_until"] > seconds:
        raise RequestConflict(
            case["id"], changed, "a runner is working on the case right now; try again when it has ended"
        )
    rows = {
        row["name"]: row for row in all_rows(connection.execute(select(STEPS).where(STEPS.c.case_id == case["id"])))
    }
    sent = [
        name
        for name in changed
        if any(
            rows[step]["status"] != StepStatus.REFUSED and _has_intent(rows[step]) for step in STEPS_OF_SECTION[name]
        )
    ]
    if sent:
        raise RequestConflict(
            case["id"],
            sent,
            "an effect of theirs was already attempted; what is wrong with it by now is corrected in the other system itself",
        )


def _has_intent(step: Mapping[str, Any]) -> bool:
    if step["intent"] is not None or step["status"] in (StepStatus.OPEN, StepStatus.UNKNOWN):
        return True
    # An exception's intent stands on its shared claim; the step shows that it was one of ours that was applied.
    return step["status"] == StepStatus.DONE and bool((step["outcome"] or {}).get("attempt"))


def _replace(
    connection: Connection,
    key: LedgerKey,
    case: Row,
    prepared: Prepared,
    changed: list[str],
    actor: str,
) -> None:
    now = utc_now()
    content = key.decrypt(prepared.request_sealed, request_place(prepared.case_id))
    for section in changed:
        event = StepEvent.REQUESTED if section in prepared.section_digests else StepEvent.WITHDRAWN
        for name in STEPS_OF_SECTION[section]:
            row = one_row(connection.execute(select(STEPS).where(STEPS.c.case_id == case["id"], STEPS.c.name == name)))
            values: dict[str, Any] = {
                **NO_INTENT,
                "status": next_step_status(StepStatus(row["status"]), event).value,
                "waits": 0,
                "probes": 0,
                "absences": 0,
                "waiting_since": None,
                "code": None,
                "http_status": None,
                "vendor_text_sealed": None,
                "outcome": None,
                "done_at": None,
                "updated_at": now,
            }
            connection.execute(
                update(STEPS).where(STEPS.c.case_id == case["id"], STEPS.c.name == name).values(**values)
            )
            give_back_claims(connection, case["id"], name)
    sequence = case["trail_sequence"] + 1
    entry = trail.Entry(now, actor, "request_replaced", detail={"sections": changed})
    seal = trail.append(connection, key, case["id"], sequence, case["trail_seal"], entry)
    connection.execute(
        update(CASES)
        .where(CASES.c.id == case["id"])
        .values(
            request_sealed=key.encrypt(content, request_place(case["id"])),
            request_digest=prepared.request_digest,
            section_digests=dict(prepared.section_digests),
            status=next_case_status(CaseStatus(case["status"]), CaseEvent.REPLACED).value,
            reason=None,
            due_at=now,
            blocked_login=None,
            # A runner whose lease is over may wake up with the old request in hand: it has lost the case.
            lease_owner=None,
            lease_until=None,
            lease_epoch=None,
            idle_takings=0,
            updated_at=now,
            trail_sequence=sequence,
            trail_seal=seal,
        )
    )
