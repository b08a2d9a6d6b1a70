"""Runners to be killed, and the figures at the end."""

from collections.abc import AsyncIterator

import pytest

from tests.crash.points import FIGURES
from tests.crash.runners import Runners, running_runners


@pytest.fixture
async def runners() -> AsyncIterator[Runners]:
    async with running_runners() as started:
        yield started


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if FIGURES:
        terminalreporter.section("kills")
        for line in FIGURES:
            terminalreporter.write_line(line)
