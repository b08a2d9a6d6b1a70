"""What a fault can do to a request on its way, and the kinds that act on it rather than on its answer.

Each class is a kind, its fields are the parameters of a rule. `when` is `before` (the request is applied afterwards)
or `after` (it has been applied, and logged as an effect, when the fault acts).
"""
# ruff: noqa: ARG002 - all kinds share one signature, and few need all of it

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vendor_sandbox.answers import Answer, Dripped
from vendor_sandbox.requests import Staleness
from vendor_sandbox.uuids import normalised

if TYPE_CHECKING:
    from vendor_sandbox.sandbox import Exchange

BEFORE, AFTER = "before", "after"


@dataclass(kw_only=True, slots=True)
class Fault:
    """What a kind of fault can do; on its own it does nothing."""

    async def before(self, exchange: Exchange) -> Answer | None:
        """Act before the request is applied; an answer takes the place of applying it."""
        return None

    async def after(self, exchange: Exchange, answer: Answer) -> Answer:
        """Act on the answer, whatever it came from."""
        return answer

    def problem(self) -> str | None:
        """What is wrong with the parameters."""
        when = getattr(self, "when", BEFORE)
        return None if when in (BEFORE, AFTER) else "when must be before or after"


@dataclass(kw_only=True, slots=True)
class Delay(Fault):
    """Wait, then go on: the request is applied even if the caller has gone meanwhile."""

    seconds: float
    when: str = BEFORE

    async def before(self, exchange: Exchange) -> Answer | None:
        """Wait before applying."""
        if self.when == BEFORE:
            await exchange.sandbox.changes.pause(self.seconds)
        return None

    async def after(self, exchange: Exchange, answer: Answer) -> Answer:
        """Wait before answering."""
        if self.when == AFTER:
            await exchange.sandbox.changes.pause(self.seconds)
        return answer


@dataclass(kw_only=True, slots=True)
class Hold(Fault):
    """As `delay`, but until it is released through the control interface."""

    when: str = BEFORE

    async def before(self, exchange: Exchange) -> Answer | None:
        """Hold before applying."""
        if self.when == BEFORE:
            await exchange.hold()
        return None

    async def after(self, exchange: Exchange, answer: Answer) -> Answer:
        """Hold before answering."""
        if self.when == AFTER:
            await exchange.hold()
        return answer


@dataclass(kw_only=True, slots=True)
class Drip(Fault):
    """The right answer, a few bytes at a time."""

    interval_seconds: float = 0.1
    bytes_each: int = 1

    async def after(self, exchange: Exchange, answer: Answer) -> Answer:
        """Slow the answer down."""
        answer.delivery = Dripped(self.interval_seconds, self.bytes_each)
        return answer


@dataclass(kw_only=True, slots=True)
class ExpireToken(Fault):
    """The token of the request ends just before it is handled: 401, in HTML or as `ORSResponse`."""

    async def before(self, exchange: Exchange) -> Answer | None:
        """Forget the token."""
        exchange.endpoint.forget_token(exchange.request)
        return None


@dataclass(kw_only=True, slots=True)
class Rollback(Fault):
    """The dispensation of the request's kit, or of `inventory_id`, is rolled back before or after it is handled."""

    when: str = AFTER
    inventory_id: str | None = None

    async def before(self, exchange: Exchange) -> Answer | None:
        """Roll back first."""
        if self.when == BEFORE:
            self._roll_back(exchange)
        return None

    async def after(self, exchange: Exchange, answer: Answer) -> Answer:
        """Roll back once the answer is made."""
        if self.when == AFTER:
            self._roll_back(exchange)
        return answer

    def _roll_back(self, exchange: Exchange) -> None:
        ids: Mapping[str, Any] = exchange.request.route.ids
        wanted = self.inventory_id or ids.get("inventory_id") or _named_in_body(exchange.request.body)
        exchange.sandbox.roll_back(ids.get("study_id"), ids.get("mode"), normalised(wanted))


def _named_in_body(body: bytes) -> object:
    try:
        value = json.loads(body)
    except ValueError:
        return None
    return value.get("inventoryId") if isinstance(value, dict) else None


@dataclass(kw_only=True, slots=True)
class StaleList(Fault):
    """The list of exceptions is answered as it was so many changes or seconds ago (one change by default)."""

    changes: int | None = None
    seconds: float | None = None

    async def before(self, exchange: Exchange) -> Answer | None:
        """Turn the request's view back."""
        changes = 1 if self.changes is None and self.seconds is None else self.changes
        exchange.request.stale = Staleness(changes=changes, seconds=self.seconds)
        return None
