"""Both vendors, their data, the faults and the records, without any listening socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote

from aiohttp import web

from vendor_sandbox import seed as seeds
from vendor_sandbox.answers import Answer, Cut
from vendor_sandbox.clinical_one import ClinicalOne
from vendor_sandbox.clinical_one_world import STATUS_NAMES, ClinicalOneWorld, Kit, StudyMode
from vendor_sandbox.delivery import deliver
from vendor_sandbox.effects import EffectLog
from vendor_sandbox.faults import Faults, Rule
from vendor_sandbox.kept_world import WorldFile
from vendor_sandbox.openspecimen import OpenSpecimen
from vendor_sandbox.openspecimen_world import OpenSpecimenWorld
from vendor_sandbox.requests import Journal, JournalEntry, Route, System, VendorRequest
from vendor_sandbox.seeding import SeedRefused, dispense, plant
from vendor_sandbox.state import snapshot
from vendor_sandbox.switches import Switches
from vendor_sandbox.tokens import TokenEndpoint
from vendor_sandbox.uuids import normalised
from vendor_sandbox.waiting import Changes


class Endpoint(Protocol):
    """One vendor system: what it is asked, and what it answers. Handling never waits, so it is atomic."""

    def route(self, method: str, segments: Sequence[str]) -> Route:
        """Which call a request is for."""
        ...

    def handle(self, request: VendorRequest) -> Answer:
        """Answer a request, applying its effect."""
        ...

    def forget_token(self, request: VendorRequest) -> None:
        """End the token or session a request carries."""
        ...


@dataclass(slots=True)
class Held:
    """A request that a `hold` keeps waiting."""

    rule_id: int
    request: VendorRequest
    released: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class Exchange:
    """A request on its way, as the fault kinds see it."""

    sandbox: Sandbox
    endpoint: Endpoint
    request: VendorRequest
    rule_id: int = 0

    async def hold(self) -> None:
        """Wait until the control interface lets the request go on."""
        await self.sandbox.hold(self.rule_id, self.request)


class Sandbox:
    """The stand-ins.

    Args:
        effect_log: the JSON Lines file effects are appended to; None keeps them in memory only.
        seed: the data to start with and to go back to on reset; None is the default seed.
        switches: where installations differ, see `Switches`.
        world: the file that keeps what they know, see `WorldFile`; None keeps it in memory only.
    """

    def __init__(
        self, effect_log: Path | None, seed: seeds.Seed | None, switches: Switches, world: Path | None = None
    ) -> None:
        self._file = None if world is None else WorldFile(world)
        self._first_seed = seeds.default() if seed is None else seed
        self._first_switches = switches
        self.changes = Changes()
        self.effects = EffectLog(effect_log, self.changes.notify)
        self.journal = Journal(self.changes.notify)
        self.faults = Faults()
        self.held: list[Held] = []
        self.switches = switches
        openspecimen, clinical_one = (self._file and self._file.load()) or self._planted(self._first_seed)
        self.openspecimen = OpenSpecimen(openspecimen, switches, self.effects)
        self.clinical_one = ClinicalOne(clinical_one, switches, self.effects)
        self.tokens = TokenEndpoint(clinical_one, switches)
        self.endpoints: dict[System, Endpoint] = {
            "openspecimen": self.openspecimen,
            "clinical_one": self.clinical_one,
            "token": self.tokens,
        }

    def _planted(self, seed: seeds.Seed) -> tuple[OpenSpecimenWorld, ClinicalOneWorld]:
        openspecimen, clinical_one = OpenSpecimenWorld(), ClinicalOneWorld()
        plant(seed, openspecimen, clinical_one, self.switches.zone)
        return openspecimen, clinical_one

    def keep(self) -> None:
        """Write what stands now into the file, if there is one."""
        if self._file:
            self._file.keep(self.openspecimen.world, self.clinical_one.world)

    def set_switches(self, switches: Switches) -> None:
        """Put other switches in force."""
        self.switches = self.openspecimen.switches = self.clinical_one.switches = self.tokens.switches = switches

    def seed(self, seed: seeds.Seed, *, add: bool) -> None:
        """Start from other data, or add to what there is.

        Raises:
            SeedRefused: the seed is wrong; with `add` the data may have been changed in part.
        """
        if add:
            plant(seed, self.openspecimen.world, self.clinical_one.world, self.switches.zone)
            return
        self.openspecimen.world, self.clinical_one.world = self._planted(seed)
        self.tokens.world = self.clinical_one.world

    def reset(self) -> None:
        """Back to the first seed and switches; faults, journal and the effects in memory are forgotten."""
        self.remove_faults()
        self.set_switches(self._first_switches)
        self.seed(self._first_seed, add=False)
        self.journal.forget()
        self.effects.forget()

    def remove_faults(self, rule_id: int | None = None) -> None:
        """Drop one fault rule, or all; requests they hold go on."""
        self.faults.remove(rule_id)
        self.release(rule_id)

    async def hold(self, rule_id: int, request: VendorRequest) -> None:
        """Keep a request waiting until it is released."""
        held = Held(rule_id, request)
        self.held.append(held)
        self.changes.notify()
        await held.released.wait()

    def release(self, rule_id: int | None = None) -> int:
        """Let held requests go on, all or those of one rule; returns how many."""
        chosen = [held for held in self.held if rule_id in (None, held.rule_id)]
        self.held = [held for held in self.held if held not in chosen]
        for held in chosen:
            held.released.set()
        return len(chosen)

    def study_mode(self, study_id: object, mode: object) -> StudyMode:
        """A study's data in one mode.

        Raises:
            SeedRefused: there is none.
        """
        found = self.clinical_one.world.studies.get(normalised(study_id) or "", {}).get(str(mode))
        if found is None:
            raise SeedRefused("study_id or mode: the sandbox has no such study in this mode")
        return found

    def kit(self, study_id: object, mode: object, inventory_id: object) -> Kit:
        """A kit of one study and mode.

        Raises:
            SeedRefused: there is none.
        """
        kit = self.study_mode(study_id, mode).kits.get(normalised(inventory_id) or "")
        if kit is None:
            raise SeedRefused("inventory_id: the sandbox has no such kit in this study and mode")
        return kit

    def roll_back(self, study_id: object, mode: object, inventory_id: object) -> bool:
        """Roll a kit's dispensation back; False if there is none to roll back."""
        with suppress(SeedRefused):
            current = self.kit(study_id, mode, inventory_id).current
            if current is not None and not current.rolled_back:
                current.rolled_back = True
                return True
        return False

    def undispense(self, study_id: object, mode: object, inventory_id: object, status: object) -> None:
        """Give a kit's dispensation another status (of `STATUS_NAMES`).

        Raises:
            SeedRefused: there is none, or no such status.
        """
        current = self.kit(study_id, mode, inventory_id).current
        if current is None or not isinstance(status, int) or status not in STATUS_NAMES:
            raise SeedRefused("the kit was never dispensed, or status is not one of the documented numbers")
        current.status = status

    def dispense(self, study_id: object, mode: object, given: dict[str, Any]) -> None:
        """Give a kit to a subject, see `seeding.dispense`."""
        dispense(self.study_mode(study_id, mode), given, "dispense")
        self.keep()

    async def serve(self, system: System, incoming: web.BaseRequest) -> web.StreamResponse:
        """Take one request through journal, faults, vendor and delivery."""
        endpoint = self.endpoints[system]
        request = await self._arrived(system, endpoint, incoming)
        entry = self.journal.opened(request)
        try:
            answer = await self._answer(endpoint, request, entry)
            entry.status = None if isinstance(answer.delivery, Cut) else answer.status
            return await deliver(incoming, answer)
        finally:
            self.journal.closed(entry)

    async def _arrived(self, system: System, endpoint: Endpoint, incoming: web.BaseRequest) -> VendorRequest:
        body = await incoming.read()
        raw_path, _, raw_query = incoming.raw_path.partition("?")
        segments = [unquote(part) for part in raw_path.split("/")[1:]]
        peer = None if incoming.transport is None else incoming.transport.get_extra_info("peername")
        return VendorRequest(
            number=self.journal.next_number(),
            system=system,
            method=incoming.method,
            path="/" + "/".join(segments),
            route=endpoint.route(incoming.method, segments),
            query=dict(parse_qsl(raw_query, keep_blank_values=True)),
            headers=incoming.headers,
            body=body,
            peer_port=peer[1] if peer else 0,
            request_id=incoming.headers.get("X-Request-Id", ""),
        )

    async def _answer(self, endpoint: Endpoint, request: VendorRequest, entry: JournalEntry) -> Answer:
        if self.switches.latency_ms:
            await self.changes.pause(self.switches.latency_ms / 1000)
        rules = self.faults.hitting(request)
        if not rules:
            return self._handle(endpoint, request, entry)
        entry.faults = [rule.given["kind"] for rule in rules]
        exchange = Exchange(self, endpoint, request)
        answer = await self._before(rules, exchange)
        if answer is None:
            answer = self._handle(endpoint, request, entry)
            for rule in rules:
                exchange.rule_id = rule.id
                answer = await rule.fault.after(exchange, answer)
        return answer

    async def _before(self, rules: Sequence[Rule], exchange: Exchange) -> Answer | None:
        for rule in rules:
            exchange.rule_id = rule.id
            answer = await rule.fault.before(exchange)
            if answer is not None:
                return answer
        return None

    def _handle(self, endpoint: Endpoint, request: VendorRequest, entry: JournalEntry) -> Answer:
        entry.effects_before = self.effects.count
        answer = endpoint.handle(request)
        if self.effects.count > entry.effects_before:
            self.keep()
        return answer

    def state(self) -> dict[str, Any]:
        """What stands now, as plain values; for looking at, not for seeding."""
        return snapshot(self.openspecimen.world, self.clinical_one.world)

    def unlock(self) -> None:
        """Open locked OpenSpecimen accounts."""
        for user in self.openspecimen.world.users.values():
            user.locked, user.failures = False, 0

    def expire_tokens(self, system: str | None = None) -> int:
        """End all tokens, or those of one system; returns how many."""
        ended = 0
        if system in {None, "openspecimen"}:
            ended += len(self.openspecimen.world.sessions)
            self.openspecimen.world.sessions.clear()
        if system in {None, "clinical_one"}:
            ended += len(self.clinical_one.world.tokens)
            self.clinical_one.world.tokens.clear()
        return ended


def read_seed(path: Path) -> seeds.Seed:
    """A seed from a JSON file.

    Raises:
        SeedRefused: it cannot be read.
    """
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise SeedRefused(f"{path}: {error}") from error
    if not isinstance(value, dict):
        raise SeedRefused(f"{path}: the seed must be an object")
    return value
