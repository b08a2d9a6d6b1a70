"""What the acceptance tests share: the fixtures of the command line's tests, and a Prefect server for the session."""

from collections.abc import Callable, Iterator

import pytest

from tests.cli.conftest import addresses, commands, installation
from tests.support.prefect_server import PrefectServer, running_prefect_server

__all__ = ["addresses", "commands", "installation", "observing_server"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full-size", action="store_true", help="batches of hundreds and thousands of subjects")


@pytest.fixture
def sized(request: pytest.FixtureRequest) -> Callable[[int, int], int]:
    """How many subjects: the first number, or with ``--full-size`` the second."""
    return lambda usual, full: full if request.config.getoption("--full-size") else usual


@pytest.fixture(scope="session")
def observing_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A Prefect server that only the commands which tests start speak to; this process does not."""
    with running_prefect_server(tmp_path_factory.mktemp("prefect")) as server:
        yield server
