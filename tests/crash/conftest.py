"""Runners to be killed, and the figures at the end."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.crash.points import FIGURES
from tests.crash.runners import Runners, running_runners


@pytest.fixture
async def runners() -> AsyncIterator[Runners]:
    async with running_runners() as started:
        yield started


@pytest.fixture(autouse=True)
def _figures(request: pytest.FixtureRequest) -> Iterator[None]:
    """Give the figures along with the test's report, which may go to another process."""
    yield
    request.node.user_properties.extend(("figure", line) for line in FIGURES)
    FIGURES.clear()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for several in terminalreporter.stats.values() for report in several]
    lines = [
        value
        for report in reports
        if getattr(report, "when", None) == "teardown"
        for name, value in report.user_properties
        if name == "figure"
    ]
    if lines:
        terminalreporter.section("kills")
        for line in lines:
            terminalreporter.write_line(str(line))
