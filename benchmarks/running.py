"""``python -m benchmarks.running``: how long one onboard-subject run is Running, beside a flow of four empty tasks.

All are served by one process, as `onboard up` serves deployments: each run is a process of its own, started through the API.
They take turns; the medians are compared. Time before Running (starting the process, importing) is not counted, but shown.
Of ours so many may run at a time, and for each run with such a limit Prefect keeps a lease on its place, with a thread and a
client of its own; so the empty flow is served twice, with that limit, as ours is, and without.
"""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final
from uuid import uuid4

import httpx
from prefect import flow, task

from benchmarks.job import Job
from benchmarks.servers import LATENCY_MS, ROOT, Servers, end_in_order, running_servers
from benchmarks.settings import set_environment
from benchmarks.subjects import request_json
from tests.support.processes import running_server
from vendor_sandbox import seed

SERVED: Final = "both are served"
EMPTY, UNLIMITED, OURS = "four-empty-tasks", "four-empty-tasks-unlimited", "onboard-subject"
_ENDS_S: Final = 120.0
_LOOK_S: Final = 0.1


@task
async def empty_task(number: int) -> None:
    """Do nothing."""


@flow(name=EMPTY)
async def four_empty_tasks() -> None:
    """What a run of four tasks costs in Prefect alone."""
    for number in range(4):
        await empty_task(number)


async def serve() -> None:
    """Serve the flows until the process is ended."""
    from prefect.deployments.runner import RunnerDeployment
    from prefect.runner import Runner
    from prefect.types.entrypoint import EntrypointType

    from benchmarks.running import four_empty_tasks as empty  # by its module's name, not as __main__
    from cli.deployments import served, wanted_deployments

    runner = Runner(name="running", query_seconds=1)
    (ours,) = [one for one in wanted_deployments() if one.name == OURS]
    ours_served = served(ours)
    await runner.aadd_deployment(ours_served)
    for name in (EMPTY, UNLIMITED):
        other = RunnerDeployment.from_flow(empty, name=name, entrypoint_type=EntrypointType.MODULE_PATH)
        if name == EMPTY:
            other.concurrency_limit = ours_served.concurrency_limit
            other.concurrency_options = ours_served.concurrency_options
        await runner.aadd_deployment(other)
    print(SERVED, flush=True)
    await runner.start()


@dataclass(frozen=True)
class Timed:
    """One run: seconds from the request to Running, and inside Running."""

    waiting_s: float
    running_s: float


class Api:
    """Starts runs and waits for them, as any program does."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def run(self, name: str, **parameters: Any) -> Timed:
        """One run to its end; it must be Completed, ours Onboarded."""
        of_flow = EMPTY if name == UNLIMITED else name
        deployment = self._client.get(f"deployments/name/{of_flow}/{name}").raise_for_status().json()["id"]
        ends = time.monotonic() + _ENDS_S
        body = {"parameters": parameters, "idempotency_key": str(uuid4())}
        asked = self._client.post(f"deployments/{deployment}/create_flow_run", json=body)
        while (
            asked.status_code == httpx.codes.SERVICE_UNAVAILABLE and time.monotonic() < ends
        ):  # SQLite, when it is busy
            time.sleep(_LOOK_S)
            asked = self._client.post(f"deployments/{deployment}/create_flow_run", json=body)
        run = asked.raise_for_status().json()
        while (state := run["state"])["type"] not in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
            if time.monotonic() > ends:
                raise TimeoutError(f"{name} did not end: {state['name']}")
            time.sleep(_LOOK_S)
            run = self._client.get(f"flow_runs/{run['id']}").raise_for_status().json()
        if state["name"] != ("Onboarded" if name == OURS else "Completed"):
            raise RuntimeError(f"{name} ended {state['name']}: {state['message']}")
        return Timed(run["estimated_start_time_delta"], run["total_run_time"])


@contextmanager
def serving(servers: Servers, folder: Path, store: str) -> Iterator[Api]:
    """The flows, served with a ledger of their own beside the Prefect server on ``store``."""
    with ExitStack() as stack:
        client = stack.enter_context(servers.awake(store))
        url = f"sqlite:///{folder / 'ledger.db'}"
        if store == "postgres":
            assert servers.postgres is not None
            url = stack.enter_context(servers.postgres.fresh_database())
        set_environment(Job(OURS, servers.sandbox.addresses, 1, 1, 1, str(folder), url))
        os.environ.update(client)
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "benchmarks.running", "serve"]
        stack.enter_context(running_server(command, ready_line=SERVED, folder=folder, environment=environment))
        api = httpx.Client(base_url=client["PREFECT_API_URL"] + "/", trust_env=False, timeout=60)
        yield Api(stack.enter_context(api))


def measure(rounds: int, store: str, latency_ms: float) -> dict[str, list[Timed]]:
    """All in turns, after one run of each that is not counted."""
    timed: dict[str, list[Timed]] = {EMPTY: [], UNLIMITED: [], OURS: []}
    with TemporaryDirectory(prefix="onboarding-running-") as made:
        folder = Path(made)
        with running_servers(folder, postgres=store == "postgres", prefect={store}) as servers:
            servers.sandbox.control.seed(seed.many(rounds + 1))
            servers.sandbox.control.switches(latency_ms=latency_ms)
            with serving(servers, folder, store) as api:
                for number in range(1, rounds + 2):
                    each = {name: api.run(name) for name in (EMPTY, UNLIMITED)}
                    each[OURS] = api.run(OURS, request=request_json(number))
                    print(", ".join(f"{name} {one.running_s:.3f} s" for name, one in each.items()), flush=True)
                    if number > 1:
                        for name, one in each.items():
                            timed[name].append(one)
    return timed


def report(timed: dict[str, list[Timed]]) -> str:
    """The medians, with the least and the most, and the ratios of ours to the others."""
    lines = []
    for name, all_of_it in timed.items():
        running, waiting = sorted(one.running_s for one in all_of_it), [one.waiting_s for one in all_of_it]
        lines.append(
            f"{name}: {median(running):.3f} s inside Running ({running[0]:.3f} to {running[-1]:.3f}, {len(running)} runs), "
            f"after {median(waiting):.1f} s"
        )
    medians = {name: median(one.running_s for one in all_of_it) for name, all_of_it in timed.items()}
    ratios = (f"{medians[OURS] / medians[name]:.2f} times {name}" for name in (EMPTY, UNLIMITED))
    return "\n".join([*lines, f"{OURS}: " + ", ".join(ratios)])


def main() -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.running", description=__doc__)
    parser.add_argument("--rounds", type=int, default=11, metavar="N", help="runs of each (default 11)")
    parser.add_argument(
        "--store", choices=("sqlite", "postgres"), default="sqlite", help="of Prefect and of the ledger"
    )
    parser.add_argument("--latency-ms", type=float, default=LATENCY_MS, metavar="MS", help="of each vendor's answer")
    given = parser.parse_args()
    end_in_order()
    print(report(measure(given.rounds, given.store, given.latency_ms)))
    return 0


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        asyncio.run(serve())
    else:
        sys.exit(main())
