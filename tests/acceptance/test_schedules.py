"""Schedules really fire: a scheduled run resumes a case that waits, another takes a file from the inbox."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from cli.up_folder import SERVED
from tests.acceptance.scaled_out import within
from tests.cli.batch_lab import effects, many
from tests.cli.test_resume import NOT_DISPENSED
from tests.support.batch_files import EVERY_EFFECT, read_csv
from tests.support.installation import Installation, variables
from tests.support.prefect_server import PATIENT_S, PrefectServer, prefect_client
from tests.support.processes import running_server
from tests.support.requests import STUDY_ID, example
from vendor_sandbox import seed

pytestmark = pytest.mark.prefect
_FIRES_S: Final = 240.0
_ENDS_S: Final = 60.0 + PATIENT_S  # a run that has begun may wait for Prefect's server
_SCHEDULED: Final = ("resume-cases", "take-inbox")


@pytest.fixture
def inbox(installation: Installation) -> Path:
    """The installation's inbox; a dispensation is looked for again after a second."""
    folder = installation.folder / "inbox"
    folder.mkdir()
    installation.environment |= variables(inbox=folder, dispensation_check_seconds=1)
    return folder


class Served:
    """The deployments as `onboard up` serves them, and the API of their server."""

    def __init__(self, api: httpx.Client) -> None:
        self._api = api

    def deployment(self, name: str) -> dict[str, Any]:
        answer = self._api.get(f"deployments/name/{name}/{name}")
        answer.raise_for_status()
        return dict(answer.json())

    def fires_every(self, name: str, seconds: float) -> None:
        """Give the deployment's own schedule another interval, and switch the other schedule off."""
        for one in _SCHEDULED:
            found = self.deployment(one)
            (schedule,) = found["schedules"]
            change = {"schedule": {"interval": seconds}, "active": True} if one == name else {"active": False}
            answer = self._api.patch(f"deployments/{found['id']}/schedules/{schedule['id']}", json=change)
            assert answer.is_success, answer.text

    def ran(self, name: str, ending: str) -> dict[str, Any]:
        """A run of the deployment that ended so, once there is one."""
        body = {
            "deployments": {"id": {"any_": [self.deployment(name)["id"]]}},
            "flow_runs": {"state": {"name": {"any_": [ending]}}},
        }

        def found() -> Any:
            runs = self._api.post("flow_runs/filter", json=body).json()
            return runs and runs[0]

        run: dict[str, Any] = within(_FIRES_S, found, f"a run of {name} ends {ending}")
        return run

    def remove(self) -> None:
        """Leave the server as it was."""
        for one in self._api.post("deployments/filter", json={}).json():
            self._api.delete(f"deployments/{one['id']}")


@contextmanager
def served(installation: Installation, server: PrefectServer) -> Iterator[Served]:
    """Every deployment, served by a process with the installation's settings."""
    environment = {
        **installation.environment,
        "PREFECT_API_URL": server.api_url,
        "PREFECT_HOME": str(installation.folder / "prefect-client"),
    }
    command = [sys.executable, "-m", "cli.serving"]
    with (
        prefect_client(server.api_url) as api,
        running_server(command, ready_line=SERVED, folder=installation.folder, environment=environment) as process,
    ):
        serving = Served(api)
        try:
            yield serving
        finally:
            process.process.terminate()  # runs under way end first
            process.process.wait(_ENDS_S)
            serving.remove()


def test_a_scheduled_run_resumes_a_case_whose_device_was_dispensed_since(
    installation: Installation, inbox: Path, observing_server: PrefectServer
) -> None:
    waits = installation.run("subject", installation.request(example(**NOT_DISPENSED)))
    assert waits.status == 3, waits.out + waits.err
    installation.control.dispense(STUDY_ID, "test", seed.inventory_id(5), seed.subject_id(5), visit_id=seed.VISIT_ID)
    with served(installation, observing_server) as serving:
        serving.fires_every("resume-cases", 10)
        run = serving.ran("resume-cases", "Resumed")
    assert run["auto_scheduled"] is True
    assert run["state"]["message"] == "1 case was due: 1 Onboarded."
    assert installation.case()["status"] == "done"


def test_a_scheduled_run_takes_a_file_from_the_inbox_and_leaves_its_results(
    installation: Installation, inbox: Path, observing_server: PrefectServer
) -> None:
    subjects = 3
    file = many(installation, subjects).rename(inbox / "site-12.csv")
    minute_ago = time.time() - 60
    os.utime(file, (minute_ago, minute_ago))
    with served(installation, observing_server) as serving:
        serving.fires_every("take-inbox", 10)
        run = serving.ran("take-inbox", "InboxTaken")
    assert run["auto_scheduled"] is True
    assert run["state"]["message"] == "1 file: 1 BatchDone."
    results, taken = sorted(
        (inbox / "done").iterdir(), key=lambda path: path.name.endswith(".results.csv"), reverse=True
    )
    assert [row["outcome"] for row in read_csv(results.read_text("utf-8"))] == ["done"] * subjects
    assert taken.name.startswith("site-12.")
    assert not file.exists()
    assert effects(installation) == {**dict.fromkeys(EVERY_EFFECT, subjects), "dnd_exception_created": 1}
