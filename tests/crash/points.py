"""One point: a world of its own, a runner killed at one boundary (or a second one too), recovery, and the audit."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from onboarding.clocks import utc_now
from onboarding.errors import OnboardingError
from onboarding.ledger.leasing import Closed
from onboarding.ledger.states import CaseStatus
from onboarding.ledger.views import EventView, Held
from onboarding.steps.case import work_case
from tests.crash.auditor import DUPLICATES, Evidence, audit, gather
from tests.crash.runners import Outcome, Runners
from tests.steps.lab import Lab, laboratory

SETTINGS: Final[dict[str, Any]] = {"lease_seconds": 0.5, "request_timeout_seconds": 0.8, "settle_seconds": 0.1}
AT_ONCE: Final = 20
"""Points that are worked at the same time; most of their time goes by waiting for dead runners' leases."""
_SETTLING_S: Final = 60.0
FIGURES: Final[list[str]] = []
"""A line for each enumeration of this test run."""


@dataclass(frozen=True)
class Fault:
    """A fault of the sandbox at one call."""

    call: str
    kind: str
    rule: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return " ".join([self.call, self.kind, *(f"{name}={value}" for name, value in self.rule.items())])


@dataclass
class Tally:
    """What a whole enumeration came to."""

    points: int = 0
    kills: int = 0
    problems: list[str] = field(default_factory=list)
    reached: set[str] = field(default_factory=set)

    @property
    def duplicates(self) -> int:
        """Violations that mean that something happened twice."""
        return sum(any(f" {rule}:" in problem for rule in DUPLICATES) for problem in self.problems)

    def add(self, name: str, outcomes: Sequence[Outcome], problems: Sequence[str]) -> None:
        """Count one point."""
        self.points += 1
        self.kills += sum(outcome.killed for outcome in outcomes)
        self.reached.update(outcome.boundaries[-1] for outcome in outcomes if outcome.killed)
        self.problems += [f"{name}: {problem}" for problem in problems]

    def say(self, what: str, began: float) -> None:
        """Let the figures be shown at the end of the test run."""
        FIGURES.append(
            f"{what}: {self.points} points, {self.kills} kills, {self.duplicates} duplicates, "
            f"{len(self.problems) - self.duplicates} other violations, {time.monotonic() - began:.0f} s"
        )


async def settle(lab: Lab) -> list[Mapping[str, Sequence[EventView]]]:
    """Resume whatever is due until nothing is left to do without a person; the trails as they were at each round."""
    snapshots: list[Mapping[str, Sequence[EventView]]] = [trails(lab)]
    end = time.monotonic() + _SETTLING_S
    while time.monotonic() < end:
        for case_id in await lab.bench.find_due(100):
            try:
                async with lab.bench.session(case_id) as session:
                    if not isinstance(session, Held | Closed):
                        await work_case(session)
            except OnboardingError:
                continue  # what it means for the case stands in the ledger, and the auditor reads that
        snapshots.append(trails(lab))
        waiting = lab.bench.ledger.cases(statuses=[CaseStatus.READY])
        if not waiting:
            break
        waits = [max(case.lease_left_s, (case.due_at - utc_now()).total_seconds()) for case in waiting if case.due_at]
        await asyncio.sleep(max(0.005, min(waits, default=0.1)))
    return snapshots


def trails(lab: Lab) -> dict[str, list[EventView]]:
    """Every case's trail."""
    return {case.id: lab.bench.ledger.events(case.id) for case in lab.bench.ledger.cases()}


async def judged(lab: Lab, **known: Any) -> Evidence:
    """Let everything come to rest; the evidence, faults being over."""
    before = trails(lab)
    lab.control.remove_faults()
    await lab.control.wait_idle()
    snapshots = [before, *await settle(lab)]
    return gather(lab.bench.ledger, lab.control, lab.effect_log, snapshots=snapshots, **known)


async def point(
    runners: Runners,
    folder: Path,
    request: Mapping[str, Any],
    *,
    kills: Sequence[int],
    fault: Fault | None = None,
) -> tuple[list[Outcome], list[str]]:
    """Work one case with a fault, killing the n-th runner at ``kills[n]`` (0: not at all); resume and audit it.

    Without a fault the first runner works the case once; all others take what is due until there is nothing left.
    """
    outcomes: list[Outcome] = []
    async with laboratory(folder, **SETTINGS) as lab:
        case_id = await lab.open(request)
        if fault is not None:
            lab.fault(fault.call, fault.kind, **fault.rule)
        for number, kill_at in enumerate(kills):
            once = case_id if number == 0 and fault is None else None
            outcomes.append(await runners.run(lab, once, kill_at=kill_at))
            if not outcomes[-1].killed:
                break
        return outcomes, audit(await judged(lab))


class Enumeration:
    """Points, many at a time, and their tally."""

    def __init__(self, runners: Runners, folder: Path) -> None:
        self.tally = Tally()
        self._runners = runners
        self._folder = folder
        self._lanes = asyncio.Semaphore(AT_ONCE)
        self._count = 0

    async def at(self, name: str, request: Mapping[str, Any], *kills: int, fault: Fault | None = None) -> list[Outcome]:
        """One point."""
        self._count += 1
        folder = self._folder / str(self._count)
        folder.mkdir()
        async with self._lanes:
            outcomes, problems = await point(self._runners, folder, request, kills=kills, fault=fault)
        self.tally.add(f"{name} killed at {kills} (fault: {fault})", outcomes, problems)
        return outcomes

    async def every_boundary(
        self,
        name: str,
        request: Mapping[str, Any],
        *earlier: int,
        fault: Fault | None = None,
        first: int = 1,
        stride: int = 1,
    ) -> int:
        """Kill at K = first, ... until a run gets through, after the ``earlier`` kills; returns the last K that killed."""
        (*_, whole) = await self.at(name, request, *earlier, 0, fault=fault)
        expected = len(whole.boundaries)
        last = first - 1
        numbers = range(first, expected + 1, stride)
        ended = await asyncio.gather(*(self.at(name, request, *earlier, k, fault=fault) for k in numbers))
        last = max([k for k, outcomes in zip(numbers, ended, strict=True) if outcomes[-1].killed], default=last)
        while stride == 1 and last >= expected:  # a run that was slower, and renewed its lease, has more boundaries
            expected += 1
            if (await self.at(name, request, *earlier, expected, fault=fault))[-1].killed:
                last = expected
        return last
