"""Claims: a case's hold on something that other cases could touch too.

Registration ids and devices are bound to one subject; a device-to-cloud subject is bound to one device. The content of a
DND exception is bound to nobody: cases take it in turn, and its claim carries the intent, so the next holder inherits it.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import ColumnElement, Connection, and_, case, select, update

from onboarding.clocks import utc_now
from onboarding.errors import IdentityConflict, LeaseLost
from onboarding.ledger.columns import CLAIMS, LEASE_MARGIN_S, NO_INTENT, Row, intent_view, quiet_time, quiet_time_here
from onboarding.ledger.states import CLAIM_ENDS, ClaimEnd, ClaimState, StepName, StepStatus
from onboarding.ledger.views import ClaimView, Held, Intent

if TYPE_CHECKING:
    from onboarding.ledger.writes import CaseWrite

_compact: Final = json.JSONEncoder(separators=(",", ":")).encode
HELD_RETRY_S: Final = 5.0
UNKNOWN_ELSEWHERE: Final = "EXCEPTION_UNKNOWN_IN_ANOTHER_CASE"
"""Why a case waits whose exception is unknown in another case, until a person decides about that one."""


class ClaimKind(StrEnum):
    """What can be claimed."""

    REGISTRATION = "registration"
    INVENTORY = "inventory"
    DEVICE_TO_CLOUD_SUBJECT = "device_to_cloud_subject"
    EXCEPTION = "exception"


_KINDS_OF_STEP: Final[Mapping[StepName, tuple[ClaimKind, ...]]] = {
    StepName.REGISTRATION: (ClaimKind.REGISTRATION,),
    StepName.DEVICE: (ClaimKind.INVENTORY, ClaimKind.DEVICE_TO_CLOUD_SUBJECT),
}
_ENDS: Final[Mapping[StepStatus, ClaimEnd]] = {
    StepStatus.DONE: ClaimEnd.BOUND,
    StepStatus.UNKNOWN: ClaimEnd.LEFT_UNKNOWN,
    StepStatus.PENDING: ClaimEnd.HELD_AGAIN,
    StepStatus.REFUSED: ClaimEnd.GIVEN_BACK,
}
_WORDS: Final = {
    ClaimKind.REGISTRATION: "the registration is held by another subject",
    ClaimKind.INVENTORY: "the device is held by another subject",
    ClaimKind.DEVICE_TO_CLOUD_SUBJECT: "the subject is bound to another device-to-cloud device",
}


@dataclass(frozen=True, order=True)
class ClaimKey:
    """What is claimed (``kind``, ``key``) and whom it is bound to."""

    kind: ClaimKind
    key: str
    bound_to: str


def claim_key(*parts: str) -> str:
    """One text for the parts of a claim's key that cannot be confused with other parts."""
    return _compact(parts)


def take_claims(write: "CaseWrite", keys: Iterable[ClaimKey]) -> Held | None:
    """Take bound claims for the case, all or none. Returns who holds one (same subject), or raises ``IdentityConflict``.

    Keys are taken in one order everywhere, so that two cases cannot wait for each other.
    """
    rows = [(claim, write.claim(claim.kind, claim.key)) for claim in sorted(keys)]
    for claim, row in rows:
        if row["bound_to"] != claim.bound_to and (
            row["state"] in ("done", "unknown") or row["holder_case"] is not None
        ):
            holder = row["holder_case"] or _last_case(row)
            raise IdentityConflict(
                "the ledger", "IDENTITY_CONFLICT", f"{_WORDS[claim.kind]}{f' (case {holder})' if holder else ''}."
            )
        if row["holder_case"] not in (None, write.lease.case_id):
            return Held(row["holder_case"], HELD_RETRY_S)
    for claim, row in rows:
        write.save_claim(
            row,
            bound_to=claim.bound_to,
            holder_case=write.lease.case_id,
            holder_fence=write.lease.fence,
            state="held" if row["state"] == "free" else row["state"],  # done and unknown bind on, whoever holds it
        )
    return None


def settle_claims(write: "CaseWrite", step: StepName, status: StepStatus) -> None:
    """Follow a step's end: done binds for good, unknown keeps the hold, refused gives it back as it was.

    Pending, after a person decided that nothing was applied, holds it as before the doubt.
    """
    write.settle_claims([(write.lease.case_id, kind.value, _ENDS[status]) for kind in _KINDS_OF_STEP.get(step, ())])


def give_back_claims(connection: Connection, case_id: str, step: StepName) -> None:
    """What a step asked for was replaced before anything was sent: it holds what it claimed no more."""
    _give_back(connection, and_(CLAIMS.c.kind.in_(_KINDS_OF_STEP.get(step, ())), CLAIMS.c.holder_case == case_id))


class ExceptionClaim:
    """The claim on one exception's content, held by this case while its lease lives."""

    def __init__(self, write: "CaseWrite", row: Row) -> None:
        self._write = write
        self._row = row

    @classmethod
    def to_decide(cls, write: "CaseWrite", key: str) -> "ExceptionClaim | Held":
        """The claim for a person's decision, unless a runner works on it."""
        claim = cls(write, write.claim(ClaimKind.EXCEPTION, key))
        holder = claim._row["holder_case"]
        if holder not in (None, write.lease.case_id):
            left = _lease_left(write, holder, claim._row["holder_fence"])
            if left > 0:
                return Held(holder, left)
        return claim

    @classmethod
    def seen(cls, write: "CaseWrite", key: str) -> "ExceptionClaim":
        """The claim as it stands, whoever has it; nothing is taken."""
        return cls(write, write.claim(ClaimKind.EXCEPTION, key))

    @property
    def is_mine(self) -> bool:
        """Whether this case holds it, in this lease."""
        lease = self._write.lease
        return (self._row["holder_case"], self._row["holder_fence"]) == (lease.case_id, lease.fence)

    @classmethod
    def take(cls, write: "CaseWrite", key: str) -> "ExceptionClaim | Held":
        """Take the claim over from a holder whose lease is over, or say who holds it."""
        claim = cls(write, write.claim(ClaimKind.EXCEPTION, key))
        row = claim._row
        if row["holder_case"] not in (None, write.lease.case_id):
            left = _lease_left(write, row["holder_case"], row["holder_fence"])
            if left > 0:
                return Held(row["holder_case"], left)
        if row["state"] != "unknown":
            claim._set(
                holder_case=write.lease.case_id,
                holder_fence=write.lease.fence,
                state="held" if row["state"] == "free" else row["state"],
            )
        if changes := quiet_time_here(row, write.epoch, write.seconds):
            claim._set(**changes)
        return claim

    @classmethod
    def held(cls, write: "CaseWrite", key: str) -> "ExceptionClaim":
        """The claim that this case took before in the same lease; raises ``LeaseLost`` if it was taken over since."""
        claim = cls(write, write.claim(ClaimKind.EXCEPTION, key))
        if not claim.is_mine:
            raise LeaseLost(f"the exception that case {write.lease.case_id} worked on was taken over by another case.")
        return claim

    def intend(self, intent: Intent) -> int:
        """Commit an intent on the claim. Returns the number of the attempt."""
        assert self._row["intent"] is None, "an open intent is settled before the next one"
        attempt = self._row["attempts"] + 1
        facts = {**intent.facts, "quiet_s": intent.quiet_s}
        self._set(
            attempts=attempt,
            intent_sealed=self._write.key.encrypt(intent.body, f"claim/{self._row['key']}"),
            **quiet_time(self._write.epoch, self._write.seconds, intent.quiet_s, facts),
        )
        self._write.keep_lease(intent.quiet_s + LEASE_MARGIN_S)
        return int(attempt)

    def doubt(self) -> None:
        """Its last request may have been applied."""
        self._set(in_doubt=True)

    def note(self, **facts: Any) -> None:
        """Add what was learned to the open intent."""
        self._set(intent={**(self._row["intent"] or {}), **facts})

    def clear(self) -> None:
        """Nothing was applied: there is no open intent any more."""
        assert not self._row["in_doubt"], "a doubt is ended by a probe, never by the class of a later answer"
        self._set(**NO_INTENT)

    def absent(self) -> None:
        """A probe proved, after the quiet time, that nothing was applied."""
        self._set(**NO_INTENT, absences=self._row["absences"] + 1)

    def count_absences_anew(self) -> None:
        """The sends are used up, and a person is asked: after that they are counted from the start."""
        self._set(absences=0)

    def adopt(self, exception_id: str, duplicates: Sequence[str]) -> None:
        """The exception exists under this id (and, wrongly, once more under each of ``duplicates``)."""
        self._set(
            **NO_INTENT,
            state="done",
            effect_id=exception_id,
            duplicates=list(duplicates) or None,
            effect_seen_at=self._write.seconds,
            effect_epoch=self._write.epoch,
        )

    def call_unknown(self) -> None:
        """Nobody here can tell whether it exists; whoever needs it waits for a decision."""
        self._set(state="unknown", holder_case=None)

    def settle_by_decision(self, exception_id: str | None) -> None:
        """A person decided: it exists under this id, or (None) it does not. Whoever waits for it goes on."""
        self._set(
            **NO_INTENT,
            state="free" if exception_id is None else "done",
            holder_case=None,
            absences=0,
            effect_id=exception_id,
            duplicates=None,
            effect_seen_at=None if exception_id is None else self._write.seconds,
            effect_epoch=None if exception_id is None else self._write.epoch,
        )

    def give_back(self) -> None:
        """Let the next case have it, as it stands."""
        if self._row["holder_case"] == self._write.lease.case_id:
            self._set(holder_case=None)

    def view(self) -> ClaimView:
        """The claim as it stands in this write."""
        row = self._row
        same = row["effect_epoch"] == self._write.epoch
        return ClaimView(
            key=row["key"],
            unknown=row["state"] == "unknown",
            open=row["intent"] is not None,
            intent=intent_view(row, self._write.epoch, self._write.seconds),
            effect_id=row["effect_id"],
            effect_age_s=self._write.seconds - row["effect_seen_at"] if same else None,
        )

    def _set(self, **values: Any) -> None:
        self._row = self._write.save_claim(self._row, **values)


def other_claims_with(connection: Connection, keys: Sequence[str]) -> set[str]:
    """Which of these exception contents other cases have claimed too."""
    rows = connection.execute(select(CLAIMS.c.key).where(CLAIMS.c.kind == ClaimKind.EXCEPTION, CLAIMS.c.key.in_(keys)))
    return set(rows.scalars())


def release_all(connection: Connection, case_id: str) -> None:
    """A cancelled case holds nothing; what it had settled, or left unknown, stays so."""
    _give_back(connection, CLAIMS.c.holder_case == case_id)


def _give_back(connection: Connection, which: ColumnElement[bool]) -> None:
    ends = CLAIM_ENDS[ClaimEnd.GIVEN_BACK]
    state = case({old.value: ends[old].value for old in ClaimState}, value=CLAIMS.c.state)
    connection.execute(update(CLAIMS).where(which).values(holder_case=None, state=state, updated_at=utc_now()))


def _lease_left(write: "CaseWrite", case_id: str, fence: int) -> float:
    """Seconds the holder's lease still lasts, 0 when it is over or was taken anew."""
    row = write.rows.lease_of(case_id)
    if row["lease_owner"] is None or row["fence"] != fence or row["lease_epoch"] != write.epoch:
        return 0.0
    return max(0.0, float(row["lease_until"]) - write.seconds)


def _last_case(row: Mapping[str, Any]) -> str | None:
    return str(row["effect_id"]) if row["effect_id"] else None
