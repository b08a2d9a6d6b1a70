"""How every call goes out: past the gate, with a token, once, and once more after a 401; then it is classified."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

from onboarding.errors import AnswerError, LoginRefused, Unavailable
from onboarding.explanations import explain
from onboarding.vendors.answers import Kind, classify
from onboarding.vendors.gate import VendorGate
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


class VendorCalls:
    """The calls to one system.

    Args:
        system: its name.
        http: what sends; it may be shared with other systems.
        gate: pauses and refused log-ins that all processes share.
        credentials: address, name and secret; only their keyed digest is kept.
        retry_after_ceiling_s: longest pause that the vendor can ask for.
    """

    def __init__(
        self,
        system: str,
        http: VendorHttp,
        gate: VendorGate,
        *,
        credentials: tuple[str, ...],
        retry_after_ceiling_s: float = DEFAULT_CEILING_S,
    ) -> None:
        self._system = system
        self._http = http
        self._gate = gate
        self.credentials_digest: Final = gate.credentials_digest(system, *credentials)
        self._ceiling_s = retry_after_ceiling_s

    async def exchange(
        self, request: Request, headers: Mapping[str, str], deadline: Deadline, check: Check | None = None
    ) -> Answer | NoAnswer:
        """Send once, unless the system has to be left alone for now; a 429 makes everybody pause.

        Raises:
            Unavailable: a pause is under way; nothing was sent.
            Exception: what ``check`` raised, unchanged; nothing was sent.
        """
        pause_s = await self._gate.not_before(self._system)
        if pause_s > 0:
            raise Unavailable(self._system, "THROTTLED", explain("THROTTLED"), retry_after_s=pause_s)
        wire = Wire(deadline, check, request.max_bytes)
        outcome: Answer | NoAnswer
        try:
            outcome = await self._http.send(
                request.method, request.url, wire=wire, headers=headers, body=request.body, form=request.form
            )
        except NoAnswer as silence:
            outcome = silence
        self._note(request, outcome)
        if isinstance(outcome, Answer) and outcome.status == 429:
            error = self.classified(request.kind, outcome)
            hint_s = error.retry_after_s if error is not None else None
            await self._keep(self._gate.remember_not_before(self._system, hint_s or THROTTLED_WITHOUT_HINT_S))
        return outcome

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

        Returns:
            A success that can be read as JSON, or is empty.

        Raises:
            AnswerError: of the class that says what is known of the effect.
            Exception: what ``check`` raised, unchanged; nothing was sent.
        """
        token = await tokens.get(deadline)
        outcome = await self.exchange(request, headers(token), deadline, check)
        if isinstance(outcome, Answer) and outcome.status == 401:
            tokens.discard(token)
            token = await tokens.get(deadline)
            outcome = await self.exchange(request, headers(token), deadline, check)
        error = self.classified(request.kind, outcome)
        if error is not None:
            raise error
        assert isinstance(outcome, Answer)  # the lack of an answer is never a success
        return outcome

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
