"""A real Prefect server for the tests of flows, started once: it needs up to half a minute."""

import gc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, temporary_settings

from tests.flows.lab import FlowLab, flow_laboratory
from tests.support.prefect_server import PrefectServer, running_prefect_server


@pytest.fixture(scope="session")
def _prefect_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    with (
        running_prefect_server(tmp_path_factory.mktemp("prefect")) as server,
        temporary_settings({PREFECT_API_URL: server.api_url}),
    ):
        yield server
        # Else they would go on sending to a server that is gone.
        APILogWorker.instance().drain()
        EventsWorker.drain_all()


@pytest.fixture
def prefect_server(_prefect_session: PrefectServer) -> Iterator[PrefectServer]:
    """A Prefect server with a home and a database of its own; flows of this process run against it."""
    yield _prefect_session
    # Each flow run of Prefect 3.8 leaves one client open (results._read_server_default_result_storage_block_id). It is
    # collected here, under the filter below, lest a later test be blamed for its socket.
    gc.collect()


@pytest.fixture
async def lab(prefect_server: PrefectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FlowLab]:
    """The flow against the sandbox, with the default seed, on the Prefect server of the tests."""
    async with flow_laboratory(prefect_server, tmp_path, monkeypatch) as running:
        yield running


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Excuses Prefect's open clients, in the tests that run flows and nowhere else."""
    for item in items:
        if "prefect_server" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"))
