"""The control interface: JSON over HTTP on a port of its own. Its client is `SandboxControl`."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from vendor_sandbox.faults import FaultRefused
from vendor_sandbox.listening import Listener
from vendor_sandbox.requests import SYSTEMS, System
from vendor_sandbox.sandbox import Held, Sandbox
from vendor_sandbox.seeding import SeedRefused
from vendor_sandbox.switches import SwitchRefused

LONGEST_WAIT_S = 60.0

Handle = Callable[[web.BaseRequest, Mapping[str, Any]], Awaitable[object]]


class ControlRefused(ValueError):
    """The control request makes no sense; the message says what is allowed."""


class Control:
    """Answers control requests.

    Args:
        sandbox: what is controlled.
        listeners: the vendors' listeners, to be closed and opened.
        addresses: what `GET /addresses` answers.
    """

    def __init__(self, sandbox: Sandbox, listeners: Mapping[System, Listener], addresses: Mapping[str, str]) -> None:
        self._sandbox = sandbox
        self._listeners = listeners
        self._addresses = addresses
        self._handlers: Mapping[tuple[str, str], Handle] = {
            ("GET", "/addresses"): self._get_addresses,
            ("GET", "/effects"): self._get_effects,
            ("GET", "/requests"): self._get_requests,
            ("GET", "/counts"): self._get_counts,
            ("GET", "/state"): self._get_state,
            ("GET", "/faults"): self._get_faults,
            ("GET", "/held"): self._get_held,
            ("GET", "/idle"): self._get_idle,
            ("POST", "/faults"): self._add_fault,
            ("DELETE", "/faults"): self._remove_faults,
            ("POST", "/release"): self._release,
            ("POST", "/seed"): self._seed,
            ("POST", "/reset"): self._reset,
            ("POST", "/switches"): self._switch,
            ("POST", "/listening"): self._listen,
            ("POST", "/dispense"): self._dispense,
            ("POST", "/undispense"): self._undispense,
            ("POST", "/rollback"): self._roll_back,
            ("POST", "/expire-tokens"): self._expire_tokens,
            ("POST", "/unlock"): self._unlock,
        }

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one control request: 200 with a JSON value, or 400 with `{"error": what is allowed}`."""
        handler = self._handlers.get((request.method, request.path))
        if handler is None:
            known = ", ".join(f"{method} {path}" for method, path in self._handlers)
            return web.json_response({"error": f"no {request.method} {request.path}; there are: {known}"}, status=404)
        try:
            return web.json_response(await handler(request, await _given(request)))
        except (ControlRefused, FaultRefused, SeedRefused, SwitchRefused) as refused:
            return web.json_response({"error": str(refused)}, status=400)

    async def _get_addresses(self, _request: web.BaseRequest, _given: Mapping[str, Any]) -> object:
        return dict(self._addresses)

    async def _get_effects(self, request: web.BaseRequest, _given: Mapping[str, Any]) -> object:
        wanted = {name: request.query[name] for name in ("system", "effect") if name in request.query}
        since = int(_number(request, "since", 0))

        def chosen() -> list[dict[str, Any]]:
            entries = self._sandbox.effects.entries
            return [one for one in entries if one["n"] > since and all(one[k] == v for k, v in wanted.items())]

        await self._at_least(request, lambda: len(chosen()))
        return chosen()

    async def _get_requests(self, request: web.BaseRequest, _given: Mapping[str, Any]) -> object:
        wanted = {name: request.query[name] for name in ("system", "call") if name in request.query}
        since = int(_number(request, "since", 0))
        only_finished = request.query.get("finished") == "true"

        def chosen() -> list[dict[str, Any]]:
            return [
                one.as_json()
                for one in self._sandbox.journal.entries
                if one.n > since
                and (one.finished or not only_finished)
                and all(getattr(one, name) == value for name, value in wanted.items())
            ]

        await self._at_least(request, lambda: len(chosen()))
        return chosen()

    async def _get_counts(self, _request: web.BaseRequest, _given: Mapping[str, Any]) -> object:
        return self._sandbox.journal.counts()

    async def _get_state(self, _request: web.BaseRequest, _given: Mapping[str, Any]) -> object:
        return self._sandbox.state()

    async def _get_faults(self, _request: web.BaseRequest, _given: Mapping[str, Any]) -> object:
        return [rule.as_json() for rule in self._sandbox.faults.rules]

    async def _get_held(self, request: web.BaseRequest, _given: Mapping[str, Any]) -> object:
        rule_id = int(_number(request, "fault", 0)) or None

        def chosen() -> list[Held]:
            return [held for held in self._sandbox.held if rule_id in (None, held.rule_id)]

        await self._at_least(request, lambda: len(chosen()))
        return [
            {"fault": held.rule_id, "request": held.request.number, "call": held.request.route.call}
            for held in chosen()
        ]

    async def _get_idle(self, request: web.BaseRequest, _given: Mapping[str, Any]) -> object:
        journal = self._sandbox.journal
        return {"idle": await self._sandbox.changes.until(lambda: journal.in_progress == 0, _timeout(request))}

    async def _at_least(self, request: web.BaseRequest, count: Callable[[], int]) -> None:
        """Wait for `at_least` of something, if the caller asks to, for `timeout` seconds at most."""
        wanted = _number(request, "at_least", 0)
        if wanted:
            await self._sandbox.changes.until(lambda: count() >= wanted, _timeout(request))

    async def _add_fault(self, _request: web.BaseRequest, given: Mapping[str, Any]) -> object:
        return {"id": self._sandbox.faults.add(given).id}

    async def _remove_faults(self, request: web.BaseRequest, _given: Mapping[str, Any]) -> object:
        self._sandbox.remove_faults(int(_number(request, "id", 0)) or None)
        return {}

    async def _release(self, _request: web.BaseRequest, given: Mapping[str, Any]) -> object:
        return {"released": self._sandbox.release(given.get("fault"))}

    async def _seed(self, _request: web.BaseRequest, given: Mapping[str, Any]) -> object:
        seed = given.get("seed")
        if not isinstance(seed, dict):
            raise ControlRefused("seed must be an object, see vendor_sandbox.seed")
        self._sandbox.seed(seed, add=given.get("add") is True)
        return {}

    async def _reset(self, _request: web.BaseRequest, _given: Mapping[str, Any]) -> object:
        self._sandbox.reset()
        for listener in self._listeners.values():
            await listener.open()
        return {}

    async def _switch(self, _request: web.BaseRequest, given: Mapping[str, Any]) -> object:
        switches = self._sandbox.switches.changed(given)
        self._sandbox.set_switches(switches)
        return {name: getattr(switches, name) for name in switches.__dataclass_fields__}

    async def _listen(self, _request: web.BaseRequest, given: Mapping[str, Any]) -> object:
        system, wanted = given.get("system"), given.get("open")
        if system not in SYSTEMS or not isinstance(wanted, bool):
            raise ControlRefused(f"system must be one of: {', '.join(SYSTEMS)}; open must be true or false")
        listener = self._listeners[system]
        if wanted:
            await listener.open()
        else:
            listener.close()
        return {}

    async def _dispense(self, _request: web.BaseRequest, given: Mapping[str, Any]) -> object:
        rest = {name: value for name, value in given.items() if name not in {"study_id", "mode"}}
        self._sandbox.dispense(given.get("study_id"), given.get("mode"), rest)
        return {}

    async def _undispense(self, _request: web.BaseRequest, given: Mapping[str, Any]) -> object:
        self._sandbox.undispense(*_kit(given), given.get("status", 17))
        return {}

    async def _roll_back(self, _request: web.BaseRequest, given: Mapping[str, Any]) -> object:
        self._sandbox.kit(*_kit(given))
        return {"rolled_back": self._sandbox.roll_back(*_kit(given))}

    async def _expire_tokens(self, _request: web.BaseRequest, given: Mapping[str, Any]) -> object:
        return {"ended": self._sandbox.expire_tokens(given.get("system"))}

    async def _unlock(self, _request: web.BaseRequest, _given: Mapping[str, Any]) -> object:
        self._sandbox.unlock()
        return {}


def _kit(given: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    return given.get("study_id"), given.get("mode"), given.get("inventory_id")


async def _given(request: web.BaseRequest) -> Mapping[str, Any]:
    body = await request.read()
    try:
        value = json.loads(body) if body else {}
    except ValueError as error:
        raise ControlRefused("the body must be JSON") from error
    if not isinstance(value, dict):
        raise ControlRefused("the body must be an object")
    return value


def _number(request: web.BaseRequest, name: str, default: float) -> float:
    try:
        return float(request.query.get(name, default))
    except ValueError as error:
        raise ControlRefused(f"{name} must be a number") from error


def _timeout(request: web.BaseRequest) -> float:
    return min(_number(request, "timeout", 10), LONGEST_WAIT_S)
