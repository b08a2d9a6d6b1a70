"""Random volume: runners are killed at random, under random faults, over many cases that share exceptions.

``python -m tests.crash.volume --kills 5000 --seed 1`` (``make crash KILLS=5000 SEED=1``) plays world after world, each from its
own seed, which is printed; one world again: ``--kills 1 --seed THAT``. A seed fixes faults, boundaries and moments, not how the
machine schedules them. Only kills that hit a runner with a lease are counted. Results are appended to a file.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr

from onboarding.keys import LedgerKey
from onboarding.ledger.ledger import migrate
from onboarding.ledger.states import StepName, StepStatus
from onboarding.ledger.views import CaseView
from onboarding.settings import Settings
from tests.crash.auditor import DUPLICATES, Evidence, Limits, audit
from tests.crash.faults import FAULTS
from tests.crash.points import SETTINGS, judged, quick_folder
from tests.crash.runners import Runners, Running, running_runners
from tests.steps.lab import Lab, laboratory
from tests.support.postgres import PostgresServer, running_postgres
from vendor_sandbox import seed as seeds

CASES: Final = 10
RUNNERS: Final = 3
WORLDS_AT_ONCE: Final = 5
KILLS_IN_A_WORLD: Final = 40
BOUNDARIES: Final = 60
PATIENT: Final[dict[str, Any]] = {"max_sends": 50, "max_probes": 100}
"""So that no storm is long enough to use a limit up, and every case must end done."""
_FAULT_EVERY_S: Final = 0.15
_STORM_LASTS_S: Final = 15.0  # waits double each time: a storm without an end would make the last case wait for minutes
_KILL_AFTER_S: Final = 0.4
_STEP_OF: Final = {
    **dict.fromkeys(("login", "read_registration", "update_registration"), StepName.REGISTRATION),
    **dict.fromkeys(("dispensation", "dispensation_history", "token"), StepName.DISPENSATION),
    **dict.fromkeys(("register_device", "access_code"), StepName.DEVICE),
    **dict.fromkeys(("list_exceptions", "create_exception"), StepName.DND_EXCEPTION),
}


@dataclass
class Result:
    """What one world, or many, came to. ``coverage`` counts kills by the leased step's state and the fault before."""

    worlds: int = 0
    kills: int = 0
    idle_kills: int = 0
    faults: int = 0
    effects: int = 0
    cases: int = 0
    problems: list[str] = field(default_factory=list)
    boundaries: Counter[str] = field(default_factory=Counter)
    coverage: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Result") -> None:
        """Count another one in."""
        for name in ("worlds", "kills", "idle_kills", "faults", "effects", "cases"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.problems += other.problems
        self.boundaries += other.boundaries
        self.coverage += other.coverage

    @property
    def duplicates(self) -> int:
        """Things that happened twice."""
        return sum(any(f"{rule}:" in problem for rule in DUPLICATES) for problem in self.problems)

    @property
    def losses(self) -> int:
        """Cases that were lost, or hang."""
        return sum(any(f"{rule}:" in one for rule in ("none_lost", "all_settled")) for one in self.problems)

    def lines(self) -> Iterator[str]:
        """The figures, for people."""
        others = len(self.problems) - self.duplicates - self.losses
        yield f"{self.kills} kills of runners with a lease ({self.idle_kills} more of runners without one)"
        yield f"{self.worlds} worlds, {self.cases} cases, {self.effects} effects, {self.faults} faults"
        yield f"duplicates {self.duplicates}, losses {self.losses}, other violations {others}"
        if not self.problems and self.kills:  # none in n: the rule of three
            yield f"with 95 % confidence fewer than {3 / self.kills:.2%} of kills lose or repeat anything"
        yield f"boundaries reached: {', '.join(f'{name} {count}' for name, count in self.boundaries.most_common())}"
        yield from self._table()
        yield from self.problems

    def _table(self) -> Iterator[str]:
        pairs = [tuple(name.split(" | ")) for name in self.coverage]
        kinds = sorted({kind for _, kind in pairs})
        yield "kills by the leased step's state and the fault it had met last: " + ", ".join(kinds)
        for state in sorted({state for state, _ in pairs}):
            yield f"  {state:28}" + " ".join(f"{self.coverage[f'{state} | {kind}']:5}" for kind in kinds)
        states = {f"{step} {status}" for step in StepName for status in (StepStatus.PENDING, StepStatus.OPEN)}
        missed = states - {state.removesuffix(" in doubt") for state, _ in pairs} - {"dispensation open"}
        yield f"never killed in: {', '.join(sorted(missed)) or 'none of the states there are'}"


def request(number: int) -> dict[str, Any]:
    """What the n-th subject asks for; every other one shares an exception with it."""
    one = seeds.SeededSubject(number)
    device: dict[str, Any] = {"inventory_id": one.inventory_id, "m_subject_id": one.m_subject_id}
    if one.connection == "CloudtoCloud":
        device["vendor_code"] = "VENDOR-1"
    else:
        device["subject_number"] = one.subject_number
    return {
        "registration": {
            "id": one.registration_id,
            "cp_id": seeds.CP_ID,
            "participant": {"id": one.participant_id},
            "external_subject_id": f"TEST_{number:04d}",
            "registration_date": "2014-04-21",
        },
        "subject": {"study_id": seeds.STUDY_ID, "mode": "test", "subject_id": one.subject_id},
        "device": device,
        "dnd_exception": {
            "all_countries": False,
            "countries": ["US" if number % 2 else "DE"],
            "kit_type_src_ids": [seeds.KIT_TYPE_ID],
            "visit_dnd": [{"visit_src_id": seeds.VISIT_ID, "dnd": 2}],
        },
    }


class World:
    """One laboratory full of cases, with runners that are killed until everything is done or enough have died."""

    def __init__(self, lab: Lab, runners: Runners, number: int) -> None:
        self.result = Result(worlds=1, cases=CASES)
        self._lab = lab
        self._runners = runners
        self._number = number

    async def play(self) -> Result:
        """Play it to the end and judge it."""
        for number in range(1, CASES + 1):
            await self._lab.open(request(number))
        weather = asyncio.create_task(self._faults())
        try:
            await asyncio.gather(*(self._lives(place) for place in range(RUNNERS)))
        finally:
            weather.cancel()
        evidence = await judged(self._lab, limits=Limits(PATIENT["max_sends"], PATIENT["max_probes"]))
        self.result.effects = len(evidence.effects)
        self.result.faults = sum(bool(entry["faults"]) for entry in evidence.requests)
        self.result.problems = [f"seed {self._number}: {problem}" for problem in audit(evidence)]
        if self.result.problems:
            _say(f"seed {self._number}:\n{_history(evidence)}")
        return self.result

    async def _faults(self) -> None:
        draw = random.Random(f"{self._number} faults")  # noqa: S311 - no secret
        end = time.monotonic() + _STORM_LASTS_S
        while time.monotonic() < end:
            fault = draw.choice(FAULTS)
            rule = {**fault.rule, "nth": draw.randint(1, 3)}
            await asyncio.to_thread(self._lab.fault, fault.call, fault.kind, **rule)
            await asyncio.sleep(_FAULT_EVERY_S)

    async def _lives(self, place: int) -> None:
        draw = random.Random(f"{self._number} {place}")  # noqa: S311 - no secret
        while self.result.kills < KILLS_IN_A_WORLD:
            by_boundary = draw.random() < 0.5
            number, moment = draw.randint(1, BOUNDARIES), draw.expovariate(1 / _KILL_AFTER_S)
            running = self._runners.start(self._lab, at=number if by_boundary else 0)
            if not by_boundary:
                await asyncio.wait([running.outcome], timeout=0.02 + moment)
                if not running.outcome.done():
                    await running.kill()
            outcome = (await running.outcome).check()
            if not outcome.killed:
                return  # nothing is left to do
            await self._count(running, outcome.boundaries[-1] if outcome.boundaries else "at the start")

    async def _count(self, running: Running, boundary: str) -> None:
        ledger, actor = self._lab.bench.ledger, f"runner {running.number}"
        for case in ledger.cases():
            if case.lease_left_s <= 0:
                continue
            taken = [event for event in ledger.events(case.id) if event.kind == "lease_taken"]
            if taken and taken[-1].actor == actor:
                self.result.kills += 1
                self.result.boundaries[boundary] += 1
                self.result.coverage[f"{_state(case)} | {await self._last_fault(case)}"] += 1
                return
        self.result.idle_kills += 1

    async def _last_fault(self, case: CaseView) -> str:
        step = _current(case)
        for entry in reversed(await asyncio.to_thread(self._lab.control.requests)):
            if _STEP_OF.get(entry["call"]) is step and entry["faults"]:
                return str(entry["faults"][-1])
        return "none"


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
        world = seeds.many(CASES)
        async with laboratory(folder, world=world, **SETTINGS, **PATIENT, **ledger) as lab:
            return await World(lab, runners, seed).play()


async def volume(kills: int, seed: int, *, server: PostgresServer | None = None, log: Path | None = None) -> Result:
    """Worlds from ``seed`` on, until so many kills have been counted; each one's result is appended to ``log``."""
    total = Result()
    numbers = iter(range(seed, sys.maxsize))
    began = time.monotonic()

    async def lane(runners: Runners) -> None:
        while total.kills < kills:
            number = next(numbers)
            result = await play(number, runners, server)
            total.add(result)
            if log is not None:
                _append(log, number, result, "postgresql" if server else "sqlite")
                spent = time.monotonic() - began
                _say(f"seed {number}: {total.kills} kills, {len(total.problems)} violations, {spent:.0f} s")

    lanes = min(WORLDS_AT_ONCE, -(-kills // KILLS_IN_A_WORLD))
    async with running_runners() as runners:
        await asyncio.gather(*(lane(runners) for _ in range(lanes)))
    return total


def _append(log: Path, number: int, result: Result, ledger: str) -> None:
    line = {"seed": number, "ledger": ledger, **vars(result)}
    with log.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - a program that prints figures


def main() -> int:
    """The command line; status 1 if anything was violated."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--kills", type=int, default=150)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--postgres", action="store_true", help="ledgers on a PostgreSQL server started for this run")
    parser.add_argument("--results", type=Path, default=Path("crash-results.jsonl"))
    given = parser.parse_args()
    _say(f"seeds from {given.seed} on; results go to {given.results}")
    with running_postgres() if given.postgres else nullcontext() as server:
        total = asyncio.run(volume(given.kills, given.seed, server=server, log=given.results))
    _say("\n".join(total.lines()))
    return 1 if total.problems else 0


if __name__ == "__main__":
    sys.exit(main())
