"""A write to one step of a leased case: every move goes by the transition table and leaves an entry in the trail."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from onboarding.ledger.claims import settle_claims
from onboarding.ledger.columns import LEASE_MARGIN_S, NO_INTENT, quiet_time, quiet_time_here, step_view
from onboarding.ledger.states import (
    StepEvent,
    StepName,
    StepStatus,
    next_step_status,
)
from onboarding.ledger.views import Intent, StepView

if TYPE_CHECKING:
    from onboarding.ledger.writes import CaseWrite

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


class StepWrite:
    """A write to one step. Every method moves it by the transition table and leaves an entry in the trail."""

    def __init__(self, case: "CaseWrite", row: dict[str, Any]) -> None:
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
        self.row.update(quiet_time(self._case.epoch, self._case.seconds, intent.quiet_s, self.row["intent"]))
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
        self.row.update(quiet_time(self._case.epoch, self._case.seconds, quiet_s, self.row["intent"]))
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
        """On another boot or machine than the one that counts it: an open intent's quiet time is counted here too."""
        if changes := quiet_time_here(self.row, self._case.epoch, self._case.seconds):
            self.row.update(changes)
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
