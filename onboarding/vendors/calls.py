"""How every call goes out: from a place, with a token, once, and once more after a 401; then it is classified."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

from onboarding.clocks import boot_seconds
from onboarding.errors import AnswerError, LoginRefused, Unavailable
from onboarding.explanations import explain
from onboarding.vendors.answers import Kind, classify
from onboarding.vendors.breaker import looks_dead
from onboarding.vendors.gate import VendorGate
from onboarding.vendors.limits import AWAITED_PAUSE_S, Limits, Pacing, Place, Turn, Urgency
from onboarding.vendors.retry_after import DEFAULT_CEILING_S
from onboarding.vendors.tokens import Token, TokenKeeper
from onboarding.vendors.transport import VendorHttp
from onboarding.vendors.wire import ANSWER_LIMIT, Answer, Deadline, NoAnswer, Wire

Check = Callable[[], None]
"""Called right before a request's first byte; it raises (``LeaseLost``) to keep the request from being sent."""

THROTTLED_WITHOUT_HINT_S: Final = 5.0
"""Pause after a 429 that does not say how long."""

_log: Final = logging.getLogger("onboarding.vendors")


@dataclass(frozen=True, slots=True)
class Request:
    """One call to a vendor, without its credentials.

    Attributes:
        name: a word for the log, such as ``register_device``.
        url: absolute and percent-encoded; never shown, since it holds ids of subjects.
        body: sent as JSON, or None; never shown.
    """

    name: str
    kind: Kind
    method: str
    url: str = field(repr=False)
    body: object = field(default=None, repr=False)
    form: Mapping[str, str] | None = field(default=None, repr=False)
    max_bytes: int = ANSWER_LIMIT
    urgency: Urgency = Urgency.LOOK


class _HeldTurn(AbstractAsyncContextManager[Turn]):
    def __init__(self, pacing: Pacing, seconds: float) -> None:
        self._pacing = pacing
        self._seconds = seconds

    async def __aenter__(self) -> Turn:
        self._place = await self._pacing.take(Urgency.EFFECT)
        return Turn(self._seconds, self._place)

    async def __aexit__(self, *_raised: object) -> None:
        self._pacing.give_back(self._place)


class VendorCalls:
    """The calls to one system.

    Args:
        system: its name.
        http: what sends; it may be shared with other systems.
        gate: pauses and refused log-ins that all processes share.
        credentials: address, name and secret; only their keyed digest is kept.
        retry_after_ceiling_s: longest pause that the vendor can ask for.
        limits: how much is asked of the system at a time, by this process.
    """

    def __init__(
        self,
        system: str,
        http: VendorHttp,
        gate: VendorGate,
        *,
        credentials: tuple[str, ...],
        retry_after_ceiling_s: float = DEFAULT_CEILING_S,
        limits: Limits | None = None,
    ) -> None:
        self._system = system
        self._http = http
        self._gate = gate
        self.credentials_digest: Final = gate.credentials_digest(system, *credentials)
        self._ceiling_s = retry_after_ceiling_s
        self.pacing: Final = Pacing(system, gate, limits or Limits())

    async def exchange(
        self,
        request: Request,
        headers: Mapping[str, str],
        deadline: Deadline,
        check: Check | None = None,
        place: Place | None = None,
    ) -> tuple[Answer | NoAnswer, AnswerError | None]:
        """Send once, unless the system has to be left alone for now; a 429 makes everybody pause.

        Without a ``place`` go log-ins and log-outs alone: they are one at a time, and who has a place waits for them.

        Returns:
            The outcome, and what it says about the effect.

        Raises:
            Unavailable: a pause is under way; nothing was sent.
            Exception: what ``check`` raised, unchanged; nothing was sent.
        """
        if not self.pacing.is_open:
            await self._sit_out_pause(deadline)
        stamp = self.pacing.breaker.stamp if place is None else place.stamp
        if place is not None:
            self.pacing.note_request(place)
        wire = Wire(deadline, check, request.max_bytes)
        outcome: Answer | NoAnswer
        try:
            outcome = await self._http.send(
                request.method, request.url, wire=wire, headers=headers, body=request.body, form=request.form
            )
        except NoAnswer as silence:
            outcome = silence
        self._note(request, outcome)
        error = self.classified(request.kind, outcome)
        self._learn(stamp, request.kind, error)
        if error is not None and error.http_status == 429:
            await self._keep(
                self._gate.remember_not_before(self._system, error.retry_after_s or THROTTLED_WITHOUT_HINT_S)
            )
        return outcome, error

    async def _sit_out_pause(self, deadline: Deadline) -> None:
        """A pause that began after the request got its place: a short one is waited for, if it leaves time to send."""
        while (pause_s := await self.pacing.pause_s()) > 0:
            if pause_s > min(AWAITED_PAUSE_S, deadline.remaining() / 2):
                raise self.pacing.throttled(pause_s)
            await asyncio.sleep(pause_s)

    def _learn(self, stamp: int, kind: Kind, error: AnswerError | None) -> None:
        dead = looks_dead(kind, error)
        if dead is None:
            return
        if not dead:
            self.pacing.breaker.succeeded()
        elif self.pacing.breaker.failed(stamp):
            _log.warning(
                "vendor_down system=%r code=%s pause_s=%.1f",
                self._system,
                error.code if error is not None else None,
                self.pacing.breaker.closed_for_s(),
            )

    async def authorised(
        self,
        request: Request,
        tokens: TokenKeeper,
        headers: Callable[[Token], Mapping[str, str]],
        *,
        deadline: Deadline,
        check: Check | None = None,
    ) -> Answer:
        """Send with a token. A 401, whatever its body, means not applied: log in anew and send once more.

        The request goes out from the place of its ``Turn``. With any other deadline it gets a place first: a read's
        deadline moves on by that, an effect's does not, since others may rely on when it ends.

        Returns:
            A success that can be read as JSON, or is empty.

        Raises:
            AnswerError: of the class that says what is known of the effect.
            Exception: what ``check`` raised, unchanged; nothing was sent.
        """
        if isinstance(deadline, Turn):
            return await self._from_place(request, tokens, headers, deadline, check, deadline.place)
        asked_at = boot_seconds()
        place = await self.pacing.take(request.urgency)
        try:
            if request.kind is Kind.READ:
                deadline.postpone(boot_seconds() - asked_at)
            elif deadline.passed():
                raise Unavailable(self._system, "DEADLINE_PASSED", explain("DEADLINE_PASSED"))
            return await self._from_place(request, tokens, headers, deadline, check, place)
        finally:
            self.pacing.give_back(place)

    async def _from_place(
        self,
        request: Request,
        tokens: TokenKeeper,
        headers: Callable[[Token], Mapping[str, str]],
        deadline: Deadline,
        check: Check | None,
        place: Place,
    ) -> Answer:
        token = await tokens.get(deadline)
        outcome, error = await self.exchange(request, headers(token), deadline, check, place)
        if isinstance(outcome, Answer) and outcome.status == 401:
            tokens.discard(token)
            token = await tokens.get(deadline)
            outcome, error = await self.exchange(request, headers(token), deadline, check, place)
        if error is not None:
            raise error
        assert isinstance(outcome, Answer)  # the lack of an answer is never a success
        return outcome

    def turn(self, seconds: float) -> AbstractAsyncContextManager[Turn]:
        """Wait for the place of one effect, and hold it; its deadline begins then, so before its intent is committed.

        Raises:
            Unavailable: a long pause is under way, or the system looks dead; nothing was sent.
        """
        return _HeldTurn(self.pacing, seconds)

    async def refuse_remembered_login(self) -> None:
        """Send no log-in with credentials that were refused before, by whatever process.

        Raises:
            LoginRefused: they were.
        """
        code = await self._gate.login_refused(self._system, self.credentials_digest)
        if code is not None:
            raise LoginRefused(self._system, code, explain(code))

    async def login_refused(self, code: str, answer: Answer, vendor_text: str | None) -> LoginRefused:
        """Remember that these credentials were refused, and give the error to raise."""
        await self._keep(self._gate.remember_login_refused(self._system, self.credentials_digest, code))
        return LoginRefused(self._system, code, explain(code), http_status=answer.status, vendor_text=vendor_text)

    def classified(self, kind: Kind, outcome: Answer | NoAnswer) -> AnswerError | None:
        """What the outcome says about the effect."""
        return classify(self._system, kind, outcome, ceiling_s=self._ceiling_s)

    def _note(self, request: Request, outcome: Answer | NoAnswer) -> None:
        if isinstance(outcome, NoAnswer):
            _log.info(
                "vendor_no_answer system=%r call=%s reason=%s may_have_left=%s",
                self._system,
                request.name,
                outcome.reason_code,
                outcome.may_have_left,
            )
            return
        level = logging.DEBUG if outcome.status < 300 and outcome.flaw is None else logging.INFO
        _log.log(
            level,
            "vendor_answer system=%r call=%s status=%d flaw=%s",
            self._system,
            request.name,
            outcome.status,
            outcome.flaw,
        )

    async def _keep(self, writing: Awaitable[None]) -> None:
        """Write to the gate. One that fails must not hide the answer, which says what is known of the effect."""
        try:
            await writing
        except Exception as error:  # noqa: BLE001 - whatever the gate is made of
            _log.error("gate_not_written system=%r error=%s", self._system, type(error).__name__)


def path_segment(text: str) -> str:
    """Text as one segment of a path, percent-encoded.

    Raises:
        ValueError: it is empty or all dots, which would lead elsewhere.
    """
    if not text.strip("."):
        raise ValueError("a path segment may be neither empty nor all dots")
    return quote(text, safe="")
