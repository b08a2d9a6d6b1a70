"""`onboard up` as a person uses it: one command, the page, a run started by the API, Ctrl-C, and a second start."""

import json
import os
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from cli.demo import documented_request
from cli.example_batch import SUBJECTS
from cli.local import clean_environment, free_port, running_sandbox
from onboarding.endings import EXIT_ATTENTION
from onboarding.keys import LedgerKey
from tests.support.installation import COMMAND, ROOT, variables
from tests.support.prefect_server import prefect_client
from vendor_sandbox import SandboxControl, seed

pytestmark = pytest.mark.prefect
_ENDS_S = 120.0
_RUN_ENDS_S = 90.0
_SCHEDULED_S = 180.0


@dataclass
class Up:
    """A running `onboard up`: its process, its API, its folder, and every process that it started."""

    process: subprocess.Popen[str]
    api: httpx.Client
    folder: Path
    said: str

    def family(self) -> list[psutil.Process]:
        """The command and everything that it started, runs included."""
        me = psutil.Process(self.process.pid)
        return [me, *me.children(recursive=True)]

    def sandbox(self) -> SandboxControl:
        """The stand-ins' control interface."""
        line = next(line for line in (self.folder / "sandbox.json").read_text().splitlines() if line[0] == "{")
        return SandboxControl(json.loads(line)["control_url"])

    def start(self, number: int, **changes: Any) -> str:
        """Start a deployment by the API, as a program does; gives the run's id."""
        found = self.api.get("deployments/name/onboard-subject/onboard-subject").json()
        request = documented_request(number, **changes)
        answer = self.api.post(
            f"deployments/{found['id']}/create_flow_run",
            json={"parameters": {"request": request}, "idempotency_key": f"subject-{number}"},
        )
        assert answer.status_code == httpx.codes.CREATED, answer.text
        return str(answer.json()["id"])

    def ended(self, run_id: str) -> tuple[str, str]:
        """Type and name of the state in which a run ended."""
        deadline = time.monotonic() + _RUN_ENDS_S
        while time.monotonic() < deadline:
            state = self.api.get(f"flow_runs/{run_id}").json()["state"]
            if state["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
                return state["type"], state["name"]
            time.sleep(0.2)
        raise AssertionError(f"the run did not end: {state}")

    def interrupted(self, meanwhile: Callable[["Up"], None] = lambda _: None) -> str:
        """Ctrl-C, then ``meanwhile``; what the command says until it has ended. None of its processes is left."""
        family = self.family()
        self.process.send_signal(signal.SIGINT)
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        assert "runs under way are finished first" in said
        meanwhile(self)
        out, _ = self.process.communicate(timeout=_ENDS_S)
        assert "Everything is stopped" in out
        assert self.process.returncode == 0
        assert [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE] == []
        return said + out


@contextmanager
def running_up(folder: Path, port: int, given: Mapping[str, str] | None = None) -> Iterator[Up]:
    """`onboard up` in a session of its own, with ``given`` set too, entered once it says that everything runs."""
    quick = variables(request_timeout_seconds=10, settle_seconds=1, lease_seconds=20)
    environment = {**os.environ, **quick, **(given or {}), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [*COMMAND, "up", "--port", str(port), "--folder", str(folder)],
        env=environment,
        cwd=folder.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    seen = {process.pid: psutil.Process(process.pid)}
    with process, prefect_client(f"http://127.0.0.1:{port}/api") as api:
        try:
            assert process.stdout is not None
            lines: list[str] = []
            for line in process.stdout:
                lines.append(line)
                if "In another terminal" in line:
                    break
            up = Up(process, api, folder, "".join(lines))
            assert process.poll() is None, up.said
            seen |= {one.pid: one for one in up.family()}
            yield up
        finally:
            for one in seen.values():  # when a test has failed
                if one.is_running():
                    one.kill()


def let_go(up: Up) -> None:
    """The vendor answers at last."""
    up.sandbox().remove_faults()


def interrupt_again(up: Up) -> None:
    """A second Ctrl-C."""
    up.process.send_signal(signal.SIGINT)


def status(folder: Path, **secrets: str) -> list[dict[str, Any]]:
    """What `onboard status` shows in another terminal, with nothing set but what `up` says."""
    done = onboard(folder, "status", "--json", **secrets)
    done.check_returncode()
    return [json.loads(line) for line in done.stdout.splitlines()]


def onboard(folder: Path, *words: str, **secrets: str) -> subprocess.CompletedProcess[str]:
    """A command in another terminal, with nothing set but what `up` says."""
    return subprocess.run(
        ["/bin/sh", "-c", f'. {folder}/environment; exec {COMMAND[0]} -m cli.main "$@"', "sh", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), **secrets},
        cwd=folder.parent,
        capture_output=True,
        text=True,
        timeout=_ENDS_S,
        check=False,
    )


def copied(up: Up) -> subprocess.CompletedProcess[str]:
    """What becomes of the command for another terminal, in one that knows nothing of this installation."""
    (line,) = [line for line in up.said.splitlines() if "In another terminal" in line]
    return subprocess.run(
        ["/bin/sh", "-c", line.partition(":")[2]],
        env={"PATH": "/usr/bin:/bin", "HOME": str(up.folder.parent)},
        cwd=up.folder.parent,
        capture_output=True,
        text=True,
        timeout=_ENDS_S,
        check=False,
    )


def hold_a_run(up: Up, number: int) -> str:
    """A run whose update the vendor has applied and not answered yet."""
    rule = up.sandbox().add_fault("openspecimen", "hold", call="update_registration", when="after")
    run_id = up.start(number)
    up.sandbox().held(fault_id=rule, timeout_s=_RUN_ENDS_S)
    return run_id


def test_one_command_runs_everything_and_further_starts_go_on_with_the_same_data(tmp_path: Path) -> None:
    folder, port = tmp_path / "up", free_port()
    with running_up(folder, port) as up:
        looked = copied(up)
        assert (looked.returncode, looked.stderr) == (0, ""), "its ledger is there from the start"
        page = up.api.get(f"http://127.0.0.1:{port}/", follow_redirects=True)
        assert page.status_code == 200
        assert "<html" in page.text.lower()
        schedules = {
            name: [one["active"] for one in up.api.get(f"deployments/name/{name}/{name}").json()["schedules"]]
            for name in ("resume-cases", "take-inbox")
        }
        assert schedules == {"resume-cases": [True], "take-inbox": [True]}
        first = up.start(1)
        assert up.ended(first) == ("COMPLETED", "Onboarded")
        assert [case["status"] for case in status(folder)] == ["done"]
        drained = hold_a_run(up, 6)
        up.interrupted(let_go)

    with running_up(folder, port) as up:
        assert up.ended(first) == ("COMPLETED", "Onboarded")
        assert up.ended(drained) == ("COMPLETED", "Onboarded"), "it was let end before everything stopped"
        known = up.sandbox().state()["clinical_one"]["studies"][seed.STUDY_ID]["test"]
        assert {seed.inventory_id(1), seed.inventory_id(6)} == set(known["devices"]), "the stand-ins remember"
        # It shares the exception that the first start made.
        assert up.ended(up.start(2, device={"vendor_code": "XYZ123"})) == ("COMPLETED", "Onboarded")
        assert len(up.sandbox().state()["clinical_one"]["studies"][seed.STUDY_ID]["test"]["exceptions"]) == 1
        ended = hold_a_run(up, 3)
        assert "ended in the middle" in up.interrupted(interrupt_again)

    with running_up(folder, port) as up:
        assert up.ended(ended)[0] == "CRASHED", "no run is left that looks as if it went on"
        deadline = time.monotonic() + _SCHEDULED_S
        while time.monotonic() < deadline:
            registration = {case["subject"]: case for case in status(folder)}[seed.subject_id(3)]["steps"][0]
            if registration["status"] == "done":
                break
            time.sleep(1)
        assert registration["status"] == "done", "the schedule goes on with the case"
        (batch,) = [line.split(maxsplit=3)[-1] for line in up.said.splitlines() if "Batch to try" in line]
        tried = onboard(folder, "batch", batch, "--json")
        assert tried.returncode == EXIT_ATTENTION, "it leaves one row to be mended"
        subjects = {seed.SeededSubject(number).subject_id for number in range(1, SUBJECTS + 1)}
        stand = Counter(case["status"] for case in status(folder) if case["subject"] in subjects)
        assert stand == {"done": SUBJECTS - 1, "attention": 1}
        up.interrupted()


def test_where_vendors_are_named_no_secret_stays_in_the_folder(tmp_path: Path) -> None:
    folder, port = tmp_path / "up", free_port()
    key, password = LedgerKey.new_text(), "hunter2"
    with running_sandbox(tmp_path, {**clean_environment(), "PYTHONPATH": str(ROOT)}) as sandbox:
        named = {
            **sandbox.settings,
            "ONBOARDING_LEDGER_URL": f"sqlite:///{tmp_path}/ledger.db",
            "ONBOARDING_LEDGER_KEY": key,
            "PGPASSWORD": password,
        }
        with running_up(folder, port, named) as up:
            assert "ONBOARDING_LEDGER_KEY, ONBOARDING_OPENSPECIMEN_PASSWORD, PGPASSWORD: not in" in up.said
            assert up.ended(up.start(1)) == ("COMPLETED", "Onboarded")
            assert [case["status"] for case in status(folder, ONBOARDING_LEDGER_KEY=key)] == ["done"]
            said = up.said + up.interrupted()
    secrets = (key, password, seed.PASSWORD, seed.CLIENT_SECRET)
    assert not [secret for secret in secrets if secret in said]
    kept = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert not [file for file, text in kept.items() for secret in secrets if secret.encode() in text]


def test_what_is_in_the_way_ends_a_start_without_leaving_a_process(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [*COMMAND, "up", "--port", str(port), "--folder", str(tmp_path / "up")],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=_ENDS_S,
            check=False,
        )
    assert done.returncode == 2
    assert f"{port} is in use" in done.stderr
