"""Storms: many faults at once, drawn from a seed, over cases that share an exception and two runners that share them.

Whatever happens, no effect happens twice, nothing is left hanging, and what cannot be known is said to be unknown.
"""

import asyncio
import random
from collections import Counter
from pathlib import Path
from typing import Any, Final

from onboarding.ledger.leasing import Closed
from onboarding.ledger.states import CaseStatus, StepStatus
from onboarding.ledger.views import Held
from onboarding.steps.case import work_case
from onboarding.workbench import Workbench
from tests.steps.lab import SYSTEM_OF, Lab, cloud_to_cloud, laboratory, place
from tests.support.requests import example
from vendor_sandbox import seed

SETTINGS: Final[dict[str, Any]] = {"request_timeout_seconds": 0.6, "settle_seconds": 0.6, "lease_seconds": 5}
FAULTS: Final[list[tuple[str, dict[str, Any]]]] = [
    ("cut", {"when": "before"}),
    ("cut", {"when": "after"}),
    ("delay", {"when": "before", "seconds": 0.8}),  # applied after the deadline, within the quiet time
    ("delay", {"when": "after", "seconds": 0.8}),
    ("server_error", {"when": "before", "status": 500}),
    ("server_error", {"when": "after", "status": 500}),
    ("server_error", {"when": "before", "status": 503}),
    ("throttle", {"when": "before", "retry_after": 0.1}),
    ("proxy_page", {"when": "after", "status": 502}),
    ("truncate", {"when": "after"}),
    ("wrong_body", {"when": "after", "variant": "invalid_json"}),
    ("redirect", {"when": "before"}),
]
FAULTS_IN_A_STORM: Final = 12
STORMS: Final = range(6)


def third_subject() -> dict[str, Any]:
    """Subject 6, device-to-cloud."""
    return example(
        registration__id=6,
        registration__participant={"id": 12},
        registration__ppid="ASCI666",
        registration__external_subject_id="TEST_006",
        subject__subject_id=seed.subject_id(6),
        device__inventory_id=seed.inventory_id(6),
    )


async def work_in_turn(bench: Workbench, cases: list[str]) -> None:
    """A runner that takes whatever case is free."""
    for case_id in cases:
        async with bench.session(case_id) as session:
            if not isinstance(session, Held | Closed):
                await work_case(session)


async def storm(number: int, lab: Lab) -> list[str]:
    """Let it blow, then let everything come to rest; the cases."""
    draw = random.Random(number)  # noqa: S311 - no secret
    for _ in range(FAULTS_IN_A_STORM):
        kind, rule = draw.choice(FAULTS)
        lab.fault(draw.choice(list(SYSTEM_OF)), kind, **rule, nth=draw.randint(1, 4))
    cases = [await lab.open(request) for request in (example(), cloud_to_cloud(), third_subject())]
    async with lab.another_bench() as other:
        await asyncio.gather(work_in_turn(lab.bench, cases), work_in_turn(other, cases[::-1]))
    lab.control.remove_faults()
    await lab.control.wait_idle()
    for case_id in cases:
        await lab.work_to_the_end(case_id)
    return cases


async def weathered(number: int, folder: Path) -> None:
    """A storm in a laboratory of its own, and what must be so after it."""
    async with laboratory(place(folder, f"storm-{number}"), **SETTINGS) as lab:
        cases = await storm(number, lab)
        effects = lab.control.effects()
        once = Counter(
            (entry["effect"], str(entry["key"]))
            for entry in effects
            if entry["changed"] and entry["effect"] != "access_code_issued"
        )
        assert set(once.values()) == {1}, (number, once)
        assert sum(entry["effect"] == "dnd_exception_created" for entry in effects) == 1, number
        for case_id in cases:
            case = lab.case(case_id)
            statuses = {name: step.status for name, step in case.steps.items()}
            assert case.status is CaseStatus.DONE, (number, case.reason, statuses)
            assert set(statuses.values()) == {StepStatus.DONE}
            assert lab.bench.ledger.trail_problems(case_id) == []


async def test_no_storm_makes_an_effect_happen_twice(tmp_path: Path) -> None:
    async with asyncio.TaskGroup() as group:
        for number in STORMS:
            group.create_task(weathered(number, tmp_path))
