"""A runner killed at any boundary, one by one, neither loses an effect nor repeats one.

``CRASH_ALL=K/N`` (``make crash-all PART=K/N``) takes the K-th of N parts of the full products, which last for hours (1/1 is
all of it); otherwise a slice of them is taken that differs from boundary to boundary, so that each fault and each boundary is met.
"""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import pytest

from tests.crash.faults import FAULTS, Fault
from tests.crash.points import Enumeration
from tests.crash.runners import Runners
from tests.steps.lab import cloud_to_cloud
from tests.support.requests import example

FULL: Final = os.environ.get("CRASH_ALL", "")
T = TypeVar("T")
Request = Callable[[], dict[str, Any]]
PATHS: Final[list[tuple[str, Request]]] = [("device-to-cloud", example), ("cloud-to-cloud", cloud_to_cloud)]
TELLING: Final = [
    ("cloud-to-cloud", Fault("register_device", "cut", {"when": "after"})),
    ("device-to-cloud", Fault("register_device", "cut", {"when": "before"})),
    ("device-to-cloud", Fault("create_exception", "server_error", {"when": "after", "status": 500})),
    ("device-to-cloud", Fault("update_registration", "delay", {"when": "before", "seconds": 0.85})),
]
"""Those whose recovery sends something: each is met at boundaries from end to end, every time."""
_PLACES_EACH: Final = 10


BOUNDARY_OF: Final = {
    "login": "POST sessions",
    "read_registration": "GET registration",
    "update_registration": "PUT registration",
    "token": "POST token",
    "dispensation": "GET dispensation",
    "dispensation_history": "GET dispensation-history",
    "register_device": "POST register-device",
    "list_exceptions": "GET dndexception",
    "create_exception": "POST dndexception",
}
"""How a runner's boundaries name the sandbox's calls."""


def part_of(everything: Sequence[T], part: str = FULL) -> list[T]:
    """The K-th of N parts (``K/N``), each from end to end, so that every part meets every kind of place."""
    which, of = map(int, part.split("/"))
    assert 1 <= which <= of, f"there is no part {part}"
    return list(everything)[which - 1 :: of]


def test_the_parts_of_the_full_products_are_the_whole() -> None:
    parts = [part_of(range(10), f"{which}/3") for which in (1, 2, 3)]
    assert sorted(number for part in parts for number in part) == list(range(10))
    assert part_of(range(10), "1/1") == list(range(10))


@pytest.mark.parametrize(("path", "request_of"), PATHS, ids=[name for name, _ in PATHS])
async def test_a_kill_at_any_boundary_of_the_happy_path_loses_nothing_and_repeats_nothing(
    runners: Runners, path: str, request_of: Request
) -> None:
    began, enumeration = time.monotonic(), Enumeration(runners)
    last = await enumeration.every_boundary(path, request_of())
    enumeration.tally.say(f"{path}, {last} boundaries", began)
    assert enumeration.tally.problems == []
    assert enumeration.tally.kills >= last > 30, "the runs were not killed"


async def test_a_kill_at_any_boundary_after_a_fault_loses_nothing_and_repeats_nothing(runners: Runners) -> None:
    began, enumeration = time.monotonic(), Enumeration(runners)
    requests = dict(PATHS)
    happy = {path: (await enumeration.at(path, request_of(), 0))[0].boundaries for path, request_of in PATHS}
    chosen = part_of([(path, fault) for path, _ in PATHS for fault in FAULTS]) if FULL else TELLING
    lanes = asyncio.Semaphore(4)

    async def all_of(path: str, fault: Fault) -> None:
        async with lanes:
            only = None if FULL else _PLACES_EACH
            await enumeration.after_fault(path, requests[path](), fault, happy[path], only=only)

    await asyncio.gather(*(all_of(path, fault) for path, fault in chosen))
    enumeration.tally.say(f"{len(chosen)} faults, {'every boundary' if FULL else 'boundaries'} from each on", began)
    assert enumeration.tally.problems == []


@pytest.mark.skipif(bool(FULL), reason="the test above takes every fault at every boundary")
async def test_every_fault_at_every_request_is_met_by_a_kill_at_some_boundary(runners: Runners) -> None:
    """One boundary for each fault, another one each time, from its request to the end."""
    began, enumeration = time.monotonic(), Enumeration(runners)
    happy = [(await enumeration.at(path, request_of(), 0))[0].boundaries for path, request_of in PATHS]

    async def one(number: int, fault: Fault) -> None:
        path, request_of = PATHS[number % len(PATHS)]
        usual = happy[number % len(PATHS)]
        first = usual.index(f"before {BOUNDARY_OF[fault.call]}") + 1
        # Writes that wait at the same time share a commit, so a run can be shorter than the one before: then it is killed
        # a boundary earlier.
        for place in range(first + number * 5 % (len(usual) - first), 0, -1):
            if (await enumeration.at(f"{path}, {fault.call}", request_of(), place, fault=fault))[0].killed:
                return

    await asyncio.gather(*(one(number, fault) for number, fault in enumerate(FAULTS)))
    enumeration.tally.say(f"{len(FAULTS)} faults, a boundary each", began)
    assert enumeration.tally.problems == []
    assert enumeration.tally.kills == len(FAULTS), "a run was not killed"


async def test_a_kill_during_the_recovery_from_a_kill_loses_nothing_and_repeats_nothing(runners: Runners) -> None:
    """Two deep over the happy path; the full product of both kills with ``CRASH_ALL``."""
    began, enumeration = time.monotonic(), Enumeration(runners)
    whole = len((await enumeration.at("device-to-cloud", example(), 0))[0].boundaries)
    if FULL:
        for first in part_of(range(1, whole + 1)):
            await enumeration.every_boundary("device-to-cloud", example(), first)
    else:  # the second kill falls early in the recovery, where it settles what the first one left
        pairs = [(first, 1 + first * 5 % 13) for first in range(1, whole + 1)]
        await asyncio.gather(*(enumeration.at("device-to-cloud", example(), *pair) for pair in pairs))
    enumeration.tally.say(f"double kills over {whole} first boundaries", began)
    assert enumeration.tally.problems == []
    assert enumeration.tally.kills > enumeration.tally.points * 3 / 2, "the second runners were not killed"
