"""One write to a leased case: the row is locked, the fence is checked, steps move by the table, the trail grows.

Nothing here is committed by itself: ``Ledger.fenced`` runs a function over one ``CaseWrite`` and commits all of it or nothing,
alone or together with writes to other cases.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from onboarding.clocks import utc_now
from onboarding.errors import LeaseLost
from onboarding.keys import LedgerKey
from onboarding.ledger import trail
from onboarding.ledger.claims import settle_claims
from onboarding.ledger.columns import LEASE_MARGIN_S, NO_INTENT, Row, step_view
from onboarding.ledger.rows import ClaimId, Rows, Settled, ends_of, settled_claim
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
    before each send. ``steps``: rows of steps as the last commit under this fence left them; nobody else can change them
    while the fence stands. Only ``Ledger`` changes these.
    """

    case_id: str
    owner: str
    fence: int
    seconds: float
    actor: str
    valid_until: float = 0.0
    lost: bool = False
    steps: dict[StepName, Row] = field(default_factory=dict, repr=False)


class CaseWrite:
    """A write to a case's locked row in progress. Nothing of it counts until ``end`` hands it over to the transaction."""

    def __init__(self, rows: Rows, key: LedgerKey, clock: tuple[str, float], lease: Lease, row: Row) -> None:
        self.rows = rows
        self.key = key
        self.epoch, self.seconds = clock
        self.lease = lease
        self.now = utc_now()
        self.case: dict[str, Any] = dict(row)
        self._steps: dict[StepName, StepWrite] = {}
        self._claims: dict[ClaimId, Row] = {}
        self._events: list[Row] = []
        self._settled: list[Settled] = []

    @classmethod
    def begin(cls, rows: Rows, key: LedgerKey, clock: tuple[str, float], lease: Lease) -> "CaseWrite":
        """Check the fence on the case's locked row, and renew its lease; raises ``LeaseLost``."""
        row = rows.case(lease.case_id)
        if row is None or row["fence"] != lease.fence or row["lease_owner"] != lease.owner:
            raise LeaseLost(f"case {lease.case_id} was taken over by another runner; this one sends nothing more.")
        for step in lease.steps.values():
            rows.knows_step(step)
        write = cls(rows, key, clock, lease, row)
        write.keep_lease(lease.seconds)
        return write

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
        row, link = trail.sealed(self.key, self.lease.case_id, sequence, self.case["trail_seal"], entry)
        self._events.append(row)
        self.case.update(trail_sequence=sequence, trail_seal=link)

    def step(self, name: StepName) -> "StepWrite":
        """The write to one of the case's steps."""
        if name not in self._steps:
            self._steps[name] = StepWrite(self, dict(self.rows.step(self.lease.case_id, name)))
        return self._steps[name]

    def claim(self, kind: str, key: str) -> Row:
        """A claim as it stands in this write; whoever gets it has it locked."""
        place = (kind, key)
        return self._claims.get(place) or self.rows.claim(*place)

    def save_claim(self, claim: Row, **values: Any) -> Row:
        """Change a claim. Returns it as it stands then."""
        changed = {**claim, **values, "updated_at": self.now}
        self._claims[changed["kind"], changed["key"]] = changed
        return changed

    def settle_claims(self, settled: Sequence[Settled]) -> None:
        """What this case holds of these kinds ends like this."""
        for claim in list(self._claims.values()):  # those that this write took itself
            for end in ends_of(claim, settled):
                self.save_claim(settled_claim(claim, end))
        self._settled += settled

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
        """Hand over what changed, to be written with the rest of the transaction."""
        self.rows.settle_claims(self._settled)  # before the claims that this write changed itself
        for claim in self._claims.values():
            self.rows.put_claim(claim)
        for step in self._steps.values():
            if step.changed:
                self.rows.put_step(step.row)
        self.rows.put_events(self._events)
        self.rows.put_case({**self.case, "updated_at": self.now})

    def step_rows(self) -> dict[StepName, Row]:
        """The steps that this write looked at, as it leaves them."""
        return {name: step.row for name, step in self._steps.items()}


class StepWrite:
    """A write to one step. Every method moves it by the transition table and leaves an entry in the trail."""

    def __init__(self, case: CaseWrite, row: dict[str, Any]) -> None:
        self._case = case
        self.row = row
        self.changed = False
        self.name = StepName(row["name"])

    @property
    def status(self) -> StepStatus:
        """Where the step stands now."""
        return StepStatus(self.row["status"])

    @property
    def in_doubt(self) -> bool:
        """Whether an attempt may have been applied."""
        return bool(self.row["in_doubt"])

    def found(self, outcome: Mapping[str, Any], *, code: str = "ALREADY_SO") -> None:
        """What the request asks for stands already; nothing is sent."""
        self._done(StepEvent.FOUND, code, outcome)

    def applied(self, outcome: Mapping[str, Any], *, code: str, credentials: bytes | None = None) -> None:
        """The effect was applied. ``credentials`` (JSON bytes) are stored encrypted."""
        if credentials is not None:
            self.row["credentials_sealed"] = self._case.key.encrypt(credentials, self._place("credentials"))
        self._done(StepEvent.APPLIED, code, {**outcome, "attempt": self.row["attempts"]})

    def intend(self, intent: Intent, *, probe: bool = False) -> int:
        """Commit an intent, with the lease reaching past its quiet time. Returns the number of the attempt.

        ``probe``: it is sent to end a doubt, which stays open until a conclusive answer; counted as a probe too.
        """
        assert probe == self.in_doubt, "a doubt is settled by a probe before anything else is sent"
        self.row["attempts"] += 1
        self.row["probes"] += int(probe)
        self.row["intent"] = {**intent.facts, "quiet_s": intent.quiet_s}
        self.row["intent_sealed"] = self._case.key.encrypt(intent.body, self._place("intent"))
        self.row["quiet_until"] = self._case.seconds + intent.quiet_s
        self.row["quiet_epoch"] = self._case.epoch
        self._case.keep_lease(intent.quiet_s + LEASE_MARGIN_S)
        self._move(StepEvent.INTENT, None, detail={"attempt": self.row["attempts"], "quiet_s": intent.quiet_s})
        return int(self.row["attempts"])

    def mirror_intent(self, attempt: int) -> int:
        """The intent stands on a shared claim as its ``attempt``; this step shows it as open.

        Returns the number of the attempt as this step counts, which its outcome and late answers go by.
        """
        self.row["attempts"] += 1
        self._move(StepEvent.INTENT, None, detail={"attempt": self.row["attempts"], "claim_attempt": attempt})
        return int(self.row["attempts"])

    def doubt(self, code: str, *, http_status: int | None = None, vendor_text: str | None = None) -> None:
        """It is not known whether the effect was applied; the intent stays open."""
        self.row["in_doubt"] = True
        self._say(http_status, vendor_text)
        self._move(StepEvent.IN_DOUBT, code)

    def not_applied(self, code: str, *, http_status: int | None = None, vendor_text: str | None = None) -> None:
        """Nothing was applied and it may work later. An older doubt is not ended by that."""
        self.row["waits"] += 1
        self._say(http_status, vendor_text)
        if self.row["in_doubt"]:
            self._move(StepEvent.WAITING, code)
        else:
            self.row.update(NO_INTENT)
            self._move(StepEvent.NOT_APPLIED, code)

    def absent(self, code: str = "PROVEN_NOT_APPLIED") -> None:
        """A probe proved, after the quiet time, that nothing was applied: the doubt is over."""
        self.row.update(NO_INTENT)
        self.row["absences"] += 1
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
        self.row.update(NO_INTENT)
        self.row["met_already_registered"] = self.row["met_already_registered"] or already_registered
        self.row["outcome"] = dict(detail) if detail else None
        self._move(StepEvent.REFUSED, code, detail=detail)
        self._case.made_progress()

    def wait(
        self, code: str, *, http_status: int | None = None, vendor_text: str | None = None, awaited: bool = False
    ) -> None:
        """Nothing is known to have changed; look again later. ``awaited``: it waits for a dispensation, not for a fault."""
        self.row["waits"] += 1
        self._say(http_status, vendor_text)
        if awaited:
            self.row["waiting_since"] = self.row["waiting_since"] or self._case.now
            self._case.made_progress()
        self._move(StepEvent.WAITING, code)

    def roll_back(self, code: str) -> None:
        """What this step had seen is no longer so (a dispensation): it is looked at again."""
        self.row["outcome"] = None
        self.row["done_at"] = None
        self._move(StepEvent.ROLLED_BACK, code)

    def probed(self, code: str, *, quiet_s: float) -> None:
        """A probe with an effect of its own is about to be sent; counted, so that it has an end, and quiet after it."""
        self.row["probes"] += 1
        self.row["quiet_until"] = self._case.seconds + quiet_s
        self.row["quiet_epoch"] = self._case.epoch
        self._case.keep_lease(quiet_s + LEASE_MARGIN_S)
        self._move(StepEvent.WAITING, code, detail={"probe": self.row["probes"]})

    def retry(self) -> None:
        """A person asked for a refused step to be tried again."""
        self.row.update(waits=0, probes=0, absences=0, waiting_since=None, outcome=None)
        self._move(StepEvent.RETRIED, None)

    def decide(self, *, applied: bool, outcome: Mapping[str, Any]) -> None:
        """A person decided whether the effect was applied; what was counted before is counted anew."""
        self.row.update(NO_INTENT, waits=0, probes=0, absences=0, waiting_since=None, met_already_registered=False)
        self._say(None, None)
        if applied:
            self.row.update(outcome=dict(outcome), done_at=self._case.now)
            self._move(StepEvent.DECIDED_APPLIED, "DECIDED_APPLIED", detail=outcome)
        else:
            self.row.update(outcome=None, done_at=None)
            self._move(StepEvent.DECIDED_ABSENT, "DECIDED_ABSENT")

    def restart_quiet_time(self) -> None:
        """After a reboot the old clock is gone: an open intent's quiet time starts anew."""
        if self.row["quiet_until"] is None or self.row["quiet_epoch"] == self._case.epoch:
            return
        self.row["quiet_until"] = self._case.seconds + self.row["intent"]["quiet_s"]
        self.row["quiet_epoch"] = self._case.epoch
        self.changed = True

    def view(self) -> StepView:
        """The step as it stands in this write."""
        return step_view(self.row, self._case.epoch, self._case.seconds)

    def _done(self, event: StepEvent, code: str, outcome: Mapping[str, Any]) -> None:
        self.row.update(outcome=dict(outcome), in_doubt=False, waits=0, waiting_since=None, done_at=self._case.now)
        self.row.update(http_status=None, vendor_text_sealed=None)
        self._move(event, code, detail=outcome)
        self._case.made_progress()

    def _say(self, http_status: int | None, vendor_text: str | None) -> None:
        self.row["http_status"] = http_status
        self.row["vendor_text_sealed"] = None
        if vendor_text is not None:  # JSON can hold half a character, which UTF-8 cannot
            text = vendor_text.encode(errors="backslashreplace")
            self.row["vendor_text_sealed"] = self._case.key.encrypt(text, self._place("vendor_text"))

    def _move(self, event: StepEvent, code: str | None, *, detail: Mapping[str, Any] | None = None) -> None:
        self.row["status"] = next_step_status(self.status, event).value
        self.row["code"] = code
        self.row["updated_at"] = self._case.now
        self.changed = True
        if event in _SETTLING:
            settle_claims(self._case, self.name, self.status)
        facts = {**(detail or {}), "fence": self._case.lease.fence}
        if self.row["http_status"] is not None:
            facts["http_status"] = self.row["http_status"]
        self._case.record(f"step_{event}", step=self.name, code=code, detail=facts)

    def _place(self, column: str) -> str:
        return f"step/{self.row['case_id']}/{self.name}/{column}"
