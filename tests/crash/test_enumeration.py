"""A runner killed at any boundary, one by one, neither loses an effect nor repeats one."""

import time
from pathlib import Path
from typing import Any

import pytest

from tests.crash.points import Enumeration
from tests.crash.runners import Runners
from tests.steps.lab import cloud_to_cloud
from tests.support.requests import example


@pytest.mark.parametrize("request_of", [example, cloud_to_cloud], ids=["device_to_cloud", "cloud_to_cloud"])
async def test_a_kill_at_any_boundary_of_the_happy_path_loses_nothing_and_repeats_nothing(
    runners: Runners, tmp_path: Path, request_of: Any
) -> None:
    began, enumeration = time.monotonic(), Enumeration(runners, tmp_path)
    last = await enumeration.every_boundary("happy path", request_of())
    enumeration.tally.say(f"happy path, {last} boundaries", began)
    assert enumeration.tally.problems == []
    assert last > 30, "the runs were not killed at all"
