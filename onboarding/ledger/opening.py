"""Opening a case: the same request finds the same case, a changed one replaces what was not sent yet, or is refused."""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from onboarding.clocks import utc_now
from onboarding.errors import RequestConflict
from onboarding.keys import LedgerKey
from onboarding.ledger import trail
from onboarding.ledger.claims import claim_key, give_back_claims
from onboarding.ledger.columns import CASES, NO_INTENT, STEPS, Row, all_rows, maybe_row, one_row
from onboarding.ledger.states import (
    CaseEvent,
    CaseStatus,
    StepEvent,
    StepName,
    StepStatus,
    next_case_status,
    next_step_status,
)
from onboarding.request import OnboardingRequest, canonical_json, section_json

_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's: no letter looks like a digit
_ID_LENGTH: Final = 12
STEPS_OF_SECTION: Final[Mapping[str, tuple[StepName, ...]]] = {
    "registration": (StepName.REGISTRATION,),
    "device": (StepName.DISPENSATION, StepName.DEVICE),
    "dnd_exception": (StepName.DND_EXCEPTION,),
}


@dataclass(frozen=True)
class Addresses:
    """The systems a case belongs to; a case is never worked against others."""

    openspecimen: str
    clinical_one: str


@dataclass(frozen=True)
class Opened:
    """The case of a request: ``created`` now, or found; ``replaced`` names the sections that a changed request replaced."""

    case_id: str
    created: bool
    replaced: tuple[str, ...] = ()


def request_place(case_id: str) -> str:
    """The place for which a case's request is encrypted."""
    return f"request/{case_id}"


def stored_json(request: OnboardingRequest) -> bytes:
    """The request as the ledger keeps it (encrypted): exactly what was given, under the vendors' names."""
    return json.dumps(request.vendor_json(), separators=(",", ":"), ensure_ascii=False).encode()


def business_key(request: OnboardingRequest) -> str:
    """Study, mode, subject and device (or none): what makes two requests the same onboarding."""
    subject = request.subject
    return claim_key(
        subject.study_id, subject.mode, subject.subject_id, request.device.inventory_id if request.device else "-"
    )


def open_case(
    connection: Connection,
    key: LedgerKey,
    request: OnboardingRequest,
    addresses: Addresses,
    *,
    actor: str,
    epoch: str,
    seconds: float,
    batch_id: str | None = None,
    draft: bool = False,
) -> Opened:
    """Find or make the request's case, in one transaction; raises ``RequestConflict``."""
    digests = _section_digests(key, request)
    digest = key.digest("request", canonical_json(request).decode())
    existing = _live_case(connection, business_key(request))
    if existing is None:
        case_id = _insert(connection, key, request, addresses, actor, digest, digests, batch_id, draft=draft)
        if case_id is not None:
            return Opened(case_id, created=True)
        existing = _live_case(connection, business_key(request))  # another runner was first
        assert existing is not None, "a live case with this business key stands"
    if existing["request_digest"] == digest:
        return Opened(existing["id"], created=False)
    changed = [name for name in STEPS_OF_SECTION if existing["section_digests"].get(name) != digests.get(name)]
    _refuse_conflict(connection, existing, changed, epoch, seconds)
    _replace(connection, key, existing, request, digest, digests, changed, actor)
    return Opened(existing["id"], created=False, replaced=tuple(changed))


def _section_digests(key: LedgerKey, request: OnboardingRequest) -> dict[str, str]:
    return {
        name: key.digest("section", name, section_json(request, name).decode())  # type: ignore[arg-type]
        for name in STEPS_OF_SECTION
        if getattr(request, name) is not None
    }


def _live_case(connection: Connection, wanted: str) -> Row | None:
    query = (
        select(CASES).where(CASES.c.business_key == wanted, CASES.c.status != CaseStatus.CANCELLED).with_for_update()
    )
    return maybe_row(connection.execute(query))


def _insert(
    connection: Connection,
    key: LedgerKey,
    request: OnboardingRequest,
    addresses: Addresses,
    actor: str,
    digest: str,
    digests: dict[str, str],
    batch_id: str | None,
    *,
    draft: bool,
) -> str | None:
    case_id = "".join(secrets.choice(_ALPHABET) for _ in range(_ID_LENGTH))
    now = utc_now()
    subject = request.subject
    upsert = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(CASES)
    values: dict[str, Any] = {
        "id": case_id,
        "business_key": business_key(request),
        "study_id": subject.study_id,
        "mode": str(subject.mode),
        "subject_id": subject.subject_id,
        "inventory_id": request.device.inventory_id if request.device else None,
        "request_sealed": key.encrypt(stored_json(request), request_place(case_id)),
        "request_digest": digest,
        "section_digests": digests,
        "openspecimen_address": addresses.openspecimen,
        "clinical_one_address": addresses.clinical_one,
        "batch_id": batch_id,
        "status": (CaseStatus.DRAFT if draft else CaseStatus.READY).value,
        "due_at": now,
        "fence": 0,
        "takings": 0,
        "idle_takings": 0,
        "created_at": now,
        "updated_at": now,
        "trail_sequence": 1,
    }
    entry = trail.Entry(now, actor, "case_opened", detail={"sections": sorted(digests)})
    # The index lets one live case in per business key; whoever comes second finds the first one's row.
    made = upsert.values(**values, trail_seal="").on_conflict_do_nothing().returning(CASES.c.id)
    if connection.execute(made).scalar_one_or_none() is None:  # psycopg does not count rows of an insert
        return None
    seal = trail.append(connection, key, case_id, 1, "", entry)
    connection.execute(update(CASES).where(CASES.c.id == case_id).values(trail_seal=seal))
    requested = {step for name in digests for step in STEPS_OF_SECTION[name]}
    connection.execute(insert(STEPS), [_step_values(case_id, name, name in requested, now) for name in StepName])
    return case_id


def _step_values(case_id: str, name: StepName, requested: bool, now: Any) -> dict[str, Any]:
    status = StepStatus.PENDING if requested else StepStatus.NOT_REQUESTED
    return {
        "case_id": case_id,
        "name": name.value,
        "status": status.value,
        "attempts": 0,
        "probes": 0,
        "absences": 0,
        "in_doubt": False,
        "waits": 0,
        "met_already_registered": False,
        "updated_at": now,
    }


def _refuse_conflict(connection: Connection, case: Row, changed: list[str], epoch: str, seconds: float) -> None:
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
        raise RequestConflict(case["id"], sent, "an effect of theirs was already attempted")


def _has_intent(step: Mapping[str, Any]) -> bool:
    if step["intent"] is not None or step["status"] in (StepStatus.OPEN, StepStatus.UNKNOWN):
        return True
    # An exception's intent stands on its shared claim; the step shows that it was one of ours that was applied.
    return step["status"] == StepStatus.DONE and bool((step["outcome"] or {}).get("attempt"))


def _replace(
    connection: Connection,
    key: LedgerKey,
    case: Row,
    request: OnboardingRequest,
    digest: str,
    digests: dict[str, str],
    changed: list[str],
    actor: str,
) -> None:
    now = utc_now()
    for section in changed:
        event = StepEvent.REQUESTED if section in digests else StepEvent.WITHDRAWN
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
            request_sealed=key.encrypt(stored_json(request), request_place(case["id"])),
            request_digest=digest,
            section_digests=digests,
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
