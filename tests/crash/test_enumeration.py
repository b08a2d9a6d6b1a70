"""A runner killed at any boundary, one by one, neither loses an effect nor repeats one.

``CRASH_ALL=1`` (``make crash-all``) takes the full products, which last for hours; otherwise a slice of them is taken that
differs from boundary to boundary, so that each fault and each boundary is met.
"""

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any, Final

import pytest

from tests.crash.faults import FAULTS, Fault
from tests.crash.points import Enumeration
from tests.crash.runners import Runners
from tests.steps.lab import SYSTEM_OF, cloud_to_cloud
from tests.support.requests import example

FULL: Final = "CRASH_ALL" in os.environ
Request = Callable[[], dict[str, Any]]
PATHS: Final[list[tuple[str, Request]]] = [("device-to-cloud", example), ("cloud-to-cloud", cloud_to_cloud)]
TELLING: Final = [
    ("cloud-to-cloud", Fault("register_device", "cut", {"when": "after"})),
    ("device-to-cloud", Fault("register_device", "cut", {"when": "before"})),
    ("device-to-cloud", Fault("create_exception", "server_error", {"when": "after", "status": 500})),
    ("device-to-cloud", Fault("update_registration", "delay", {"when": "before", "seconds": 0.85})),
]
"""Those whose recovery sends something: the boundaries of each are enumerated whole, every time."""


@pytest.mark.parametrize(("path", "request_of"), PATHS, ids=[name for name, _ in PATHS])
async def test_a_kill_at_any_boundary_of_the_happy_path_loses_nothing_and_repeats_nothing(
    runners: Runners, path: str, request_of: Request
) -> None:
    began, enumeration = time.monotonic(), Enumeration(runners)
    last = await enumeration.every_boundary(path, request_of())
    enumeration.tally.say(f"{path}, {last} boundaries", began)
    assert enumeration.tally.problems == []
    assert enumeration.tally.kills >= last > 40, "the runs were not killed"


async def test_a_kill_at_any_boundary_after_a_fault_loses_nothing_and_repeats_nothing(runners: Runners) -> None:
    began, enumeration = time.monotonic(), Enumeration(runners)
    requests = dict(PATHS)
    happy = {path: (await enumeration.at(path, request_of(), 0))[0].boundaries for path, request_of in PATHS}
    chosen = [(path, fault) for path, _ in PATHS for fault in FAULTS] if FULL else TELLING
    lanes = asyncio.Semaphore(4)

    async def all_of(path: str, fault: Fault) -> None:
        async with lanes:
            await enumeration.after_fault(path, requests[path](), fault, happy[path])

    await asyncio.gather(*(all_of(path, fault) for path, fault in chosen))
    enumeration.tally.say(f"{len(chosen)} faults, every boundary from each on", began)
    assert enumeration.tally.problems == []


async def test_every_fault_at_every_request_is_met_by_a_kill_at_some_boundary(runners: Runners) -> None:
    """One boundary for each fault, another one each time: that right after the fault, or one further on."""
    began, enumeration = time.monotonic(), Enumeration(runners)

    async def one(number: int, fault: Fault) -> None:
        path, request_of = PATHS[number % len(PATHS)]
        call = fault.call.partition("_")[0]
        place = 1 + list(SYSTEM_OF).index(fault.call) * 5 + number % 7
        await enumeration.at(f"{path}, {call}", request_of(), place, fault=fault)

    await asyncio.gather(*(one(number, fault) for number, fault in enumerate(FAULTS)))
    enumeration.tally.say(f"{len(FAULTS)} faults, a boundary each", began)
    assert enumeration.tally.problems == []


async def test_a_kill_during_the_recovery_from_a_kill_loses_nothing_and_repeats_nothing(runners: Runners) -> None:
    """Two deep over the happy path; the full product of both kills with ``CRASH_ALL``."""
    began, enumeration = time.monotonic(), Enumeration(runners)
    whole = len((await enumeration.at("device-to-cloud", example(), 0))[0].boundaries)
    if FULL:
        for first in range(1, whole + 1):
            await enumeration.every_boundary("device-to-cloud", example(), first)
    else:  # the second kill falls early in the recovery, where it settles what the first one left
        pairs = [(first, 1 + first * 5 % 13) for first in range(1, whole + 1)]
        await asyncio.gather(*(enumeration.at("device-to-cloud", example(), *pair) for pair in pairs))
    enumeration.tally.say(f"double kills over {whole} first boundaries", began)
    assert enumeration.tally.problems == []
    assert enumeration.tally.kills > enumeration.tally.points * 3 / 2, "the second runners were not killed"
