"""What several machines would share, as processes of this one: PostgreSQL, a Prefect server on it, vendors, and workers."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from benchmarks.servers import installed_postgres
from cli.local import free_port
from onboarding.keys import LedgerKey
from tests.acceptance.test_batch_workers import is_at_work, kill_with_children, run_prefect, worker
from tests.support.installation import Installation, WarmCommands, sandbox_process, variables, without
from tests.support.postgres import StoppablePostgres, stoppable_postgres
from tests.support.prefect_server import prefect_client, running_prefect_server
from tests.support.processes import Server
from vendor_sandbox import SandboxControl

ENDS_S: Final = 200.0
_LOOK_S: Final = 0.2
_FINAL: Final = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")
Run = dict[str, Any]


def within(seconds: float, found: Callable[[], Any], what: str) -> Any:
    """What ``found`` gives, once that is true; nobody signals what a server knows."""
    ends = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < ends, what
        time.sleep(_LOOK_S)
    return value


class Site:
    """PostgreSQL, a Prefect server that keeps its runs there, the vendors, and process workers with a run each at a time.

    Prefect needs PostgreSQL's pg_trgm, which only an installed PostgreSQL has; else it keeps its runs in SQLite.
    """

    def __init__(self, folder: Path, postgres: StoppablePostgres, addresses: dict[str, str], stack: ExitStack) -> None:
        self.folder = folder
        self.postgres = postgres
        self.control = SandboxControl(addresses["control_url"])
        self.addresses = addresses
        self.inbox = folder / "inbox"
        self.workers: list[Server] = []
        self._stack = stack
        self._workers_begun = 0
        self._prefect = ExitStack()
        self._prefect_runs = False
        stack.callback(self._prefect.close)
        self._port = free_port()
        self._database: dict[str, str] = {}
        if installed_postgres() is not None:
            url = stack.enter_context(postgres.server.fresh_database()).replace("+psycopg", "+asyncpg")
            self._database = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": url}
        self.api = stack.enter_context(prefect_client(f"http://127.0.0.1:{self._port}/api"))
        self._key = LedgerKey.new_text()
        self.environment: dict[str, str] = {}
        (folder / "prefect").mkdir()
        self.inbox.mkdir()

    def start_prefect(self) -> None:
        """Ready when this returns; one that runs is left alone."""
        if not self._prefect_runs:
            home = self.folder / "prefect"
            self._prefect.enter_context(running_prefect_server(home, port=self._port, settings=self._database))
            self._prefect_runs = True

    def stop_prefect(self) -> None:
        """In order, as a service manager does it."""
        self._prefect.close()
        self._prefect_runs = False

    def installation(self, commands: WarmCommands) -> Installation:
        """What the command line and every worker have: the ledger is named by the settings file, the rest is set."""
        made = Installation(self.folder, self.addresses, commands)
        settings = variables(
            ledger_key=self._key,
            batch_task_runs=0,
            batch_workers=3,
            concurrency=2,
            lease_seconds=4,
            inbox=self.inbox,
        )
        prefect = {
            "PREFECT_API_URL": str(self.api.base_url).rstrip("/"),
            "PREFECT_HOME": str(self.folder / "prefect-client"),
            "PREFECT_WORKER_QUERY_SECONDS": "1",
        }
        made.environment = made.changed({**settings, **prefect, **without("ledger_url")})
        return made

    def set_workers_up(self, count: int = 3) -> None:
        """So many workers that live, and do nothing yet."""
        self.start_prefect()  # if a test has failed while it was away
        self.workers = [one for one in self.workers if one.process.poll() is None]
        while len(self.workers) < count:
            self._workers_begun += 1
            folder = self.folder / f"worker-{self._workers_begun}"
            self.workers.append(self._stack.enter_context(worker(self.environment, folder, "--limit", "1")))

    def at_work(self, count: int = 1) -> list[Server]:
        """The workers that have a run, once there are so many."""

        def found() -> list[Server]:
            busy = [one for one in self.workers if one.process.poll() is None and is_at_work(one)]
            return busy if len(busy) >= count else []

        working: list[Server] = within(ENDS_S, found, f"{count} workers are at work")
        return working

    def runs(self, flow: str, batch_id: str) -> list[Run]:
        """The runs of a flow for one batch, the first begun first."""
        body = {
            "flows": {"name": {"any_": [flow]}},
            "flow_runs": {"tags": {"all_": [f"batch:{batch_id}"]}},
            "sort": "EXPECTED_START_TIME_ASC",
        }
        answer = self.api.post("flow_runs/filter", json=body)
        answer.raise_for_status()
        return list(answer.json())

    def start(self, flow: str, **parameters: Any) -> str:
        """Start a deployment by the API; gives the run's id."""
        found = self.api.get(f"deployments/name/{flow}/{flow}").json()
        answer = self.api.post(f"deployments/{found['id']}/create_flow_run", json={"parameters": parameters})
        assert answer.status_code == httpx.codes.CREATED, answer.text
        return str(answer.json()["id"])

    def switch_schedules_off(self) -> None:
        """No deployment is started by its schedule any more."""
        for found in self.api.post("deployments/filter", json={}).json():
            for schedule in found["schedules"]:
                place = f"deployments/{found['id']}/schedules/{schedule['id']}"
                self.api.patch(place, json={"active": False}).raise_for_status()

    def cancel(self, run_id: str) -> None:
        """As the page's Cancel does."""
        body = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
        answer = self.api.post(f"flow_runs/{run_id}/set_state", json=body)
        assert answer.json()["status"] == "ACCEPT", answer.text

    def ended(self, run_id: str) -> str:
        """The name of the state in which a run has ended, once it has."""

        def found() -> Any:
            state = self.api.get(f"flow_runs/{run_id}").json()["state"]
            return state if state["type"] in _FINAL else None

        return str(within(ENDS_S, found, f"run {run_id} ends")["name"])

    def keep_effects(self, path: Path) -> None:
        """Write what happened since the last reset where the auditor reads it."""
        path.write_text("".join(json.dumps(entry) + "\n" for entry in self.control.effects()))


@contextmanager
def running_site(folder: Path, commands: WarmCommands) -> Iterator[Site]:
    """A site with its pool and the deployments, without workers yet."""
    with (
        stoppable_postgres(installed_postgres()) as postgres,
        sandbox_process(folder) as addresses,
        ExitStack() as stack,
    ):
        site = Site(folder, postgres, addresses, stack)
        site.environment = site.installation(commands).environment
        site.start_prefect()
        site.api.post("work_pools/", json={"name": "onboarding", "type": "process"}).raise_for_status()
        run_prefect(site.environment, "deploy", "--all", "--prefect-file", "deployments.yaml")
        site.switch_schedules_off()  # each test starts what it wants
        yield site
        for one in site.workers:  # in order they would take half a minute each, after a run that was cancelled
            if one.process.poll() is None:
                kill_with_children(one)
