"""OpenSpecimen: reading and updating a registration.

Source: vendor documentation, "Update Registration" and "REST API" (sessions), and server behaviour. A session's token
dies after an hour without use; a wrong one gets a 401 whose body is a page. Five failed log-ins lock the account.
"""

import logging
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from onboarding.errors import OPENSPECIMEN, AnswerError, Unavailable
from onboarding.settings import OpenSpecimenConnection
from onboarding.vendors.answers import Kind, unreadable
from onboarding.vendors.calls import Check, Request, VendorCalls
from onboarding.vendors.gate import VendorGate
from onboarding.vendors.limits import Limits, Turn
from onboarding.vendors.retry_after import DEFAULT_CEILING_S
from onboarding.vendors.tokens import LOGIN_TIMEOUT_S, Token, TokenKeeper, safe_token
from onboarding.vendors.transport import VendorHttp
from onboarding.vendors.wire import Answer, Deadline

_TEMPORARY: Final = "AUTH_SYSTEM_LOCKDOWN"  # maintenance, not a word about the credentials
_log: Final = logging.getLogger("onboarding.vendors")


class OpenSpecimenClient:
    """Speaks to one OpenSpecimen as one user, for as many concurrent callers as like, in one event loop.

    Args:
        connection: where it is and who logs in.
        http: what sends; the caller closes it.
        gate: pauses and refused log-ins that all processes share.
        login_timeout_s: deadline of a log-in, which serves all who wait for it.
        retry_after_ceiling_s: longest pause that the vendor can ask for.
        limits: how much is asked of it at a time, by this client.
    """

    def __init__(
        self,
        connection: OpenSpecimenConnection,
        http: VendorHttp,
        gate: VendorGate,
        *,
        login_timeout_s: float = LOGIN_TIMEOUT_S,
        retry_after_ceiling_s: float = DEFAULT_CEILING_S,
        limits: Limits | None = None,
    ) -> None:
        self._connection = connection
        self._base = f"{connection.url.rstrip('/')}/rest/ng"
        self._login_timeout_s = login_timeout_s
        secret = connection.password.get_secret_value()
        self._calls = VendorCalls(
            OPENSPECIMEN,
            http,
            gate,
            credentials=(connection.url, connection.domain, connection.username, secret),
            retry_after_ceiling_s=retry_after_ceiling_s,
            limits=limits,
        )
        self._tokens = TokenKeeper(OPENSPECIMEN, self._log_in)

    @property
    def credentials_digest(self) -> str:
        """Keyed digest of address, name and secret: under it a refused log-in is remembered."""
        return self._calls.credentials_digest

    def turn(self, seconds: float) -> AbstractAsyncContextManager[Turn]:
        """Wait for the place of one effect, before its intent is committed; give what comes to the call as its deadline.

        Raises:
            Unavailable: a long pause is under way, or the system looks dead; nothing was sent.
        """
        return self._calls.turn(seconds)

    def closed_for_s(self) -> float:
        """Seconds for which nothing will be sent there: a pause it asked for, or it looks dead; 0 if it may be used."""
        return self._calls.pacing.closed_for_s()

    async def log_in(self, *, deadline: Deadline) -> None:
        """Make sure that there is a session, and change nothing else.

        Raises:
            LoginRefused: the log-in was refused, now or before with the same credentials.
            Unavailable: it could not be made.
        """
        await self._tokens.get(deadline)

    async def read_registration(self, registration_id: int, *, deadline: Deadline) -> dict[str, Any]:
        """The registration as the server has it: the vendor's keys, dates as epoch milliseconds.

        Without the right to personal data, names read ``###``. Never send this object back.

        Raises:
            Refused: there is none (``CPR_M_NOT_FOUND``, ``CPR_NOT_FOUND`` or a 404), or no right to it.
            Unavailable: it could not be read.
        """
        request = Request("read_registration", Kind.READ, "GET", self._registration_url(registration_id))
        answer = await self._calls.authorised(request, self._tokens, _headers, deadline=deadline)
        return _registration(answer, registration_id, Kind.READ)

    async def update_registration(
        self, registration_id: int, body: Mapping[str, Any], *, deadline: Deadline, check: Check | None = None
    ) -> dict[str, Any]:
        """Update Registration: an absent key stays, null clears. Another ``participant.id`` merges people, for good.

        Args:
            registration_id: which one; the path wins over the body's ``id``.
            body: the keys to change, under the vendor's names.
            deadline: covers everything, a log-in and the replay after a 401 included.
            check: called right before the first byte of each sending.

        Returns:
            The registration as it is now.

        Raises:
            Refused: not applied.
            Unavailable: not applied, may work later.
            InDoubt: may have been applied, for one after an answer that is not this registration.
            Exception: what ``check`` raised, unchanged; nothing was sent.
        """
        url = self._registration_url(registration_id)
        request = Request("update_registration", Kind.EFFECT, "PUT", url, dict(body))
        answer = await self._calls.authorised(request, self._tokens, _headers, deadline=deadline, check=check)
        return _registration(answer, registration_id, Kind.EFFECT)

    async def log_out(self, *, deadline: Deadline) -> None:
        """End the session, if there is one. A failure is only noted: the session dies by itself."""
        token = self._tokens.take()
        if token is None:
            return
        request = Request("log_out", Kind.READ, "DELETE", f"{self._base}/sessions")
        try:
            await self._calls.exchange(request, _headers(token), deadline)
        except Unavailable as error:
            _log.info("log_out_skipped system=%r code=%s", OPENSPECIMEN, error.code)

    async def aclose(self) -> None:
        """Stop a log-in that is under way. The session stays; ``log_out`` ends it."""
        await self._tokens.aclose()

    def _registration_url(self, registration_id: int) -> str:
        return f"{self._base}/collection-protocol-registrations/{int(registration_id)}"

    async def _log_in(self) -> Token:
        await self._calls.refuse_remembered_login()
        credentials = {
            "loginName": self._connection.username,
            "password": self._connection.password.get_secret_value(),
            "domainName": self._connection.domain,
        }
        request = Request("log_in", Kind.LOGIN, "POST", f"{self._base}/sessions", credentials)
        outcome, error = await self._calls.exchange(request, {}, Deadline(self._login_timeout_s))
        if not isinstance(outcome, Answer):
            assert error is not None
            raise error
        if error is None:
            return await self._session(outcome)
        raise await self._login_error(outcome, error)

    async def _session(self, answer: Answer) -> Token:
        """A 200 can come without a token: an account that must set a new password gets ``resetPasswordToken``."""
        body = answer.content
        if isinstance(body, Mapping):
            token = safe_token(body.get("token"))
            if token is not None:
                return Token(token)
            if "resetPasswordToken" in body:
                raise await self._calls.login_refused("PASSWORD_RESET_REQUIRED", answer, None)
        raise unreadable(OPENSPECIMEN, Kind.LOGIN, answer)

    async def _login_error(self, answer: Answer, error: AnswerError) -> AnswerError:
        """Any refusal is remembered, a bare 401 too: trying again could lock the account."""
        if isinstance(error, Unavailable):
            return error
        if error.code == _TEMPORARY:
            return Unavailable(
                OPENSPECIMEN, error.code, error.what, http_status=error.http_status, vendor_text=error.vendor_text
            )
        code = "LOGIN_REFUSED" if error.code == "NOT_AUTHORISED" else error.code
        return await self._calls.login_refused(code, answer, error.vendor_text)


def _headers(token: Token) -> dict[str, str]:
    return {"x-os-api-token": token.value}


def _registration(answer: Answer, registration_id: int, kind: Kind) -> dict[str, Any]:
    """The answer if it is this registration; the id may come as a number or as text."""
    body = answer.content
    if not isinstance(body, dict) or str(body.get("id")) != str(registration_id):
        raise unreadable(OPENSPECIMEN, kind, answer)
    return body
