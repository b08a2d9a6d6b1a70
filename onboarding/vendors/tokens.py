"""One log-in for all who need it at the same time, kept until it ends or is thrown away."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from onboarding.clocks import boot_seconds
from onboarding.errors import AnswerError, Unavailable
from onboarding.explanations import explain
from onboarding.vendors.wire import Deadline

LOGIN_TIMEOUT_S: Final = 30.0
_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,16384}")


@dataclass(frozen=True, slots=True)
class Token:
    """A session or access token.

    Attributes:
        value: the secret itself; never shown.
        renew_at: seconds since boot from when on it is not used any more.
    """

    value: str = field(repr=False)
    renew_at: float = float("inf")

    def usable(self) -> bool:
        """Whether it need not be renewed yet."""
        return boot_seconds() < self.renew_at


class TokenKeeper:
    """Keeps a token and gets a new one, once for all concurrent callers.

    The log-in runs in a task and under a deadline of its own: a caller that is cancelled or runs out of time takes
    nothing away from the others, and all who waited learn the same outcome, so that a failing log-in is not repeated
    once per caller (OpenSpecimen locks an account after five).

    Args:
        system: name of the system, for errors.
        log_in: makes a token, or raises an ``AnswerError``.
    """

    def __init__(self, system: str, log_in: Callable[[], Awaitable[Token]]) -> None:
        self._system = system
        self._log_in = log_in
        self._token: Token | None = None
        self._task: asyncio.Task[Token | AnswerError] | None = None

    async def get(self, deadline: Deadline) -> Token:
        """The token, from a log-in if need be.

        Raises:
            Unavailable: the deadline passed first, or the log-in failed.
            LoginRefused: the log-in was refused.
        """
        if self._token is not None and self._token.usable():
            return self._token
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._renew())
            self._task.add_done_callback(look_at_exception)
        task = self._task
        await asyncio.wait({task}, timeout=deadline.remaining())
        if not task.done():
            raise Unavailable(self._system, "DEADLINE_PASSED", explain("DEADLINE_PASSED"))
        if task.cancelled():
            raise Unavailable(self._system, "CLIENT_CLOSED", explain("CLIENT_CLOSED"))
        outcome = task.result()
        if isinstance(outcome, AnswerError):
            raise again(outcome)
        return outcome

    def discard(self, token: Token) -> None:
        """Throw a token away that was not accepted, unless another has taken its place already."""
        if self._token is token:
            self._token = None

    def take(self) -> Token | None:
        """Hand the token out for logging out, and forget it."""
        token, self._token = self._token, None
        return token

    async def aclose(self) -> None:
        """Stop a log-in that is under way; whoever waits for it gets ``Unavailable``."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _renew(self) -> Token | AnswerError:
        try:
            self._token = await self._log_in()
            return self._token
        except AnswerError as error:
            return error
        finally:
            self._task = None


def look_at_exception(task: asyncio.Task[Any]) -> None:
    """Mark an exception as seen, for the case that every caller has gone."""
    if not task.cancelled():
        task.exception()


def again(error: AnswerError) -> AnswerError:
    """The same error anew: one exception raised in several tasks would mix their tracebacks."""
    return type(error)(
        error.system,
        error.code,
        error.what,
        http_status=error.http_status,
        vendor_text=error.vendor_text,
        retry_after_s=error.retry_after_s,
    )


def safe_token(value: object) -> str | None:
    """The text of a token that can go into a header, or None if it is none."""
    return value if isinstance(value, str) and _TOKEN.fullmatch(value) else None
