"""The client of the control interface: synchronous, standard library only."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit


class SandboxRefused(ValueError):
    """The sandbox did not accept a control request; the message says what is allowed."""


class SandboxControl:
    """Steers a running sandbox and reads its records.

    Each method is one short request. Those that wait (`at_least`, `held`, `idle`) have an `async` twin that does not
    block the event loop.

    Args:
        control_url: the `control_url` that the sandbox prints.
    """

    def __init__(self, control_url: str) -> None:
        parts = urlsplit(control_url)
        assert parts.hostname is not None, control_url
        self._host, self._port = parts.hostname, parts.port

    def addresses(self) -> dict[str, str]:
        """Where the sandbox listens: `openspecimen_url`, `clinical_one_url`, `token_url`, `control_url`."""
        found: dict[str, str] = self._send("GET", "/addresses")
        return found

    def seed(self, seed: Mapping[str, Any], *, add: bool = False) -> None:
        """Start from other data (sessions and tokens end), or add to what there is."""
        self._send("POST", "/seed", {"seed": seed, "add": add})

    def reset(self) -> None:
        """Back to the first seed, switches and listeners; faults, journal and remembered effects are forgotten."""
        self._send("POST", "/reset")

    def add_fault(self, system: str, kind: str, **rule: Any) -> int:
        """Add a fault rule (see `vendor_sandbox.faults`); returns its id."""
        added = self._send("POST", "/faults", {"system": system, "kind": kind, **rule})
        return int(added["id"])

    def faults(self) -> list[dict[str, Any]]:
        """The rules in force, with how many requests each has `seen` and `applied`."""
        found: list[dict[str, Any]] = self._send("GET", "/faults")
        return found

    def remove_faults(self, fault_id: int | None = None) -> None:
        """Drop one rule, or all; what they hold goes on."""
        self._send("DELETE", "/faults", id=fault_id)

    def effects(
        self,
        *,
        system: str | None = None,
        effect: str | None = None,
        since: int = 0,
        at_least: int = 0,
        timeout_s: float = 10,
    ) -> list[dict[str, Any]]:
        """The effects after number `since`; waits until there are `at_least` so many, or the time is over."""
        found: list[dict[str, Any]] = self._send(
            "GET", "/effects", system=system, effect=effect, since=since, at_least=at_least, timeout=timeout_s
        )
        return found

    async def wait_effects(self, at_least: int, **chosen: Any) -> list[dict[str, Any]]:
        """`effects`, waiting without blocking the event loop."""
        return await asyncio.to_thread(self.effects, at_least=at_least, **chosen)

    def requests(
        self,
        *,
        system: str | None = None,
        call: str | None = None,
        since: int = 0,
        finished: bool = False,
        at_least: int = 0,
        timeout_s: float = 10,
    ) -> list[dict[str, Any]]:
        """The journal after number `since`; waits until it has `at_least` so many entries, or the time is over."""
        wanted = "true" if finished else None
        found: list[dict[str, Any]] = self._send(
            "GET",
            "/requests",
            system=system,
            call=call,
            since=since,
            finished=wanted,
            at_least=at_least,
            timeout=timeout_s,
        )
        return found

    def counts(self) -> dict[str, int]:
        """How many requests of each call have arrived since the last reset; cheap however many there were."""
        found: dict[str, int] = self._send("GET", "/counts")
        return found

    async def wait_requests(self, at_least: int, **chosen: Any) -> list[dict[str, Any]]:
        """`requests`, waiting without blocking the event loop."""
        return await asyncio.to_thread(self.requests, at_least=at_least, **chosen)

    def held(self, *, at_least: int = 1, fault_id: int | None = None, timeout_s: float = 10) -> list[dict[str, Any]]:
        """The requests that `hold` rules keep waiting; waits until there are `at_least` so many."""
        found: list[dict[str, Any]] = self._send("GET", "/held", at_least=at_least, fault=fault_id, timeout=timeout_s)
        return found

    async def wait_held(self, at_least: int = 1, **chosen: Any) -> list[dict[str, Any]]:
        """`held`, waiting without blocking the event loop."""
        return await asyncio.to_thread(self.held, at_least=at_least, **chosen)

    def release(self, fault_id: int | None = None) -> int:
        """Let held requests go on, all or those of one rule; returns how many."""
        return int(self._send("POST", "/release", {"fault": fault_id})["released"])

    def idle(self, *, timeout_s: float = 10) -> bool:
        """Wait until no request is in progress, those whose caller has gone included."""
        return bool(self._send("GET", "/idle", timeout=timeout_s)["idle"])

    async def wait_idle(self, *, timeout_s: float = 10) -> bool:
        """`idle`, waiting without blocking the event loop."""
        return await asyncio.to_thread(self.idle, timeout_s=timeout_s)

    def dispense(self, study_id: str, mode: str, inventory_id: str, subject_id: str, **given: Any) -> None:
        """Give a kit to a subject: `visit_id`, `instance_number`, `at`, `status`, `confirmed` may be given."""
        where = {"study_id": study_id, "mode": mode, "inventory_id": inventory_id, "subject_id": subject_id}
        self._send("POST", "/dispense", {**where, **given})

    def undispense(self, study_id: str, mode: str, inventory_id: str, *, status: int = 17) -> None:
        """Change the status of a kit's dispensation: 17 and 7 take it from the subject, others do not."""
        where = {"study_id": study_id, "mode": mode, "inventory_id": inventory_id}
        self._send("POST", "/undispense", {**where, "status": status})

    def roll_back(self, study_id: str, mode: str, inventory_id: str) -> bool:
        """Roll a kit's dispensation back; False if it had none."""
        where = {"study_id": study_id, "mode": mode, "inventory_id": inventory_id}
        return bool(self._send("POST", "/rollback", where)["rolled_back"])

    def expire_tokens(self, system: str | None = None) -> int:
        """End all tokens, or those of `openspecimen` or `clinical_one`; returns how many."""
        return int(self._send("POST", "/expire-tokens", {"system": system})["ended"])

    def unlock(self) -> None:
        """Open OpenSpecimen accounts that failed log-ins have locked."""
        self._send("POST", "/unlock")

    def listening(self, system: str, *, open: bool) -> None:  # noqa: A002 - reads well where it is called
        """Refuse connections to one system (and drop those there are), or accept them again on the same port."""
        self._send("POST", "/listening", {"system": system, "open": open})

    def switches(self, **changes: Any) -> dict[str, Any]:
        """Change switches (see `vendor_sandbox.switches`); returns all of them."""
        found: dict[str, Any] = self._send("POST", "/switches", changes)
        return found

    def state(self) -> dict[str, Any]:
        """What stands in both systems."""
        found: dict[str, Any] = self._send("GET", "/state")
        return found

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None = None, **query: Any) -> Any:
        given = {name: value for name, value in query.items() if value is not None}
        target = f"{path}?{urlencode(given)}" if given else path
        # http.client knows no proxies, so none that is set in the environment is asked.
        connection = http.client.HTTPConnection(self._host, self._port, timeout=90)
        try:
            content = None if body is None else json.dumps(body).encode()
            connection.request(method, target, content, {"Content-Type": "application/json", "Connection": "close"})
            response = connection.getresponse()
            value = json.loads(response.read())
        finally:
            connection.close()
        if response.status != 200:
            raise SandboxRefused(value["error"])
        return value
