"""Whoever answers when a case asks for a person: looks on the other side once nothing can arrive any more, and decides."""

from collections import Counter
from datetime import timedelta
from typing import Final

from onboarding.clocks import utc_now
from onboarding.errors import OnboardingError
from onboarding.ledger.deciding import Decided, Decision, offered, step_to_decide
from onboarding.ledger.states import CaseStatus, StepName, StepStatus
from onboarding.ledger.views import CaseView, StepView
from tests.crash.evidence import is_about
from tests.steps.lab import Lab

RIGHTLY_ASKED: Final = frozenset(
    {
        "SETTINGS_CHANGED",  # a runner with other addresses took the case
        "MERGE_IN_DOUBT",  # an update that may merge people is never sent twice
        "EXCEPTION_NOT_LISTED",  # an answer said that it was made, and no list shows it
        *("NOT_AUTHORISED", "C1-ORS-401"),  # two tokens in a row that had expired when they arrived
        "SENDS_USED_UP",
        "PROBES_USED_UP",
        "NO_PROGRESS",
        "LATE_ANSWER_CONTRADICTS",
    }
)
"""Why a case may ask for a person in a storm of faults and kills."""
_SPARE: Final = timedelta(seconds=0.2)


class Person:
    """Decides about the cases of one laboratory. ``decided`` counts by the reason for which a case asked."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.decided: Counter[str] = Counter()

    async def attend(self) -> bool:
        """Answer every case that asks; whether any did."""
        asking = self._lab.bench.ledger.cases(statuses=[CaseStatus.ATTENTION])
        for case in asking:
            decided = self._decision(case)
            if decided is None:
                continue
            try:
                await self._lab.bench.decide(case.id, decided)
            except OnboardingError:
                continue  # too early, or a runner was quicker: it is looked at again
            self.decided[f"{case.reason} {decided.decision}"] += 1
        return bool(asking)

    def _decision(self, case: CaseView) -> Decided | None:
        step, choices = step_to_decide(case), offered(case)
        decision, exception_id = Decision.RETRY, None
        if step is not None and Decision.ABSENT in choices:
            if not self._nothing_can_arrive(case, step):
                return None
            ids = self._applied(case, step.name)
            decision = Decision.APPLIED if ids else Decision.ABSENT
            exception_id = ids[0] if ids and step.name is StepName.DND_EXCEPTION else None
        if decision not in choices:
            return None
        return Decided(decision, "person", "looked on the other side", exception_id=exception_id)

    def _nothing_can_arrive(self, case: CaseView, step: StepView) -> bool:
        """Whether every quiet time about it is over: an exception's intents may be other cases'."""
        cases = [case.id]
        if step.name is StepName.DND_EXCEPTION:
            cases = [other.id for other in self._lab.bench.ledger.cases()]
        intents = [
            event.at
            for case_id in cases
            for event in self._lab.bench.ledger.events(case_id)
            if event.kind == "step_intent" and event.step == step.name
        ]
        quiet = timedelta(seconds=self._lab.bench.settings.quiet_seconds)
        return (
            step.status is not StepStatus.OPEN and utc_now() > max(intents, default=utc_now() - quiet) + quiet + _SPARE
        )

    def _applied(self, case: CaseView, step: StepName) -> list[str]:
        asked = self._lab.bench.ledger.request(case.id)
        effects = [entry for entry in self._lab.control.effects() if is_about(entry, asked, step)]
        return sorted(str(entry["key"].get("dnd_exception_id")) for entry in effects)
