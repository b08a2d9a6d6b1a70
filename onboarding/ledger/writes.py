"""One write to a leased case: the row is locked, the fence is checked, steps move by the table, the trail grows.

Nothing here is committed by itself: ``Ledger.fenced`` runs a function over one ``CaseWrite`` and commits all of it or nothing,
alone or together with writes to other cases.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from onboarding.errors import LeaseLost
from onboarding.intake import IntakeRequest
from onboarding.keys import LedgerKey
from onboarding.ledger import trail
from onboarding.ledger.claims import ClaimKey
from onboarding.ledger.columns import NO_INTENT, Row, step_view
from onboarding.ledger.rows import ClaimId, Rows, Settled, ends_of, settled_claim
from onboarding.ledger.states import (
    FINAL_STEP_STATUSES,
    CaseEvent,
    CaseStatus,
    StepName,
    StepStatus,
    next_case_status,
)
from onboarding.ledger.step_writes import StepWrite
from onboarding.ledger.views import StepView


@dataclass
class Lease:
    """The right to work on one case for a while.

    ``valid_until`` is on this machine's boot clock and never later than what the ledger holds; the runner checks it right
    before each send. ``case``, ``steps``: rows as the last commit under this fence left them; while the fence stands nobody
    else can change the steps, nor the request (``request`` if it was read with the lease). ``first_claims``: what was
    claimed with it. Only ``Ledger`` changes these.
    """

    case_id: str
    owner: str
    fence: int
    seconds: float
    actor: str
    valid_until: float = 0.0
    lost: bool = False
    case: Row | None = field(default=None, repr=False)
    steps: dict[StepName, Row] = field(default_factory=dict, repr=False)
    request_sealed: bytes = field(default=b"", repr=False)
    request: IntakeRequest | None = field(default=None, repr=False)
    first_claims: Sequence[ClaimKey] = field(default=(), repr=False)

    def known(self, name: StepName) -> StepView | None:
        """The step as the last commit left it, unless only the ledger can tell: how long an intent's quiet time lasts yet."""
        row = self.steps.get(name)
        if row is not None and row["status"] == StepStatus.DONE:
            row = {**row, **NO_INTENT}  # its quiet time means nothing any more
        return step_view(row, "", 0.0) if row is not None and row["quiet_until"] is None else None


class CaseWrite:
    """A write to a case's locked row in progress. Nothing of it counts until ``end`` hands it over to the transaction.

    ``step_rows``: the steps that it looked at, as it left them; empty before ``end``.
    """

    def __init__(self, rows: Rows, key: LedgerKey, clock: tuple[str, float], lease: Lease, row: Row) -> None:
        self.rows = rows
        self.key = key
        self.epoch, self.seconds = clock
        self.lease = lease
        self.now = rows.now
        self.case: dict[str, Any] = dict(row)
        self.step_rows: dict[StepName, Row] = {}
        self._kept_s = 0.0
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
        write = cls(rows, key, clock, lease, row)
        write.keep_lease(lease.seconds)
        return write

    @property
    def lease_left_s(self) -> float:
        """Seconds for which this write lets the lease last; 0 after a release."""
        return 0.0 if self.case["lease_owner"] is None else self._kept_s

    def keep_lease(self, seconds: float) -> None:
        """Let the lease reach at least ``seconds`` from now; every fenced write renews it."""
        self._kept_s = max(self._kept_s, seconds)
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
            self._steps[name] = StepWrite(
                self, dict(self.rows.step(self.lease.case_id, name, self.lease.steps.get(name)))
            )
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

    def finish_if_done(self) -> bool:
        """Finish the case if this write did the last of its steps. Returns whether it did."""
        did = any(step.changed and step.status is StepStatus.DONE for step in self._steps.values())
        if not did or self.case["lease_owner"] is None or not all(map(self._is_final, reversed(StepName))):
            return False
        self._leave(CaseEvent.FINISHED, reason=None, due_at=None)
        return True

    def _is_final(self, name: StepName) -> bool:
        written = self._steps.get(name)
        row = self.rows.step(self.lease.case_id, name, self.lease.steps.get(name)) if written is None else written.row
        return row["status"] in FINAL_STEP_STATUSES

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
        self.case["updated_at"] = self.now
        self.rows.put_case(self.case)
        self.step_rows = {name: step.row for name, step in self._steps.items()}
        self._steps.clear()  # they know this write: as a cycle, all of it would stay in memory for long
