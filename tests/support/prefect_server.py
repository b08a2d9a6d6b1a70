"""A real Prefect server for the tests, with all its services, on a database of its own.

Prefect's own test harness gives up when a busy machine lets its first health check take more than five seconds, and it
leaves out the services (scheduler, automations) that the tests must see working.
"""

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from cli.local import free_port
from tests.support.environment import QUIET_PREFECT
from tests.support.processes import Server, running_server

PATIENT_S: Final = 180.0
_PAUSE_S: Final = 0.5


@dataclass(frozen=True)
class PrefectServer:
    """A running server: `api_url` for clients, its home folder, its process and log."""

    api_url: str
    home: Path
    server: Server

    @property
    def environment(self) -> dict[str, str]:
        """What a child process needs to talk to this server and to no other."""
        return dict(os.environ) | QUIET_PREFECT | {"PREFECT_HOME": str(self.home), "PREFECT_API_URL": self.api_url}


class _Patient(httpx.HTTPTransport):
    """Sends a request again while the server says that its database is busy, for some minutes at most."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """The first answer that is another."""
        ends = time.monotonic() + PATIENT_S
        while True:
            answer = super().handle_request(request)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE or time.monotonic() > ends:
                return answer
            answer.read()
            answer.close()
            time.sleep(_PAUSE_S)


def prefect_client(api_url: str) -> httpx.Client:
    """A client for a server that may keep its runs in SQLite: where two writes meet there, one is answered with 503, and a
    write of its services can keep all others waiting for the minute that a lock is waited for.
    """
    return httpx.Client(base_url=f"{api_url}/", transport=_Patient(), trust_env=False, timeout=PATIENT_S)


@contextmanager
def running_prefect_server(
    home: Path, *, port: int | None = None, settings: Mapping[str, str] | None = None
) -> Iterator[PrefectServer]:
    """Runs a server whose home folder is `home` for the duration of the block, on a free port if none is given.

    `settings`: more variables for it alone, such as another database.
    """
    port = port or free_port()
    api_url = f"http://127.0.0.1:{port}/api"
    environment = dict(os.environ) | QUIET_PREFECT | {"PREFECT_HOME": str(home), "PREFECT_API_URL": api_url}
    environment["PREFECT_SERVER_LOGGING_LEVEL"] = (
        "INFO"  # Prefect configures uvicorn's log, which says when it is ready
    )
    environment |= settings or {}
    command = [sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "info", "--no-access-log"]
    with running_server(command, ready_line="Uvicorn running on", folder=home, environment=environment) as server:
        yield PrefectServer(api_url, home, server)
