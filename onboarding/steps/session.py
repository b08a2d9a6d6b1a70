"""One runner's work on one case: its lease (renewed while it works), its clients, and the only way to write to the case."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol, TypeVar

from onboarding.clocks import boot_seconds
from onboarding.endings import Ending
from onboarding.errors import CaseContradicted, LeaseLost, OnboardingError
from onboarding.intake import IntakeRequest
from onboarding.ledger.async_ledger import AsyncLedger
from onboarding.ledger.claims import ClaimKey
from onboarding.ledger.states import StepName
from onboarding.ledger.store import CommitUnknown, StoreUnavailable
from onboarding.ledger.views import StepView
from onboarding.ledger.writes import CaseWrite, Lease
from onboarding.settings import Settings
from onboarding.steps.claiming import exception_key
from onboarding.steps.report import StepReport
from onboarding.steps.systems import Systems
from onboarding.vendors.dispensation import ConnectionType
from onboarding.vendors.wire import Deadline

T = TypeVar("T")
_FIRST_WAIT_S: Final = 1.0
_log: Final = logging.getLogger("onboarding.steps")
_LONGEST_WAIT_S: Final = 600.0


class Looks(Protocol):
    """What reading needs: the request, the systems, and a deadline for each call."""

    @property
    def request(self) -> IntakeRequest:
        """What is asked for."""

    @property
    def systems(self) -> Systems:
        """Whom to ask."""

    def deadline(self) -> Deadline:
        """A fresh deadline."""


@dataclass(frozen=True)
class Guard:
    """A dispensation as it was read: the device's connection type, and when (this machine's boot clock, seconds)."""

    connection: ConnectionType
    visit_id: str
    read_at: float


@dataclass(frozen=True)
class Beside:
    """What goes with an answer into its commit, and the claims that this looks at."""

    change: Callable[[CaseWrite], None]
    claims: Sequence[ClaimKey] = ()


FindBeside = Callable[["CaseSession"], Beside | None]
"""What can go with the commit of an answer that was had just now, if anything can."""


class CaseSession:
    """A leased case and everything a step needs to work it."""

    def __init__(
        self,
        ledger: AsyncLedger,
        lease: Lease,
        request: IntakeRequest,
        systems: Systems,
        settings: Settings,
    ) -> None:
        self.request = request
        self.systems = systems
        self.settings = settings
        self.lease = lease
        self.guard: Guard | None = None
        self.beside_last_effect: FindBeside = lambda _session: None
        self._ledger = ledger
        self._joining: list[Callable[[CaseWrite], None]] = []
        self._finished = False

    @property
    def case_id(self) -> str:
        """The case that is worked."""
        return self.lease.case_id

    def check_lease(self) -> None:
        """Raise ``LeaseLost`` unless this runner surely still owns the case; called right before each send."""
        if self.lease.lost or boot_seconds() >= self.lease.valid_until:
            raise LeaseLost(f"the lease on case {self.case_id} has passed; this runner sends nothing more.")

    def deadline(self) -> Deadline:
        """One absolute deadline for everything one request needs."""
        return Deadline(self.settings.request_timeout_seconds)

    async def commit(self, change: Callable[[CaseWrite], T], *, claims: Sequence[ClaimKey] = ()) -> T:
        """Run one fenced write (maybe more than once before it counts); raises ``LeaseLost`` when another runner has the case.

        ``claims``: those that it will look at. What was to join the next commit is written first, in the same transaction;
        and a case whose last step is done by this is finished with it.
        """
        joining, self._joining = self._joining, []

        def together(write: CaseWrite) -> tuple[T, bool]:
            for one in joining:
                one(write)
            return change(write), write.finish_if_done()

        try:
            result, self._finished = await self._ledger.fenced(self.lease, together, claims=claims)
            return result
        except LeaseLost:
            self.lease.lost = True
            raise
        except (StoreUnavailable, CommitUnknown, CaseContradicted):
            raise  # it is not known what stands, or the case is nobody's to write any more
        except Exception:
            self._joining = joining  # it was the change that failed; these may still go with what is written of that
            raise

    def join(self, change: Callable[[CaseWrite], None]) -> None:
        """Let a write go with the next commit: one whose loss costs no more than another look at the other system."""
        self._joining.append(change)

    async def flush(self) -> None:
        """Commit what waits for the next commit, if anything does."""
        if self._joining:
            await self.commit(lambda _write: None)

    async def look(self, step: StepName) -> StepView:
        """The step as it stands now."""
        known = self.lease.known(step)
        return known if known is not None else await self.commit(lambda write: write.step(step).view())

    async def commit_answer(
        self,
        step: StepName,
        *,
        attempt: int,
        says: str,
        code: str,
        change: Callable[[CaseWrite], T],
        beside: FindBeside | None = None,
    ) -> T:
        """Commit a conclusive answer; if the lease is gone by now, append it as a late one and stop."""
        try:
            return await self._commit_beside(change, beside)
        except LeaseLost:
            answer = {"step": step.value, "attempt": attempt, "fence": self.lease.fence, "says": says, "code": code}
            await self._ledger.keep_late_answer(self.case_id, self.lease.actor, answer)
            raise

    async def _commit_beside(self, change: Callable[[CaseWrite], T], find: FindBeside | None) -> T:
        """Commit what an answer says. A fault in what goes with it costs that alone: the answer may never be had again."""
        try:
            beside = None if find is None else find(self)
            if beside is not None:
                with_it = beside.change

                def both(write: CaseWrite) -> T:
                    result = change(write)
                    with_it(write)
                    return result

                return await self.commit(both, claims=beside.claims)
        except (LeaseLost, StoreUnavailable, CommitUnknown):
            raise  # these say something of the case or the ledger, not of what goes beside
        except Exception as error:  # noqa: BLE001 - whatever it is; its text may hold anything
            _log.error("beside_fault case=%s error=%s", self.case_id, type(error).__name__)
        return await self.commit(change)

    async def other_claims_with(self, keys: list[str]) -> set[str]:
        """Which of these exception contents other cases have claimed."""
        return await self._ledger.other_claims_with(keys)

    def holds_since_the_lease(self, claims: Sequence[ClaimKey]) -> bool:
        """Whether these were taken with the lease. Said once: what a step does may end a claim."""
        first, self.lease.first_claims = self.lease.first_claims, ()
        return bool(first) and set(claims) <= set(first)

    def digest(self, *parts: str) -> str:
        """A keyed digest."""
        return self._ledger.key.digest(*parts)

    async def conclude(self, report: StepReport) -> datetime | None:
        """End the work after a step that does not go on: wait without a runner (until when, UTC), or ask for a person."""
        code = report.code or str(report.ending)
        if report.ending is Ending.NEEDS_ATTENTION:
            return await self.commit(lambda write: write.need_attention(code))
        return await self.commit(lambda write: write.park(report.wait_s, code, blocked_login=report.blocked_login))

    async def finish(self) -> None:
        """Every step is done: so is the case, if the last step's commit has not said so."""
        if not self._finished:
            await self.commit(lambda write: write.finish())

    async def abandon(self) -> None:
        """The work was interrupted (a signal, a fault): give the lease back, so that nobody has to wait for its end.

        An intent that is open stays open, and its quiet time goes on; whoever is next settles it.
        """
        if self.lease.lost or self._finished:
            return
        try:
            await self.commit(lambda write: write.park(0.0, "INTERRUPTED"))
        except (OnboardingError, AssertionError) as error:  # it ends by itself; a case that has left needs nothing
            _log.info("lease_not_given_back case=%s error=%s", self.case_id, type(error).__name__)

    def backoff(self, waits: int) -> float:
        """Seconds to wait after so many waits in a row: doubling from one second, at most ten minutes, a little uneven."""
        return float(min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** min(waits, 20)) * random.uniform(0.9, 1.1))  # noqa: S311 - no secret

    def exception_key(self, normalised: Mapping[str, Any]) -> str:
        """The key of an exception's content, in its study and mode."""
        return exception_key(self, self._ledger.key, normalised)

    @asynccontextmanager
    async def renewing(self) -> AsyncIterator[None]:
        """Renew the lease while the work goes on; renewal ends with it."""
        renewals: list[asyncio.Task[None]] = []
        # Most cases end before their lease has to be renewed, and need no task for that.
        begin = asyncio.get_running_loop().call_later(
            self._until_renewal_s(), lambda: renewals.append(asyncio.create_task(self._renew()))
        )
        try:
            yield
        finally:
            begin.cancel()
            for renewal in renewals:
                renewal.cancel()
                with suppress(asyncio.CancelledError):
                    await renewal

    def _until_renewal_s(self) -> float:
        return max(0.02, (self.lease.valid_until - boot_seconds()) / 2)

    async def _renew(self) -> None:
        while not self._finished:
            left_s = self.lease.valid_until - boot_seconds()
            if left_s <= self.lease.seconds * 2 / 3:  # else another write renewed it meanwhile
                try:
                    await self._ledger.renew(self.lease)
                except LeaseLost:
                    self.lease.lost = True
                    return
                except Exception:  # noqa: BLE001 - the store may be back before the lease ends; the check before each send decides
                    await asyncio.sleep(self.lease.seconds / 10)
            await asyncio.sleep(self._until_renewal_s())
