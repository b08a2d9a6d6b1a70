"""What one attempt at a step came to."""

from dataclasses import dataclass

from onboarding.endings import Ending
from onboarding.ledger.states import StepName

SHORT_WAIT_S = 10.0
"""Waits below this are waited for under the renewed lease; longer ones release it."""


@dataclass(frozen=True)
class StepReport:
    """How an attempt ended, why (``code``), and for a wait how many seconds to wait. Holds no personal data."""

    step: StepName
    ending: Ending
    code: str | None = None
    wait_s: float = 0.0
    system: str | None = None
    http_status: int | None = None
    blocked_login: str | None = None

    @property
    def goes_on(self) -> bool:
        """Whether the next step may be worked."""
        return self.ending in (Ending.DONE, Ending.ALREADY_DONE, Ending.NOT_REQUESTED)

    @property
    def waits_shortly(self) -> bool:
        """Whether it is worth waiting here, with the lease."""
        short = self.wait_s < SHORT_WAIT_S and self.blocked_login is None
        return self.ending in (Ending.RETRY_SCHEDULED, Ending.AWAITING_DISPENSATION) and short
