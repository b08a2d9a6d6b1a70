"""One write to a leased case: the row is locked, the fence is checked, steps move by the table, the trail grows.

Nothing here is committed by itself: ``Ledger.fenced`` runs a function over one ``CaseWrite`` and commits all of it or nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, select, update

from onboarding.clocks import utc_now
from onboarding.errors import LeaseLost
from onboarding.keys import LedgerKey
from onboarding.ledger import trail
from onboarding.ledger.claims import settle_claims
from onboarding.ledger.columns import CASES, LEASE_MARGIN_S, NO_INTENT, STEPS, Row, one_row, step_view
from onboarding.ledger.states import (
    FINAL_STEP_STATUSES,
    CaseEvent,
    CaseStatus,
    StepEvent,
    StepName,
    StepStatus,
    next_case_status,
    next_step_status,
)
from onboarding.ledger.views import Intent, StepView

_SETTLING: Final = frozenset(
    {
        StepEvent.FOUND,
        StepEvent.APPLIED,
        StepEvent.REFUSED,
        StepEvent.INCONCLUSIVE,
        StepEvent.DECIDED_APPLIED,
        StepEvent.DECIDED_ABSENT,
    }
)


@dataclass
class Lease:
    """The right to work on one case for a while.

    ``valid_until`` is on this machine's boot clock and never later than what the ledger holds; the runner checks it right
    before each send. Only ``Ledger`` changes it.
    """

    case_id: str
    owner: str
    fence: int
    seconds: float
    actor: str
    valid_until: float = 0.0
    lost: bool = False


class CaseWrite:
    """A fenced write in progress. Build it with ``begin``; close it with ``end``."""

    def __init__(
        self, connection: Connection, key: LedgerKey, clock: tuple[str, float], lease: Lease, row: Row
    ) -> None:
        self.connection = connection
        self.key = key
        self.epoch, self.seconds = clock
        self.lease = lease
        self.now = utc_now()
        self.case: dict[str, Any] = dict(row)
        self._steps: dict[StepName, StepWrite] = {}
        self.keep_lease(lease.seconds)

    @classmethod
    def begin(cls, connection: Connection, key: LedgerKey, clock: tuple[str, float], lease: Lease) -> "CaseWrite":
        """Lock the case's row and check the fence; raises ``LeaseLost``."""
        row = one_row(connection.execute(select(CASES).where(CASES.c.id == lease.case_id).with_for_update()))
        if row["fence"] != lease.fence or row["lease_owner"] != lease.owner:
            raise LeaseLost(f"case {lease.case_id} was taken over by another runner; this one sends nothing more.")
        return cls(connection, key, clock, lease, row)

    @property
    def lease_left_s(self) -> float:
        """Seconds the lease still lasts once this is committed; 0 after a release."""
        return 0.0 if self.case["lease_owner"] is None else max(0.0, self.case["lease_until"] - self.seconds)

    def keep_lease(self, seconds: float) -> None:
        """Let the lease reach at least ``seconds`` from now; every fenced write renews it."""
        reach = self.seconds + seconds
        same = self.case["lease_epoch"] == self.epoch and self.case["lease_until"] is not None
        self.case["lease_until"] = max(reach, self.case["lease_until"]) if same else reach
        self.case["lease_epoch"] = self.epoch

    def record(
        self,
        kind: str,
        *,
        step: StepName | None = None,
        code: str | None = None,
        detail: Mapping[str, Any] | None = None,
        reason: str | None = None,
    ) -> None:
        """Append an entry to the case's trail."""
        sequence = self.case["trail_sequence"] + 1
        entry = trail.Entry(self.now, self.lease.actor, kind, step, code, detail, reason)
        self.case["trail_seal"] = trail.append(
            self.connection, self.key, self.lease.case_id, sequence, self.case["trail_seal"], entry
        )
        self.case["trail_sequence"] = sequence

    def step(self, name: StepName) -> "StepWrite":
        """The write to one of the case's steps."""
        if name not in self._steps:
            row = one_row(
                self.connection.execute(
                    select(STEPS).where(STEPS.c.case_id == self.lease.case_id, STEPS.c.name == name)
                )
            )
            self._steps[name] = StepWrite(self, dict(row))
        return self._steps[name]

    def finish(self) -> None:
        """Every step is done or not requested: the case is done and the lease is given back."""
        statuses = [self.step(name).status for name in StepName]
        assert all(status in FINAL_STEP_STATUSES for status in statuses), f"case is not finished: {statuses}"
        self._leave(CaseEvent.FINISHED, reason=None, due_at=None)

    def need_attention(self, code: str) -> None:
        """A person must look: the case says why and the lease is given back."""
        self._leave(CaseEvent.ATTENTION, reason=code, due_at=None)

    def park(self, wait_s: float, code: str, *, blocked_login: str | None = None) -> datetime:
        """Wait without a runner: give the lease back, due again after ``wait_s`` seconds. Returns the due time, UTC."""
        due_at = self.now + timedelta(seconds=wait_s)
        self.case["blocked_login"] = blocked_login
        self._leave(CaseEvent.WAITING, reason=code, due_at=due_at)
        return due_at

    def take_fence(self) -> None:
        """Fence off whoever had the case before; this write itself then carries the new fence."""
        self.case["fence"] = self.lease.fence
        self.connection.execute(update(CASES).where(CASES.c.id == self.lease.case_id).values(fence=self.lease.fence))

    def resume_after_decision(self) -> None:
        """A person decided: the case is done, or ready and due."""
        self.case.update(idle_takings=0, blocked_login=None)
        if self.case["status"] == CaseStatus.ATTENTION:
            self.case["status"] = next_case_status(CaseStatus.ATTENTION, CaseEvent.RESUMED).value
        if all(self.step(name).status in FINAL_STEP_STATUSES for name in StepName):
            self._leave(CaseEvent.FINISHED, reason=None, due_at=None)
        else:
            self._leave(CaseEvent.WAITING, reason=None, due_at=self.now)

    def cancel(self) -> None:
        """A person ends the case: it is worked no more."""
        self._leave(CaseEvent.CANCELLED, reason=None, due_at=None)

    def contradict(self, code: str) -> None:
        """A late answer says otherwise than the ledger: attention, whatever stands."""
        self._leave(CaseEvent.CONTRADICTED, reason=code, due_at=None)

    def made_progress(self) -> None:
        """A step got on: takings without progress are counted from here."""
        self.case["idle_takings"] = 0

    def _leave(self, event: CaseEvent, *, reason: str | None, due_at: datetime | None) -> None:
        self.case["status"] = next_case_status(CaseStatus(self.case["status"]), event).value
        self.case.update(reason=reason, due_at=due_at, lease_owner=None, lease_until=None, lease_epoch=None)
        detail = {"due_at": due_at.isoformat()} if due_at else None
        self.record(f"case_{event}", code=reason, detail=detail)

    def end(self) -> None:
        """Write what changed. The fence is in the condition once more: the row was locked, so it must still match."""
        for step in self._steps.values():
            step.save()
        values = {**self.case, "updated_at": self.now}
        del values["id"]
        done = self.connection.execute(
            update(CASES).where(CASES.c.id == self.lease.case_id, CASES.c.fence == self.lease.fence).values(**values)
        )
        assert done.rowcount == 1, "the fenced row vanished under its lock"


class StepWrite:
    """A write to one step. Every method moves it by the transition table and leaves an entry in the trail."""

    def __init__(self, case: CaseWrite, row: dict[str, Any]) -> None:
        self._case = case
        self._row = row
        self._changed = False
        self.name = StepName(row["name"])

    @property
    def status(self) -> StepStatus:
        """Where the step stands now."""
        return StepStatus(self._row["status"])

    @property
    def in_doubt(self) -> bool:
        """Whether an attempt may have been applied."""
        return bool(self._row["in_doubt"])

    def found(self, outcome: Mapping[str, Any], *, code: str = "ALREADY_SO") -> None:
        """What the request asks for stands already; nothing is sent."""
        self._done(StepEvent.FOUND, code, outcome)

    def applied(self, outcome: Mapping[str, Any], *, code: str, credentials: bytes | None = None) -> None:
        """The effect was applied. ``credentials`` (JSON bytes) are stored encrypted."""
        if credentials is not None:
            self._row["credentials_sealed"] = self._case.key.encrypt(credentials, self._place("credentials"))
        self._done(StepEvent.APPLIED, code, {**outcome, "attempt": self._row["attempts"]})

    def intend(self, intent: Intent, *, probe: bool = False) -> int:
        """Commit an intent, with the lease reaching past its quiet time. Returns the number of the attempt.

        ``probe``: it is sent to end a doubt, which stays open until a conclusive answer; counted as a probe too.
        """
        assert probe == self.in_doubt, "a doubt is settled by a probe before anything else is sent"
        self._row["attempts"] += 1
        self._row["probes"] += int(probe)
        self._row["intent"] = {**intent.facts, "quiet_s": intent.quiet_s}
        self._row["intent_sealed"] = self._case.key.encrypt(intent.body, self._place("intent"))
        self._row["quiet_until"] = self._case.seconds + intent.quiet_s
        self._row["quiet_epoch"] = self._case.epoch
        self._case.keep_lease(intent.quiet_s + LEASE_MARGIN_S)
        self._move(StepEvent.INTENT, None, detail={"attempt": self._row["attempts"], "quiet_s": intent.quiet_s})
        return int(self._row["attempts"])

    def mirror_intent(self, attempt: int) -> int:
        """The intent stands on a shared claim as its ``attempt``; this step shows it as open.

        Returns the number of the attempt as this step counts, which its outcome and late answers go by.
        """
        self._row["attempts"] += 1
        self._move(StepEvent.INTENT, None, detail={"attempt": self._row["attempts"], "claim_attempt": attempt})
        return int(self._row["attempts"])

    def doubt(self, code: str, *, http_status: int | None = None, vendor_text: str | None = None) -> None:
        """It is not known whether the effect was applied; the intent stays open."""
        self._row["in_doubt"] = True
        self._say(http_status, vendor_text)
        self._move(StepEvent.IN_DOUBT, code)

    def not_applied(self, code: str, *, http_status: int | None = None, vendor_text: str | None = None) -> None:
        """Nothing was applied and it may work later. An older doubt is not ended by that."""
        self._row["waits"] += 1
        self._say(http_status, vendor_text)
        if self._row["in_doubt"]:
            self._move(StepEvent.WAITING, code)
        else:
            self._row.update(NO_INTENT)
            self._move(StepEvent.NOT_APPLIED, code)

    def absent(self, code: str = "PROVEN_NOT_APPLIED") -> None:
        """A probe proved, after the quiet time, that nothing was applied: the doubt is over."""
        self._row.update(NO_INTENT)
        self._row["absences"] += 1
        self._move(StepEvent.PROBED_ABSENT, code)

    def inconclusive(self, code: str, *, http_status: int | None = None, vendor_text: str | None = None) -> None:
        """Nobody here can tell whether the effect was applied: a person must."""
        self._say(http_status, vendor_text)
        self._move(StepEvent.INCONCLUSIVE, code)
        self._case.made_progress()

    def refuse(
        self,
        code: str,
        *,
        http_status: int | None = None,
        vendor_text: str | None = None,
        already_registered: bool = False,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        """Not applied, and will not be. The intent is over; ``already_registered`` is remembered for later probes.

        ``detail`` is kept as the step's outcome: what a decision about it needs to know.
        """
        assert not self.in_doubt, "a doubt is ended by a probe or a person, never by the class of a later answer"
        self._say(http_status, vendor_text)
        self._row.update(NO_INTENT)
        self._row["met_already_registered"] = self._row["met_already_registered"] or already_registered
        self._row["outcome"] = dict(detail) if detail else None
        self._move(StepEvent.REFUSED, code, detail=detail)
        self._case.made_progress()

    def wait(
        self, code: str, *, http_status: int | None = None, vendor_text: str | None = None, awaited: bool = False
    ) -> None:
        """Nothing is known to have changed; look again later. ``awaited``: it waits for a dispensation, not for a fault."""
        self._row["waits"] += 1
        self._say(http_status, vendor_text)
        if awaited:
            self._row["waiting_since"] = self._row["waiting_since"] or self._case.now
            self._case.made_progress()
        self._move(StepEvent.WAITING, code)

    def roll_back(self, code: str) -> None:
        """What this step had seen is no longer so (a dispensation): it is looked at again."""
        self._row["outcome"] = None
        self._row["done_at"] = None
        self._move(StepEvent.ROLLED_BACK, code)

    def probed(self, code: str, *, quiet_s: float) -> None:
        """A probe with an effect of its own is about to be sent; counted, so that it has an end, and quiet after it."""
        self._row["probes"] += 1
        self._row["quiet_until"] = self._case.seconds + quiet_s
        self._row["quiet_epoch"] = self._case.epoch
        self._case.keep_lease(quiet_s + LEASE_MARGIN_S)
        self._move(StepEvent.WAITING, code, detail={"probe": self._row["probes"]})

    def retry(self) -> None:
        """A person asked for a refused step to be tried again."""
        self._row.update(waits=0, probes=0, absences=0, waiting_since=None, outcome=None)
        self._move(StepEvent.RETRIED, None)

    def decide(self, *, applied: bool, outcome: Mapping[str, Any]) -> None:
        """A person decided whether the effect was applied; what was counted before is counted anew."""
        self._row.update(NO_INTENT, waits=0, probes=0, absences=0, waiting_since=None, met_already_registered=False)
        self._say(None, None)
        if applied:
            self._row.update(outcome=dict(outcome), done_at=self._case.now)
            self._move(StepEvent.DECIDED_APPLIED, "DECIDED_APPLIED", detail=outcome)
        else:
            self._row.update(outcome=None, done_at=None)
            self._move(StepEvent.DECIDED_ABSENT, "DECIDED_ABSENT")

    def restart_quiet_time(self) -> None:
        """After a reboot the old clock is gone: an open intent's quiet time starts anew."""
        if self._row["quiet_until"] is None or self._row["quiet_epoch"] == self._case.epoch:
            return
        self._row["quiet_until"] = self._case.seconds + self._row["intent"]["quiet_s"]
        self._row["quiet_epoch"] = self._case.epoch
        self._changed = True

    def view(self) -> StepView:
        """The step as it stands in this write."""
        return step_view(self._row, self._case.epoch, self._case.seconds)

    def save(self) -> None:
        """Write the row if anything changed."""
        if not self._changed:
            return
        values = {name: value for name, value in self._row.items() if name not in ("case_id", "name")}
        self._case.connection.execute(
            update(STEPS).where(STEPS.c.case_id == self._row["case_id"], STEPS.c.name == self.name).values(**values)
        )
        self._changed = False

    def _done(self, event: StepEvent, code: str, outcome: Mapping[str, Any]) -> None:
        self._row.update(outcome=dict(outcome), in_doubt=False, waits=0, waiting_since=None, done_at=self._case.now)
        self._row.update(http_status=None, vendor_text_sealed=None)
        self._move(event, code, detail=outcome)
        self._case.made_progress()

    def _say(self, http_status: int | None, vendor_text: str | None) -> None:
        self._row["http_status"] = http_status
        self._row["vendor_text_sealed"] = None
        if vendor_text is not None:  # JSON can hold half a character, which UTF-8 cannot
            text = vendor_text.encode(errors="backslashreplace")
            self._row["vendor_text_sealed"] = self._case.key.encrypt(text, self._place("vendor_text"))

    def _move(self, event: StepEvent, code: str | None, *, detail: Mapping[str, Any] | None = None) -> None:
        self._row["status"] = next_step_status(self.status, event).value
        self._row["code"] = code
        self._row["updated_at"] = self._case.now
        self._changed = True
        if event in _SETTLING:
            settle_claims(self._case, self.name, self.status)
        facts = {**(detail or {}), "fence": self._case.lease.fence}
        if self._row["http_status"] is not None:
            facts["http_status"] = self._row["http_status"]
        self._case.record(f"step_{event}", step=self.name, code=code, detail=facts)

    def _place(self, column: str) -> str:
        return f"step/{self._row['case_id']}/{self.name}/{column}"
