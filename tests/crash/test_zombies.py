"""A runner that was stopped past its lease and goes on after another one took over writes and sends nothing more.

What it may still do is append its late answer. One window cannot be closed: between the last look at the lease, right before
the first byte, and the write to the socket, there is no waiting but the process can be stopped there; it is some
microseconds wide. Everything outside of it is tested here, boundary by boundary. (Stopped inside a transaction, a runner
keeps SQLite's write lock, so that nobody can take over before it goes on; those boundaries are left out.)
"""

import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

from onboarding.ledger.states import CaseStatus
from tests.crash.auditor import audit
from tests.crash.boundaries import Trouble
from tests.crash.points import AT_ONCE, FIGURES, SETTINGS, judged, quick_folder, settle
from tests.crash.runners import Runners
from tests.steps.lab import Lab, laboratory
from tests.support.requests import example

UNHURRIED: Final[dict[str, Any]] = {**SETTINGS, "lease_seconds": 2}
"""So that no renewal is under way when the runner is stopped."""


async def zombie(runners: Runners, at: int) -> tuple[str, list[str]]:
    """Stop a runner at a boundary, let another one end the case, let the first go on; its last words, and violations."""
    with quick_folder() as folder:
        async with laboratory(folder, **UNHURRIED) as lab:
            return await _zombie(runners, lab, at)


async def _zombie(runners: Runners, lab: Lab, at: int) -> tuple[str, list[str]]:
    case_id = await lab.open(example())
    running = runners.start(lab, case_id, at=at, trouble=Trouble.STOP)
    if not await running.stopped():
        return "was not stopped", audit(await judged(lab))  # it had fewer boundaries this time
    await settle(lab, stuck_after_s=15)  # ends the case
    if lab.case(case_id).status is not CaseStatus.DONE:
        await running.kill()
        return "kept the write lock", []  # it was renewing its lease just then
    requests, effects = len(lab.calls()), len(lab.control.effects())
    outcome = await running.go_on()
    evidence = await judged(lab)
    found = audit(evidence)
    if len(lab.control.effects()) != effects:
        found.append("it had an effect")
    found += [
        f"it sent {entry['call']}"
        for entry in lab.calls()[requests:]
        if entry["method"] != "GET" and entry["call"] not in ("login", "token", "logout")
    ]
    written = [event for event in evidence.trails[case_id] if event.actor == f"runner {running.number}"]
    others = [event.sequence for event in evidence.trails[case_id] if event.actor == "tester" and event.sequence > 1]
    found += [
        f"it wrote {event.kind}"
        for event in written
        if others and event.sequence > others[0] and event.kind != "late_answer"
    ]
    return str(outcome.said), found


async def test_a_zombie_writes_nothing_but_its_late_answer_and_sends_nothing(runners: Runners, tmp_path: Path) -> None:
    began = time.monotonic()
    async with laboratory(tmp_path, **UNHURRIED) as lab:
        whole = (await runners.run(lab, await lab.open(example()))).boundaries
    places = [number for number, name in enumerate(whole, start=1) if name != "before commit" and number < len(whole)]
    lanes = asyncio.Semaphore(AT_ONCE)

    async def one(at: int) -> tuple[str, list[str]]:
        async with lanes:
            said, found = await zombie(runners, at)
        return said, [f"stopped {whole[at - 1]} ({at}): {problem}" for problem in found]

    ended = await asyncio.gather(*map(one, places))
    words = Counter(said for said, _ in ended)
    FIGURES.append(f"zombies: {len(places)} boundaries, {dict(words)}, {time.monotonic() - began:.0f} s")
    assert [problem for _, found in ended for problem in found] == []
    assert words["LeaseLost"] >= len(places) - 3, words
