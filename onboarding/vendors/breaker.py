"""A circuit breaker for one system: after many failures in a row nothing is sent, but for one probing call at a time.

It decides only whether a request may be begun; what an answer says of an effect is never its business.
"""

import random
from typing import Final

from onboarding.clocks import boot_seconds
from onboarding.errors import AnswerError, NotYet, Refused
from onboarding.vendors.answers import Kind

OPENS_AFTER: Final = 10  # more than one case meets in a row, so that one bad case cannot stop the others
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 60.0
_SAYS_NOTHING: Final = frozenset({"BAD_ADDRESS", "SECOND_SEND_STOPPED", "OVERSIZED"})  # our side's own limits


class Breaker:
    """Counts failures in a row; opens, lets a probing call through after a pause that grows, closes on any success.

    Every request carries the stamp of the state in which it was begun. A failure counts only in that state: what was on
    its way when the breaker opened or closed says nothing about the time since. A success always closes it.
    """

    def __init__(
        self,
        opens_after: int = OPENS_AFTER,
        first_pause_s: float = FIRST_PAUSE_S,
        longest_pause_s: float = LONGEST_PAUSE_S,
    ) -> None:
        self._opens_after = opens_after
        self._first_pause_s = first_pause_s
        self._longest_pause_s = longest_pause_s
        self._failures = 0
        self._pause_s = 0.0  # 0 while closed
        self._open_until = 0.0
        self._probing = False
        self.stamp = 0

    def closed_for_s(self) -> float:
        """Seconds for which nothing may be begun; 0 if a request may, if only as the probing one."""
        if self._pause_s == 0.0:
            return 0.0
        if self._probing:
            return self._first_pause_s  # soon enough to learn how the probing call ended
        return max(0.0, self._open_until - boot_seconds())

    def enter(self) -> int:
        """Begin a request, which ``closed_for_s`` allowed just now; its stamp. The first after a pause is the probing one."""
        if self._pause_s > 0.0:
            self._probing = True
            self.stamp += 1
        return self.stamp

    def succeeded(self) -> None:
        """The system is alive."""
        self._failures = 0
        if self._pause_s > 0.0:
            self._pause_s = 0.0
            self._probing = False
            self.stamp += 1

    def failed(self, stamp: int) -> bool:
        """A request of this stamp met a system that looks dead. Whether the breaker has opened (again) by that."""
        if stamp != self.stamp:
            return False
        self._failures += 1
        if not self._probing and (self._pause_s > 0.0 or self._failures < self._opens_after):
            return False
        self._probing = False
        self._pause_s = min(self._longest_pause_s, self._pause_s * 2 or self._first_pause_s)
        # A little uneven, so that several processes do not probe in step.
        self._open_until = boot_seconds() + self._pause_s * random.uniform(0.9, 1.1)  # noqa: S311 - no secret
        self.stamp += 1
        return True

    def gave_up(self, stamp: int) -> None:
        """A request of this stamp ended without a word about the system; if it was the probing one, another may be."""
        if self._probing and stamp == self.stamp:
            self._probing = False
            self.stamp += 1


def looks_dead(kind: Kind, error: AnswerError | None) -> bool | None:
    """Whether an outcome says that the system is dead; None if it says nothing.

    Alive is whoever answers in the vendor's own way, a refusal, a 429 and an internal error included. Dead are silence, a
    connection that cannot be made or breaks, a proxy's page, an unreadable answer, and a 503 in whatever shape. A log-in may
    be served by another host, so that it is no sign of life; its refusal is none of death.
    """
    if error is None or isinstance(error, Refused | NotYet) or error.code == "THROTTLED":
        return None if kind is Kind.LOGIN else False
    if error.code in _SAYS_NOTHING:
        return None
    if kind is Kind.LOGIN and error.http_status is not None and 400 <= error.http_status < 500:
        return None
    return error.vendor_text is None or error.http_status == 503
