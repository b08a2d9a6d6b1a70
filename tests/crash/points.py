"""One point: a world of its own, a runner killed at one boundary (or a second one too), recovery, and the audit."""

import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from onboarding.clocks import utc_now
from onboarding.errors import OnboardingError
from onboarding.ledger.leasing import Closed
from onboarding.ledger.states import CaseStatus
from onboarding.ledger.views import CaseView, EventView, Held
from onboarding.steps.case import work_case
from tests.crash.auditor import DUPLICATES, Evidence, applied_late, audit, gather
from tests.crash.faults import Fault
from tests.crash.runners import Outcome, Runners
from tests.steps.lab import Lab, laboratory

SETTINGS: Final[dict[str, Any]] = {"lease_seconds": 0.5, "request_timeout_seconds": 0.8, "settle_seconds": 1.0}
"""A request that is given up is applied, if at all, long before its quiet time ends, on a busy machine too: see ``SLOW_S``."""
AT_ONCE: Final = 40
"""Points that are worked at the same time; most of their time goes by waiting for dead runners' leases."""
STUCK_AFTER_S: Final = 60.0
LONGEST_WAIT_S: Final = 5.0
_SNAPSHOTS: Final = 20
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - folders of one's own are made in it
Attend = Callable[[], Awaitable[bool]]
FIGURES: Final[list[str]] = []
"""A line for each enumeration of this test run."""


@dataclass
class Tally:
    """What a whole enumeration came to."""

    points: int = 0
    kills: int = 0
    late: int = 0
    problems: list[str] = field(default_factory=list)
    reached: set[str] = field(default_factory=set)

    @property
    def duplicates(self) -> int:
        """Violations that mean that something happened twice."""
        return sum(any(f" {rule}:" in problem for rule in DUPLICATES) for problem in self.problems)

    def add(self, name: str, outcomes: Sequence[Outcome], evidence: Evidence) -> None:
        """Count one point."""
        problems = audit(evidence)
        self.points += 1
        self.late += len(applied_late(evidence))
        self.kills += sum(outcome.killed for outcome in outcomes)
        self.reached.update(outcome.boundaries[-1] for outcome in outcomes if outcome.killed)
        self.problems += [f"{name}: {problem}" for problem in problems]

    def say(self, what: str, began: float) -> None:
        """Let the figures be shown at the end of the test run."""
        FIGURES.append(
            f"{what}: {self.points} points, {self.kills} kills, {self.duplicates} duplicates, "
            f"{len(self.problems) - self.duplicates} other violations, {self.late} applied after their quiet time, "
            f"{time.monotonic() - began:.0f} s"
        )


@contextmanager
def quick_folder() -> Iterator[Path]:
    """A folder in memory, where there is such a thing: a killed process needs no disk to find its writes again."""
    with tempfile.TemporaryDirectory(prefix="crash-", dir=_MEMORY if os.access(_MEMORY, os.W_OK) else None) as folder:
        yield Path(folder)


async def settle(
    lab: Lab, *, attend: Attend | None = None, stuck_after_s: float = STUCK_AFTER_S
) -> list[Mapping[str, Sequence[EventView]]]:
    """Resume whatever is due until nothing is left to do; the trails as they were in the first rounds and at the end.

    ``attend``: a person, who is asked once nothing else is left to do, or everything waits for longer than
    ``LONGEST_WAIT_S``, and says whether any case asked; if none did, the person resumes what waits so long. However slow the
    machine is, it goes on while something is written; nothing written for ``stuck_after_s`` although a case is due: it is stuck.
    """
    snapshots: list[Mapping[str, Sequence[EventView]]] = [trails(lab)]
    written, idle_since = 0, time.monotonic()
    while time.monotonic() - idle_since < stuck_after_s:
        waiting = lab.bench.ledger.cases(statuses=[CaseStatus.READY])
        if attend is not None and _all_wait_long(waiting):
            await attend()
            waiting = lab.bench.ledger.cases(statuses=[CaseStatus.READY])  # a decision wakes those who waited for it
        resumed = attend is not None and _all_wait_long(waiting)
        for case_id in [case.id for case in waiting] if resumed else await lab.bench.find_due(100):
            try:
                async with lab.bench.session(case_id) as session:
                    if not isinstance(session, Held | Closed):
                        await work_case(session)
            except OnboardingError:
                continue  # what it means for the case stands in the ledger, and the auditor reads that
        now = trails(lab)
        if len(snapshots) < _SNAPSHOTS:
            snapshots.append(now)
        if (count := sum(map(len, now.values()))) != written:
            written, idle_since = count, time.monotonic()
        waiting = lab.bench.ledger.cases(statuses=[CaseStatus.READY])
        if not waiting and (attend is None or not await attend()):
            break
        pause_s = min(LONGEST_WAIT_S, max(0.005, min(map(_wait_s, waiting), default=0.1)))
        await asyncio.sleep(pause_s)
        idle_since += pause_s  # nobody could have done anything meanwhile
    return [*snapshots, trails(lab)]


def _all_wait_long(waiting: Sequence[CaseView]) -> bool:
    return min(map(_wait_s, waiting), default=0.0) > LONGEST_WAIT_S


def _wait_s(case: CaseView) -> float:
    """Until when nobody could work a case that is ready, seconds."""
    due_in_s = 0.0 if case.due_at is None else (case.due_at - utc_now()).total_seconds()
    return max(case.lease_left_s, due_in_s)


def trails(lab: Lab) -> dict[str, list[EventView]]:
    """Every case's trail."""
    return {case.id: lab.bench.ledger.events(case.id) for case in lab.bench.ledger.cases()}


async def judged(lab: Lab, attend: Attend | None = None, **known: Any) -> Evidence:
    """Let everything come to rest, with a person's help if there is one; the evidence, faults being over."""
    before = trails(lab)
    lab.control.remove_faults()
    await lab.control.wait_idle()
    snapshots = [before, *await settle(lab, attend=attend)]
    quiet_s = lab.bench.settings.quiet_seconds
    return gather(lab.bench.ledger, lab.control, lab.effect_log, snapshots=snapshots, quiet_s=quiet_s, **known)


async def point(
    runners: Runners,
    request: Mapping[str, Any],
    *,
    kills: Sequence[int],
    fault: Fault | None = None,
) -> tuple[list[Outcome], Evidence]:
    """Work one case with a fault, killing the n-th runner at ``kills[n]`` (0: not at all), and resume it.

    Without a fault the first runner works the case once; all others take what is due until there is nothing left.
    """
    with quick_folder() as folder:
        async with laboratory(folder, **SETTINGS) as lab:
            case_id = await lab.open(request)
            outcomes: list[Outcome] = []
            if fault is not None:
                lab.fault(fault.call, fault.kind, **fault.rule)
            for number, kill_at in enumerate(kills):
                once = case_id if number == 0 and fault is None else None
                outcomes.append(await runners.run(lab, once, at=kill_at))
                if not outcomes[-1].killed:
                    break
            return outcomes, await judged(lab)


class Enumeration:
    """Points, many at a time, and their tally."""

    def __init__(self, runners: Runners) -> None:
        self.tally = Tally()
        self._runners = runners
        self._lanes = asyncio.Semaphore(AT_ONCE)

    async def at(self, name: str, request: Mapping[str, Any], *kills: int, fault: Fault | None = None) -> list[Outcome]:
        """One point."""
        async with self._lanes:
            outcomes, evidence = await point(self._runners, request, kills=kills, fault=fault)
        self.tally.add(f"{name} killed at {kills} (fault: {fault})", outcomes, evidence)
        return outcomes

    async def every_boundary(self, name: str, request: Mapping[str, Any], *earlier: int) -> int:
        """Kill at K = 1, 2, ... until a run gets through, after the ``earlier`` kills; returns the last K that killed."""
        (*_, whole) = await self.at(name, request, *earlier, 0)
        return await self._kill_each(name, request, earlier, 1, len(whole.boundaries), None)

    async def after_fault(
        self, name: str, request: Mapping[str, Any], fault: Fault, happy: Sequence[str], *, only: int | None = None
    ) -> int:
        """Kill at every boundary from a fault on, or at so many of them, evenly spread; returns how many there were.

        ``happy`` are the boundaries of a run that does not meet the fault.
        """
        (*_, whole) = await self.at(name, request, 0, fault=fault)
        pairs = zip(whole.boundaries, happy, strict=False)
        parting = next((n for n, (met, usual) in enumerate(pairs, start=1) if met != usual), len(happy))
        first, last = max(1, parting - 2), len(whole.boundaries)  # the fault shows one boundary before, or two
        if only is None:
            await self._kill_each(name, request, (), first, last, fault)
        else:
            places = {first + (last - first) * n // (only - 1) for n in range(only)}
            await asyncio.gather(*(self.at(name, request, place, fault=fault) for place in places))
        return last + 1 - first

    async def _kill_each(
        self,
        name: str,
        request: Mapping[str, Any],
        earlier: Sequence[int],
        first: int,
        expected: int,
        fault: Fault | None,
    ) -> int:
        async def kill(k: int) -> bool:
            return (await self.at(name, request, *earlier, k, fault=fault))[-1].killed

        numbers = range(first, expected + 1)
        killed = await asyncio.gather(*map(kill, numbers))
        last = max([k for k, was_killed in zip(numbers, killed, strict=True) if was_killed], default=first - 1)
        while last >= expected:  # a run that was slower, and renewed its lease, has more boundaries
            expected += 1
            if await kill(expected):
                last = expected
        return last
