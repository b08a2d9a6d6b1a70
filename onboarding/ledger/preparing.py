"""Making requests ready to be cases: digested, encrypted, and put together as rows before any transaction begins."""

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from pydantic import ValidationError
from sqlalchemy import Connection, insert
from sqlalchemy.dialects import postgresql, sqlite

from onboarding.clocks import utc_now
from onboarding.intake import IntakeRequest, parse_request
from onboarding.keys import LedgerKey
from onboarding.ledger import trail
from onboarding.ledger.claims import claim_key
from onboarding.ledger.columns import CASES, EVENTS, STEPS, Row
from onboarding.ledger.fixed import FixedRows, FixedWrite
from onboarding.ledger.states import CaseStatus, StepName, StepStatus
from onboarding.request import OnboardingRequest, canonical_sections, joined_sections

_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's: no letter looks like a digit
_ID_LENGTH: Final = 12
_NO_DEVICE: Final = "-"
_in_order: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
STEPS_OF_SECTION: Final[Mapping[str, tuple[StepName, ...]]] = {
    "registration": (StepName.REGISTRATION,),
    "device": (StepName.DISPENSATION, StepName.DEVICE),
    "dnd_exception": (StepName.DND_EXCEPTION,),
}
_NOTHING_OF_A_CASE: Final[Mapping[str, None]] = dict.fromkeys(CASES.c.keys())
_NOTHING_OF_A_STEP: Final[Mapping[str, None]] = dict.fromkeys(STEPS.c.keys())
_ID: Final = FixedRows([CASES.c.id])
_ADD_CASES: Final = {
    "sqlite": FixedWrite(sqlite.insert(CASES).on_conflict_do_nothing(), CASES.c.keys()),
    "postgresql": FixedWrite(postgresql.insert(CASES).on_conflict_do_nothing(), CASES.c.keys()),
}
_ADD_EVENTS: Final = FixedWrite(insert(EVENTS), EVENTS.c.keys())
_ADD_STEPS: Final = FixedWrite(insert(STEPS), STEPS.c.keys())


@dataclass(frozen=True)
class Addresses:
    """The systems a case belongs to; a case is never worked against others."""

    openspecimen: str
    clinical_one: str

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Addresses":
        """Those that the row of a case or a batch names."""
        return cls(row["openspecimen_address"], row["clinical_one_address"])


@dataclass(frozen=True)
class Prepared:
    """A request made ready to be a case: encrypted for ``case_id`` (new), its digests keyed. Nothing of it is readable."""

    case_id: str
    business_key: str
    request_sealed: bytes
    request_digest: str
    section_digests: Mapping[str, str]


def request_place(case_id: str) -> str:
    """The place for which a case's request is encrypted."""
    return f"request/{case_id}"


def stored_json(content: Mapping[str, Any]) -> bytes:
    """A request's ``vendor_json`` as the ledger keeps it (encrypted): exactly what was given, under the vendors' names."""
    return _in_order(content).encode()


def stored_request(stored: bytes) -> IntakeRequest:
    """What ``stored_json`` gave, as a request again; it was checked when it was taken in, so it is only given its types."""
    try:
        return IntakeRequest.model_validate_json(stored)
    except ValidationError:
        pass
    return parse_request(stored)  # says what this version does not allow any more, without values


def business_key(request: OnboardingRequest) -> str:
    """Study, mode, subject and device (or none): what makes two requests the same onboarding."""
    subject = request.subject
    return claim_key(
        subject.study_id,
        subject.mode,
        subject.subject_id,
        request.device.inventory_id if request.device else _NO_DEVICE,
    )


def prepare(key: LedgerKey, request: OnboardingRequest) -> Prepared:
    """Digest and encrypt a request; nothing is read or written."""
    case_id = new_id()
    content = request.vendor_json()
    sections = canonical_sections(content)
    return Prepared(
        case_id=case_id,
        business_key=business_key(request),
        request_sealed=key.encrypt(stored_json(content), request_place(case_id)),
        request_digest=key.digest("request", joined_sections(sections).decode()),
        section_digests={
            name: key.digest("section", name, sections[name].decode())
            for name in STEPS_OF_SECTION
            if getattr(request, name) is not None
        },
    )


def new_id() -> str:
    """A random id that people can read out."""
    return "".join(_ALPHABET[byte % len(_ALPHABET)] for byte in secrets.token_bytes(_ID_LENGTH))


@dataclass(frozen=True)
class NewCases:
    """Everything that is written to make cases, ready to be inserted; by case id."""

    cases: Mapping[str, Row]
    events: Mapping[str, Row]
    steps: Mapping[str, list[Row]]

    def of(self, case_ids: Set[str]) -> "NewCases":
        """Only these."""
        return NewCases(
            {case_id: case for case_id, case in self.cases.items() if case_id in case_ids}, self.events, self.steps
        )


def new_cases(
    key: LedgerKey,
    wanted: Sequence[Prepared],
    addresses: Addresses,
    *,
    actor: str,
    batch_id: str | None = None,
) -> NewCases:
    """Put together what ``insert_cases`` writes, before the transaction that does.

    They are made in this order, and fall due in it, a microsecond apart: so cases that are worked at the same time lie side by
    side in the database, and a commit of many writes few pages.
    """
    now = utc_now()
    batch = {} if batch_id is None else {"batch": batch_id}
    cases: dict[str, Row] = {}
    events: dict[str, Row] = {}
    for number, each in enumerate(wanted):
        entry = trail.Entry(now, actor, "case_opened", detail={"sections": sorted(each.section_digests), **batch})
        events[each.case_id], seal = trail.sealed(key, each.case_id, 1, "", entry)
        case = _case_values(each, addresses, now) | {"due_at": now + timedelta(microseconds=number)}
        cases[each.case_id] = {**case, "batch_id": batch_id, "trail_sequence": 1, "trail_seal": seal}
    return NewCases(cases, events, {each.case_id: list(_steps(each, now)) for each in wanted})


def insert_cases(connection: Connection, new: NewCases) -> set[str]:
    """Make those cases that have none yet; returns their ids. The index lets one live case in per business key."""
    if not new.cases:
        return set()
    cases = list(new.cases.values())
    if (
        connection.dialect.name != "sqlite"
    ):  # in one order everywhere, so that two cannot wait for each other at the index
        cases.sort(key=lambda case: str(case["business_key"]))
    _ADD_CASES[connection.dialect.name].run(connection, cases)
    made = {row["id"] for row in _ID.by(connection, "id", list(new.cases))}  # not every driver counts what it inserted
    if made:
        _ADD_EVENTS.run(connection, [event for case_id, event in new.events.items() if case_id in made])
        _ADD_STEPS.run(connection, [step for case_id in new.steps if case_id in made for step in new.steps[case_id]])
    return made


def _case_values(prepared: Prepared, addresses: Addresses, now: datetime) -> Row:
    study_id, mode, subject_id, inventory_id = json.loads(prepared.business_key)
    return {
        **_NOTHING_OF_A_CASE,
        "id": prepared.case_id,
        "business_key": prepared.business_key,
        "study_id": study_id,
        "mode": mode,
        "subject_id": subject_id,
        "inventory_id": None if inventory_id == _NO_DEVICE else inventory_id,
        "request_sealed": prepared.request_sealed,
        "request_digest": prepared.request_digest,
        "section_digests": dict(prepared.section_digests),
        "openspecimen_address": addresses.openspecimen,
        "clinical_one_address": addresses.clinical_one,
        "status": CaseStatus.READY.value,
        "due_at": now,
        "fence": 0,
        "takings": 0,
        "idle_takings": 0,
        "created_at": now,
        "updated_at": now,
    }


def _steps(prepared: Prepared, now: datetime) -> Iterator[Row]:
    requested = {step for name in prepared.section_digests for step in STEPS_OF_SECTION[name]}
    for name in StepName:
        yield {
            **_NOTHING_OF_A_STEP,
            "case_id": prepared.case_id,
            "name": name.value,
            "status": (StepStatus.PENDING if name in requested else StepStatus.NOT_REQUESTED).value,
            "attempts": 0,
            "probes": 0,
            "absences": 0,
            "in_doubt": False,
            "waits": 0,
            "met_already_registered": False,
            "updated_at": now,
        }
