"""The servers that contenders need: one sandbox for all, PostgreSQL, Prefect's on either store."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from tests.support.environment import QUIET_PREFECT
from tests.support.postgres import PostgresServer, running_postgres
from tests.support.prefect_server import running_prefect_server
from tests.support.processes import stop
from vendor_sandbox import SandboxControl

ROOT: Final = Path(__file__).resolve().parent.parent
LATENCY_MS: Final = 5.0
# Fewer and larger writes: what Prefect's own documentation advises for many task runs, and what this project sets.
BATCHED: Final = {
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "500",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "200",
}


def end_in_order() -> None:
    """Let SIGTERM and SIGINT end this program as Ctrl-C does, even in the background: no server is left behind."""
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, signal.default_int_handler)


def cpu_s(pids: list[int]) -> float:
    """Time on a processor of these processes and all they started, ended ones included, in seconds."""
    total = 0.0
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            root = psutil.Process(pid)
            for process in [root, *root.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    times = process.cpu_times()
                    total += times.user + times.system + times.children_user + times.children_system
    return total


def installed_postgres() -> Path | None:
    """The programs of an installed PostgreSQL that has pg_trgm, which Prefect's server needs and the wheel lacks."""
    found = shutil.which("postgres")
    if found is None:
        return None
    binaries = Path(found).resolve().parent
    try:
        told = subprocess.run([binaries / "pg_config", "--sharedir"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return binaries if (Path(told.stdout.strip()) / "extension" / "pg_trgm.control").exists() else None


@dataclass
class Sandbox:
    """The sandbox's process."""

    pid: int
    addresses: Mapping[str, str]
    control: SandboxControl = field(init=False)

    def __post_init__(self) -> None:
        self.control = SandboxControl(self.addresses["control_url"])


@contextmanager
def running_sandbox_process(latency_ms: float = LATENCY_MS) -> Iterator[Sandbox]:
    """``python -m vendor_sandbox`` for the duration of the block."""
    command = [sys.executable, "-m", "vendor_sandbox", "--latency-ms", str(latency_ms)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout as told:
        try:
            yield Sandbox(process.pid, json.loads(told.readline()))
        finally:
            stop(process)


@dataclass
class Servers:
    """Those that are running. A Prefect server is stopped (SIGSTOP) while nobody uses it: idle, it costs a tenth of a core."""

    sandbox: Sandbox
    postgres: PostgresServer | None = None
    prefect: dict[str, tuple[int, Mapping[str, str]]] = field(default_factory=dict)

    def pids(self, store: str, *, prefect: bool) -> list[int]:
        """The servers that a contender uses, the sandbox apart."""
        found = [self.postgres.pid] if store == "postgres" and self.postgres is not None else []
        return found + ([self.prefect[store][0]] if prefect else [])

    @contextmanager
    def awake(self, store: str) -> Iterator[Mapping[str, str]]:
        """Let a Prefect server run; gives the variables its clients need."""
        pid, environment = self.prefect[store]
        os.kill(pid, signal.SIGCONT)
        try:
            yield environment
        finally:
            os.kill(pid, signal.SIGSTOP)


@contextmanager
def running_servers(folder: Path, *, postgres: bool, prefect: set[str]) -> Iterator[Servers]:
    """All that are needed; ``prefect`` names the stores of the Prefect servers, see ``installed_postgres``."""
    with ExitStack() as stack:
        servers = Servers(stack.enter_context(running_sandbox_process()))
        if postgres or "postgres" in prefect:
            servers.postgres = stack.enter_context(running_postgres(installed_postgres()))
        for store in sorted(prefect):
            stack.enter_context(_prefect_server(servers, store, folder))
        yield servers


@contextmanager
def _prefect_server(servers: Servers, store: str, folder: Path) -> Iterator[None]:
    home = folder / f"prefect-{store}"
    home.mkdir()
    settings = dict(BATCHED)
    with ExitStack() as stack:
        if store == "postgres":
            assert servers.postgres is not None
            url = stack.enter_context(servers.postgres.fresh_database())
            settings["PREFECT_API_DATABASE_CONNECTION_URL"] = url.replace("+psycopg", "+asyncpg")
        with _environment(settings):
            server = stack.enter_context(running_prefect_server(home))
        pid = server.server.process.pid
        client = {"PREFECT_API_URL": server.api_url, "PREFECT_HOME": str(home), **QUIET_PREFECT}
        servers.prefect[store] = (pid, client)
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)


@contextmanager
def _environment(more: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in more}
    os.environ.update(more)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
