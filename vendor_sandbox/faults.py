"""Fault rules: which requests they hit, and in what order they act.

A rule is a JSON object. What it matches: `system` (needed), and `call` (its name) or `method` and `path` (a glob);
`body_contains` (a text) narrows it further. When: `nth` is 1-based among the matching requests since the rule was
added (default 1) or `"every"`; `times` is how many it hits from there (default 1, for `every` no limit). What: `kind`
and the kind's own parameters, see `vendor_sandbox.fault_kinds` and
`vendor_sandbox.fault_answers`.

All rules that hit a request act, in the order they were added: first each one's part before the request is applied,
then the rest. The first that puts an answer of its own in the place of applying ends the former.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from fnmatch import fnmatchcase
from typing import Any, get_type_hints

from vendor_sandbox.fault_answers import (
    CutConnection,
    Empty,
    Oversize,
    ProxyPage,
    Redirect,
    Refuse,
    ResetPassword,
    ServerError,
    SettingsMissing,
    Throttle,
    Truncate,
    WrongBody,
)
from vendor_sandbox.fault_kinds import Delay, Drip, ExpireToken, Fault, Hold, Rollback, StaleList
from vendor_sandbox.requests import SYSTEMS, VendorRequest

CALLS_BY_SYSTEM: Mapping[str, frozenset[str]] = {
    "openspecimen": frozenset({"login", "logout", "read_registration", "update_registration", "find_registrations"}),
    "token": frozenset({"token"}),
    "clinical_one": frozenset(
        {
            "dispensation",
            "dispensation_history",
            "register_device",
            "access_code",
            "deregister_device",
            "list_exceptions",
            "create_exception",
            "read_exception",
            "update_exception",
            "delete_exception",
        }
    ),
}

KINDS: Mapping[str, type[Fault]] = {
    "refuse": Refuse,
    "throttle": Throttle,
    "server_error": ServerError,
    "cut": CutConnection,
    "delay": Delay,
    "hold": Hold,
    "truncate": Truncate,
    "wrong_body": WrongBody,
    "oversize": Oversize,
    "proxy_page": ProxyPage,
    "expire_token": ExpireToken,
    "settings_missing": SettingsMissing,
    "rollback": Rollback,
    "stale_list": StaleList,
    "empty": Empty,
    "reset_password": ResetPassword,
    "drip": Drip,
    "redirect": Redirect,
}

_MATCHING = ("system", "call", "method", "path", "body_contains", "nth", "times", "kind")


class FaultRefused(ValueError):
    """The rule makes no sense; the message says what is allowed."""


@dataclass(slots=True)
class Rule:
    """A fault and the requests it hits. `seen` counts the matching requests, `applied` those it hit."""

    id: int
    given: dict[str, Any]
    system: str
    call: str | None
    method: str | None
    path: str | None
    body_contains: bytes | None
    first: int
    times: int | None
    fault: Fault
    seen: int = 0
    applied: int = 0

    def hits(self, request: VendorRequest) -> bool:
        """Whether this request is one the rule acts on; counts it if it matches."""
        if not self._matches(request):
            return False
        self.seen += 1
        if self.seen < self.first or (self.times is not None and self.applied >= self.times):
            return False
        self.applied += 1
        return True

    def _matches(self, request: VendorRequest) -> bool:
        return (
            request.system == self.system
            and (self.call is None or request.route.call == self.call)
            and (self.method is None or request.method == self.method)
            and (self.path is None or fnmatchcase(request.path, self.path))
            and (self.body_contains is None or self.body_contains in request.body)
        )

    def as_json(self) -> dict[str, Any]:
        """The rule as given, with its id and counters."""
        return {"id": self.id, **self.given, "seen": self.seen, "applied": self.applied}


class Faults:
    """The rules in force."""

    def __init__(self) -> None:
        self._next_id = 1
        self.rules: list[Rule] = []

    def add(self, value: object) -> Rule:
        """Add a rule.

        Raises:
            FaultRefused: it is not one.
        """
        if not isinstance(value, Mapping):
            raise FaultRefused("a fault rule is an object")
        rule = _read_rule(self._next_id, dict(value))
        self._next_id += 1
        self.rules.append(rule)
        return rule

    def hitting(self, request: VendorRequest) -> list[Rule]:
        """The rules that act on this request; counts it in all that match."""
        return [rule for rule in self.rules if rule.hits(request)] if self.rules else []

    def remove(self, rule_id: int | None = None) -> None:
        """Drop one rule, or all."""
        self.rules = [] if rule_id is None else [rule for rule in self.rules if rule.id != rule_id]


def _read_rule(rule_id: int, given: dict[str, Any]) -> Rule:
    system, call, kind = given.get("system"), given.get("call"), str(given.get("kind"))
    if system not in SYSTEMS:
        raise FaultRefused(f"system must be one of: {', '.join(SYSTEMS)}")
    if call is not None and call not in CALLS_BY_SYSTEM[system]:
        raise FaultRefused(f"call must be one of: {', '.join(sorted(CALLS_BY_SYSTEM[system]))}")
    if kind not in KINDS:
        raise FaultRefused(f"kind must be one of: {', '.join(sorted(KINDS))}")
    nth = given.get("nth", 1)
    if nth != "every" and not (isinstance(nth, int) and nth >= 1):
        raise FaultRefused('nth must be a whole number from 1, or "every"')
    times = given.get("times", None if nth == "every" else 1)
    if times is not None and not (isinstance(times, int) and times >= 1):
        raise FaultRefused("times must be a whole number from 1, or null for no limit")
    contains = given.get("body_contains")
    parameters = {name: value for name, value in given.items() if name not in _MATCHING}
    return Rule(
        id=rule_id,
        given=given,
        system=system,
        call=call,
        method=given.get("method"),
        path=given.get("path"),
        body_contains=None if contains is None else str(contains).encode(),
        first=1 if nth == "every" else nth,
        times=times,
        fault=_read_fault(kind, parameters),
    )


def _read_fault(kind: str, parameters: dict[str, Any]) -> Fault:
    known = {entry.name: entry for entry in fields(KINDS[kind])}
    if unknown := set(parameters) - set(known):
        allowed = ", ".join(sorted(known)) or "none"
        raise FaultRefused(f"{kind} does not know: {', '.join(sorted(unknown))}; its parameters: {allowed}")
    for name, entry in known.items():
        if name not in parameters and entry.default is MISSING:
            raise FaultRefused(f"{kind} needs {name}")
    hints = get_type_hints(KINDS[kind])
    for name, value in parameters.items():
        if not _suits(value, hints[name]):
            raise FaultRefused(f"{kind}: {name} is of the wrong type")
    fault = KINDS[kind](**parameters)
    if problem := fault.problem():
        raise FaultRefused(f"{kind}: {problem}")
    return fault


def _suits(value: object, hint: Any) -> bool:
    """Whether a JSON value is of a parameter's type; a whole number will do where a float is wanted."""
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, hint) or (isinstance(value, int) and isinstance(0.0, hint))
