"""Several workers share one batch: the leases keep them apart, and one that is killed delays only its chunk."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.acceptance.test_batch import audited, changes, each_effect_once, violations
from tests.cli.batch_lab import many, outcomes
from tests.support.installation import ROOT, Installation, variables
from tests.support.prefect_server import PrefectServer
from tests.support.processes import Server, running_server

__all__ = ["audited"]

pytestmark = pytest.mark.prefect
_ENDS_S = 400


def run_prefect(environment: dict[str, str], *words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", *words],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=_ENDS_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def worker(environment: dict[str, str], folder: Path, *options: str) -> Iterator[Server]:
    """A process worker of the pool; its runs have its environment."""
    folder.mkdir()
    command = [
        sys.executable,
        "-m",
        "prefect",
        "worker",
        "start",
        "--pool",
        "onboarding",
        "--type",
        "process",
        *options,
    ]
    with running_server(command, ready_line="started!", folder=folder, environment=environment) as server:
        yield server


def kill_with_children(server: Server) -> int:
    """SIGKILL for a worker and all that it started; returns how many processes that were."""
    process = psutil.Process(server.process.pid)
    family = [process, *process.children(recursive=True)]
    for one in family:
        one.kill()
    return len(family)


def test_a_batch_that_no_deployment_can_share_says_so(audited: Installation, observing_server: PrefectServer) -> None:
    audited.environment |= variables(batch_task_runs=0, batch_workers=2)
    audited.environment |= {
        "PREFECT_API_URL": observing_server.api_url,
        "PREFECT_HOME": str(audited.folder / "prefect-client"),
    }
    ran = audited.run_afresh("batch", str(many(audited, 2)))
    assert ran.status == 1
    assert "there is no deployment onboard-chunk/onboard-chunk" in ran.err
    assert audited.effects() == []


def is_at_work(server: Server) -> bool:
    """Whether a worker has a child that works for it."""
    return bool(psutil.Process(server.process.pid).children())


def test_workers_share_a_batch_and_one_that_is_killed_with_its_children_delays_only_its_chunk(
    audited: Installation, observing_server: PrefectServer
) -> None:
    subjects = 90
    audited.environment |= variables(batch_task_runs=0, batch_workers=3, concurrency=4, lease_seconds=4)
    audited.environment |= {
        "PREFECT_API_URL": observing_server.api_url,
        "PREFECT_HOME": str(audited.folder / "prefect-client"),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
    }
    run_prefect(audited.environment, "work-pool", "create", "onboarding", "--type", "process", "--overwrite")
    run_prefect(audited.environment, "deploy", "--name", "onboard-chunk", "--prefect-file", "deployments.yaml")
    path = many(audited, subjects)
    with (
        worker(audited.environment, audited.folder / "first") as first,
        worker(audited.environment, audited.folder / "second") as second,
        audited.started("batch", str(path)) as process,
    ):
        audited.control.effects(at_least=20, timeout_s=_ENDS_S)
        assert kill_with_children(first if is_at_work(first) else second) >= 2, "it was at work"
        out, err = process.communicate(timeout=_ENDS_S)
    assert process.returncode == 0, out + err
    assert outcomes(path) == {"done": subjects}
    assert changes(audited) == each_effect_once(subjects)
    assert violations(audited) == []
