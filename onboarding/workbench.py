"""Everything a runner needs in one place: the ledger, both clients, and sessions on cases. Every door opens one of these."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from math import inf
from time import monotonic
from typing import Any, Final, TypeVar

from onboarding.errors import CLINICAL_ONE, OPENSPECIMEN, AnswerError, BadInput, BadSettings, LeaseLost, LedgerError
from onboarding.intake import IntakeRequest
from onboarding.ledger import releasing
from onboarding.ledger.async_ledger import AsyncLedger
from onboarding.ledger.claims import ClaimKey
from onboarding.ledger.deciding import Decided
from onboarding.ledger.leasing import REQUEST_UNREADABLE, Closed, Runner, refuse_mode
from onboarding.ledger.ledger import Ledger, open_ledger
from onboarding.ledger.opening import Opened
from onboarding.ledger.states import StepName, StepStatus
from onboarding.ledger.together import Taking
from onboarding.ledger.views import Held
from onboarding.ledger.writes import Lease
from onboarding.request import OnboardingRequest
from onboarding.settings import PREFIX, Connections, Settings
from onboarding.steps.claiming import Asked, holds_of, registration_claims
from onboarding.steps.session import CaseSession
from onboarding.steps.systems import Systems
from onboarding.vendors.clinical_one import ClinicalOneClient
from onboarding.vendors.limits import Limits
from onboarding.vendors.openspecimen import OpenSpecimenClient
from onboarding.vendors.transport import VendorHttp

T = TypeVar("T")
_UNDONE: Final = (StepStatus.PENDING, StepStatus.OPEN)
_NEVER_ASKED: Final = (-inf, 0.0)
_PAUSE_LASTS_S: Final = 1.0
_TOGETHER: Final = 0.05  # part of a pause within which further answers that ask for it do not prolong it


class LedgerGate:
    """The ledger as the clients' shared memory of pauses and refused log-ins."""

    def __init__(self, ledger: Ledger, in_thread: Callable[..., Any]) -> None:
        self._ledger = ledger
        self._in_thread = in_thread
        self._pauses: dict[str, tuple[float, float]] = {}
        self._asking: dict[str, asyncio.Future[float]] = {}

    def credentials_digest(self, system: str, *parts: str) -> str:
        """A keyed digest; it changes when address, name or secret does."""
        return self._ledger.key.digest("credentials", system, *parts)

    async def login_refused(self, system: str, digest: str) -> str | None:
        """The code of a refusal that any process met with these credentials."""
        code: str | None = await self._in_thread(self._ledger.login_refused, system, digest)
        return code

    async def remember_login_refused(self, system: str, digest: str, code: str) -> None:
        """Keep every process from logging in with these credentials."""
        await self._in_thread(self._ledger.remember_login_refused, system, digest, code)

    async def not_before(self, system: str) -> float:
        """Seconds nobody may send; the ledger is asked once a second, by one of those who want to know."""
        asked_at, until = self._pauses.get(system, _NEVER_ASKED)
        now = monotonic()
        age_s = now - asked_at
        if age_s >= _PAUSE_LASTS_S:
            asking = self._asking.get(system)
            if asking is None:
                asking = self._asking[system] = asyncio.ensure_future(self._ask(system))
                await asyncio.wait({asking})
            elif age_s >= 2 * _PAUSE_LASTS_S:
                await asyncio.wait({asking})
            if asking.done():
                until = asking.result()
            now = monotonic()
        return until - now if until > now else 0.0

    def known_not_before(self, system: str) -> float | None:
        """The same, if the ledger was asked within the last second; else None."""
        asked_at, until = self._pauses.get(system, _NEVER_ASKED)
        now = monotonic()
        return None if now - asked_at >= _PAUSE_LASTS_S else max(0.0, until - now)

    async def _ask(self, system: str) -> float:
        """Until when nobody may send, by the monotonic clock: as the ledger has it, or longer as is known here."""
        try:
            left = float(await self._in_thread(self._ledger.not_before, system))
        finally:
            del self._asking[system]
        now = monotonic()
        until = max(now + left, self._pauses.get(system, (now, now))[1])
        self._pauses[system] = (now, until)
        return until

    async def remember_not_before(self, system: str, seconds: float) -> None:
        """Keep every process from sending for so many seconds, or longer if one was asked for already.

        The ledger gets it a little longer, so that it is written once for all whose requests were turned away together.
        """
        now = monotonic()
        known = self._pauses.get(system, (now, now))[1]
        if known >= now + seconds:
            return
        longer = seconds * (1 + _TOGETHER)
        self._pauses[system] = (now, now + longer)  # at once, for what is about to go out here
        left = float(await self._in_thread(self._ledger.not_before, system))
        self._pauses[system] = (now, now + max(longer, left))
        if seconds > left:
            await self._in_thread(self._ledger.remember_not_before, system, longer)


class Workbench:
    """Build it with ``open_workbench``."""

    def __init__(
        self,
        settings: Settings,
        connections: Connections,
        ledger: Ledger,
        systems: Systems,
        runner: Runner,
        in_thread: Callable[..., Any],
        committing: Callable[..., Any],
    ) -> None:
        self.settings = settings
        self.connections = connections
        self.ledger = ledger
        self.systems = systems
        self.runner = runner
        self.in_thread = in_thread
        self.shared = AsyncLedger(ledger, in_thread, committing)

    async def open_case(self, request: OnboardingRequest) -> Opened:
        """Find or make the request's case; raises ``RequestConflict`` or ``BadInput`` (a mode that is not allowed)."""
        check_mode(request, self.settings)
        opened: Opened = await self.in_thread(
            lambda: self.ledger.open_case(request, self.systems.addresses, actor=self.runner.actor)
        )
        return opened

    async def decide(self, case_id: str, decided: Decided) -> None:
        """Carry out a person's decision about a case; raises ``DecisionRefused`` or ``LedgerError``."""
        request: IntakeRequest = await self.in_thread(self.ledger.request, case_id)
        holds = holds_of(Asked(request, self.systems), self.ledger.key)
        await self.in_thread(self.ledger.decide, case_id, decided, holds)

    async def finish_releases(self) -> None:
        """Finish what an interrupted release of a batch left undone, so that its cases can be found."""
        await self.in_thread(releasing.finish_releases, self.ledger)

    async def find_due(self, limit: int, batch_id: str | None = None) -> list[str]:
        """Cases that are due, oldest first, of one batch or of all.

        Not those whose log-in is known to be refused or whose mode is not allowed.
        """
        logins, modes = self.systems.login_digests, self.settings.modes
        found: list[str] = await self.in_thread(
            lambda: self.ledger.find_due(limit=limit, logins=logins, modes=modes, batch_id=batch_id)
        )
        return found

    async def _session(self, lease: Lease) -> CaseSession:
        try:
            request = self.ledger.request_of(lease)
        except (LedgerError, BadInput, ValueError):  # changed, or no request to this version: it stays so
            await self.shared.fenced(lease, lambda write: write.need_attention(REQUEST_UNREADABLE))
            raise
        return CaseSession(self.shared, lease, request, self.systems, self.settings)

    def _first_claims(self, request: IntakeRequest) -> list[ClaimKey]:
        return [] if request.registration is None else registration_claims(Asked(request, self.systems))

    @asynccontextmanager
    async def session(self, case_id: str, *, retry: bool = False) -> AsyncIterator[CaseSession | Held | Closed]:
        """Take a case's lease and renew it meanwhile; or say who holds the case, or why it cannot be worked.

        Raises ``BadInput`` if the case's mode is not allowed here (any more); ``LedgerError`` if its request cannot be decrypted,
        ``BadInput`` if this version does not take it: a person must look then, and nobody holds the case.
        """
        taking = self.shared.take(Taking(case_id, self.runner, self.systems.addresses, retry, self._first_claims))
        try:
            taken = await asyncio.shield(taking)
        except asyncio.CancelledError:  # a signal: what was taken meanwhile is given back, lest it be held for nothing
            await asyncio.wait({taking})
            if taking.exception() is None and isinstance(lease := taking.result(), Lease):
                with suppress(LedgerError, BadInput, ValueError):
                    await (await self._session(lease)).abandon()
            raise
        if isinstance(taken, Held | Closed):
            yield taken
            return
        session = await self._session(taken)
        async with session.renewing():
            try:
                yield session
            except LeaseLost:
                raise
            except BaseException:
                await asyncio.shield(session.abandon())  # a second signal must not keep the lease
                raise


@asynccontextmanager
async def logging_in(session: CaseSession) -> AsyncIterator[None]:
    """Log in, in the background, wherever the case has something to do: what its steps would wait for one after the other.

    A step that comes meanwhile waits for the same log-in. What keeps one from being made, the step meets again and says.
    """
    tasks = [asyncio.create_task(_log_in(session, system)) for system in _systems_to_work_on(session.lease)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _systems_to_work_on(lease: Lease) -> list[str]:
    views = {step: lease.known(step) for step in StepName}
    undone = {step for step, view in views.items() if view is not None and view.status in _UNDONE}
    return list(
        dict.fromkeys(
            OPENSPECIMEN if step is StepName.REGISTRATION else CLINICAL_ONE for step in StepName if step in undone
        )
    )


async def _log_in(session: CaseSession, system: str) -> None:
    with suppress(AnswerError):
        await session.systems.client(system).log_in(deadline=session.deadline())


def check_mode(request: OnboardingRequest, settings: Settings) -> None:
    """Refuse a study mode that this installation may not touch."""
    refuse_mode(str(request.subject.mode), settings.modes)


@asynccontextmanager
async def open_workbench(
    settings: Settings,
    connections: Connections,
    *,
    actor: str,
    flow_run_id: str | None = None,
    ledger: Ledger | None = None,
    http: VendorHttp | None = None,
    await_close: bool = True,
) -> AsyncIterator[Workbench]:
    """Open the ledger and both clients, and close them afterwards. Raises ``BadSettings`` or ``LedgerError``.

    ``ledger``, ``http``: what to work with instead of those that the settings name; they are closed at the end too.
    ``await_close``: whether to wait until a ledger on SQLite is closed. Else this process does so before it ends: the last one
    to close it tidies its file up, which takes as long as several writes.
    """
    if connections.openspecimen is None or connections.clinical_one is None:
        raise BadSettings(missing_connections(connections))
    ledger = ledger or open_ledger(settings)
    threads = ThreadPoolExecutor(max_workers=1 if ledger.store.is_sqlite else 4, thread_name_prefix="ledger")
    committer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger-commit")

    async def in_thread(work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(threads, work, *arguments)

    async def committing(commit: Callable[[], T]) -> T:
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(committer, commit))

    runner = Runner(actor, settings.lease_seconds, flow_run_id, settings.max_idle_takings, tuple(settings.modes))
    try:
        async with http or VendorHttp(settings.ca_file, _connections_for(settings)) as carrier:
            gate = LedgerGate(ledger, in_thread)
            timeout_s, ceiling_s = settings.request_timeout_seconds, settings.retry_after_ceiling_seconds
            limits = Limits(settings.requests_in_flight, settings.requests_per_second)
            openspecimen = OpenSpecimenClient(
                connections.openspecimen,
                carrier,
                gate,
                login_timeout_s=timeout_s,
                retry_after_ceiling_s=ceiling_s,
                limits=limits,
            )
            clinical_one = ClinicalOneClient(
                connections.clinical_one,
                carrier,
                gate,
                login_timeout_s=timeout_s,
                retry_after_ceiling_s=ceiling_s,
                limits=limits,
            )
            systems = Systems(
                openspecimen,
                clinical_one,
                connections.openspecimen.url,
                connections.clinical_one.url,
                connections.openspecimen.time_zone,
            )
            try:
                yield Workbench(settings, connections, ledger, systems, runner, in_thread, committing)
            finally:
                await openspecimen.aclose()
                await clinical_one.aclose()
    finally:
        committer.shutdown(wait=True)  # what is in there waits for nobody
        if await_close or not ledger.store.is_sqlite:
            threads.shutdown(wait=True)
            ledger.close()
        else:
            threads.submit(ledger.close)  # its one thread does this last
            threads.shutdown(wait=False)


def _connections_for(settings: Settings) -> int:
    """Enough for both vendors' places and log-ins, so that no request waits for a connection while its deadline runs."""
    return 2 * settings.requests_in_flight + 4


def missing_connections(connections: Connections) -> list[str]:
    """One line for each connection that is not set."""
    blocks = {
        OPENSPECIMEN: ("OPENSPECIMEN", "open-specimen/default"),
        CLINICAL_ONE: ("CLINICAL_ONE", "clinical-one/default"),
    }
    found = {OPENSPECIMEN: connections.openspecimen, CLINICAL_ONE: connections.clinical_one}
    return [
        f"{system}: no connection is set; set {PREFIX}{variable}_URL and the settings beside it, or save the block {block}."
        for system, (variable, block) in blocks.items()
        if found[system] is None
    ]
