"""Random volume: runners are killed at random, under random faults, over many cases that share exceptions.

``python -m tests.crash.volume --kills 5000 --seed 1`` (``make crash KILLS=5000 SEED=1``) plays world after world, each from its
own seed, which is printed; one world again: ``--kills 1 --seed THAT``. A seed fixes requests, faults, boundaries and moments, not
how the machine schedules them. Only kills that hit a runner with a lease are counted. Results are appended to a file, and shown
together; ``--kills 0`` shows them alone.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr

from onboarding.keys import LedgerKey
from onboarding.ledger.ledger import migrate
from onboarding.ledger.states import StepName
from onboarding.ledger.views import CaseView
from onboarding.settings import Settings
from tests.crash.auditor import Evidence, Limits, applied_late, audit
from tests.crash.lateness import excused
from tests.crash.person import RIGHTLY_ASKED, Person
from tests.crash.points import LONGEST_WAIT_S, SETTINGS, judged, quick_folder
from tests.crash.result import Result
from tests.crash.runners import Runners, Running, running_runners
from tests.crash.worlds import (
    CASES,
    SETTINGS_OF_A_WORLD,
    STEP_OF,
    Weather,
    other_addresses,
    request,
    requests_of,
    world_seed,
)
from tests.steps.lab import Lab, laboratory
from tests.support.postgres import PostgresServer, running_postgres

__all__ = ["Result", "ledger_settings", "play", "request", "volume"]

RUNNERS: Final = 3
WORLDS_AT_ONCE: Final = 8
KILLS_IN_A_WORLD: Final = 40
BOUNDARIES: Final = 60
_KILL_AFTER_S: Final = 0.4
_LONGEST_LIFE_S: Final = 15.0  # it may find nothing to do, and would wait as long as the cases do
_IDLE_S: Final = 0.05
_ATTEND_EVERY_S: Final = 1.0
_OVERLAP: Final = 60
"""Requests of the journal that are read again, since their faults may not have been known yet."""


class World:
    """One laboratory full of cases, with runners that are killed until everything is done or enough have died."""

    def __init__(self, lab: Lab, runners: Runners, number: int) -> None:
        self.result = Result(worlds=1, cases=CASES)
        self._lab = lab
        self._runners = runners
        self._number = number
        self._person = Person(lab)
        self._journal = 0
        self._last_fault: dict[StepName, str] = {}

    async def play(self) -> Result:
        """Play it to the end and judge it."""
        for wanted in requests_of(self._number):
            await self._lab.open(wanted)
        others = [asyncio.create_task(Weather(self._lab, self._number).rage()), asyncio.create_task(self._attend())]
        try:
            await asyncio.gather(*(self._lives(place) for place in range(RUNNERS)))
        finally:
            for other in others:
                other.cancel()
                with suppress(asyncio.CancelledError):
                    await other
        limits = Limits(*(SETTINGS_OF_A_WORLD[name] for name in ("max_sends", "max_probes", "max_idle_takings")))
        evidence = await judged(self._lab, self._person.attend, limits=limits, for_a_person=RIGHTLY_ASKED)
        self._conclude(evidence)
        return self.result

    def _conclude(self, evidence: Evidence) -> None:
        result = self.result
        result.effects = len(evidence.effects)
        result.faults = sum(bool(entry["faults"]) for entry in evidence.requests)
        result.late, result.repeated_late = len(applied_late(evidence)), excused(evidence)
        result.decided = self._person.decided
        result.problems = [f"seed {self._number}: {problem}" for problem in audit(evidence)]
        if result.problems:
            _say(f"seed {self._number}:\n{_history(evidence)}")

    async def _attend(self) -> None:
        while True:
            await asyncio.sleep(_ATTEND_EVERY_S)
            await self._person.attend()

    async def _lives(self, place: int) -> None:
        draw = random.Random(f"{self._number} {place}")  # noqa: S311 - no secret
        while self.result.kills < KILLS_IN_A_WORLD:
            by_boundary = draw.random() < 0.5
            number, moment = draw.randint(1, BOUNDARIES), draw.expovariate(1 / _KILL_AFTER_S)
            width, elsewhere = draw.choice([1, 1, 4]), draw.random() < 0.02
            if not await self._something_is_due():
                return
            environment = other_addresses(self._lab.environment) if elsewhere else None
            at = number if by_boundary else 0
            running = self._runners.start(self._lab, width=width, at=at, environment=environment)
            if not by_boundary:  # however long its start takes on a busy machine
                await asyncio.wait([asyncio.ensure_future(running.began())], timeout=_LONGEST_LIFE_S)
            await asyncio.wait([running.outcome], timeout=_LONGEST_LIFE_S if by_boundary else moment)
            if not running.outcome.done():
                await running.kill()
            outcome = (await running.outcome).check()
            if outcome.killed:
                await self._count(running, outcome.boundaries[-1] if outcome.boundaries else "at the start")

    async def _something_is_due(self) -> bool:
        """Wait until a case is due; no when everything is done, or nothing gets due any more."""
        bench, end = self._lab.bench, time.monotonic() + LONGEST_WAIT_S
        while not await bench.find_due(1):
            if time.monotonic() > end or all(case.status == "done" for case in bench.ledger.cases()):
                return False
            await asyncio.sleep(_IDLE_S)
        return True

    async def _count(self, running: Running, boundary: str) -> None:
        ledger, actor, leased = self._lab.bench.ledger, f"runner {running.number}", []
        for case in ledger.cases():
            if case.lease_left_s > 0:
                taken = [event for event in ledger.events(case.id) if event.kind == "lease_taken"]
                leased += [case] if taken and taken[-1].actor == actor else []
        self.result.kills += bool(leased)
        self.result.idle_kills += not leased
        await self._read_faults()
        for case in leased:
            self.result.boundaries[boundary] += 1
            step = _current(case)
            fault = self._last_fault.get(step, "none") if step else "none"
            self.result.coverage[f"{_state(case)} | {fault}"] += 1

    async def _read_faults(self) -> None:
        since = max(0, self._journal - _OVERLAP)
        for entry in await asyncio.to_thread(self._lab.control.requests, since=since):
            self._journal = max(self._journal, entry["n"])
            step = STEP_OF.get(entry["call"])
            if step and entry["faults"]:
                self._last_fault[step] = str(entry["faults"][-1])


def _current(case: CaseView) -> StepName | None:
    return next((name for name, step in case.steps.items() if step.status not in ("done", "not_requested")), None)


def _state(case: CaseView) -> str:
    name = _current(case)
    if name is None:
        return "all steps done"
    step = case.steps[name]
    return f"{name} {step.status}{' in doubt' if step.intent.in_doubt else ''}"


def _history(evidence: Evidence) -> str:
    """Everything that happened, for whoever looks into a violation."""
    lines = [(entry["at"], f"effect {entry['effect']} {entry['key']}") for entry in evidence.effects]
    lines += [
        (one["at"], f"  {one['call']} {one['path']} {one['status']} {one['faults']}") for one in evidence.requests
    ]
    for case_id, trail in evidence.trails.items():
        lines += [
            (event.at.isoformat(), f"    {case_id} {event.actor} {event.kind} {event.step} {event.code} {event.detail}")
            for event in trail
        ]
    return "\n".join(f"{at} {line}" for at, line in sorted(lines))


@contextmanager
def ledger_settings(server: PostgresServer | None) -> Iterator[Mapping[str, Any]]:
    """Where a world's ledger is: a fresh PostgreSQL database, or (no server) the laboratory's own SQLite file."""
    if server is None:
        yield {}
        return
    with server.fresh_database() as url:
        key = LedgerKey.new_text()
        migrate(Settings(ledger_url=url, ledger_key=SecretStr(key)))
        yield {"ledger_url": url, "ledger_key": key}


async def play(seed: int, runners: Runners, server: PostgresServer | None) -> Result:
    """One world."""
    with quick_folder() as folder, ledger_settings(server) as ledger:
        async with laboratory(folder, world=world_seed(), **SETTINGS, **SETTINGS_OF_A_WORLD, **ledger) as lab:
            return await World(lab, runners, seed).play()


async def volume(kills: int, seed: int, *, server: PostgresServer | None = None, log: Path | None = None) -> Result:
    """Worlds from ``seed`` on, until so many kills have been counted; each one's result is appended to ``log``."""
    total, playing = Result(), 0
    numbers = iter(range(seed, sys.maxsize))
    began = time.monotonic()

    async def lane(runners: Runners) -> None:
        nonlocal playing
        while total.kills + playing * KILLS_IN_A_WORLD < kills:
            number = next(numbers)
            playing += 1
            result = await play(number, runners, server)
            playing -= 1
            total.add(result)
            if log is not None:
                append(log, number, "postgresql" if server else "sqlite", result)
                spent = time.monotonic() - began
                _say(f"seed {number}: {total.kills} kills, {len(total.problems)} violations, {spent:.0f} s")

    async with running_runners() as runners:
        while total.kills < kills:
            await asyncio.gather(*(lane(runners) for _ in range(WORLDS_AT_ONCE)))
    return total


def append(log: Path, seed: int, ledger: str, result: Result) -> None:
    """One line for one world."""
    with log.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"seed": seed, "ledger": ledger, **vars(result)}) + "\n")


def accumulated(log: Path) -> tuple[str, Result]:
    """What all worlds in a file came to, each as it was played last; and which seeds those are."""
    lines = [json.loads(line) for line in log.read_text("utf-8").splitlines()] if log.exists() else []
    worlds = {(line.pop("ledger"), line.pop("seed")): line for line in lines}
    total = Result()
    for world in worlds.values():
        values: dict[str, Any] = {name: Counter(one) if isinstance(one, dict) else one for name, one in world.items()}
        total.add(Result(**values))
    places = sorted({ledger for ledger, _ in worlds})
    return ", ".join(f"{place} {_ranges(worlds, place)}" for place in places), total


def _ranges(worlds: Iterable[tuple[str, int]], ledger: str) -> str:
    """Seeds as ``1-5 7``."""
    ranges: list[tuple[int, int]] = []
    for seed in sorted(seed for where, seed in worlds if where == ledger):
        first = ranges.pop()[0] if ranges and ranges[-1][1] == seed - 1 else seed
        ranges.append((first, seed))
    return " ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - a program that prints figures


def main() -> int:
    """The command line; status 1 if anything was violated."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--postgres", action="store_true", help="ledgers on a PostgreSQL server started for this run")
    parser.add_argument("--results", type=Path, default=Path("crash-results.jsonl"))
    given = parser.parse_args()
    _say(f"seeds from {given.seed} on; results go to {given.results}")
    with running_postgres() if given.postgres else nullcontext() as server:
        total = asyncio.run(volume(given.kills, given.seed, server=server, log=given.results))
    _say("\n".join(total.lines()))
    seeds, everything = accumulated(given.results)
    if everything.worlds > total.worlds:
        _say("\n".join([f"\nin all, seeds of {given.results}: {seeds}", *everything.lines()]))
    return 1 if total.problems else 0


if __name__ == "__main__":
    sys.exit(main())
