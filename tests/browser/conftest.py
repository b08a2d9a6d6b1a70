"""One `onboard up` and one browser for all tests of this folder; a page of its own for each."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Browser, expect

from cli.local import free_port
from tests.browser.chromium import installed_chromium, running_chromium
from tests.browser.prefect_page import PrefectPage
from tests.support.installation import COMMAND, ROOT, variables
from tests.support.prefect_server import prefect_client
from tests.support.processes import running_server
from vendor_sandbox import SandboxControl

_PICTURES = ROOT / "docs" / "images"
_SHOWN_MS = 180_000  # an API call of Prefect on SQLite can wait for a lock for a minute


@dataclass(frozen=True)
class House:
    """A running `onboard up`: where its page is, its folder, and the control of its stand-ins."""

    address: str
    folder: Path
    control: SandboxControl

    @property
    def inbox(self) -> Path:
        """The folder from which files are taken."""
        return self.folder / "inbox"


@pytest.fixture(scope="package")
def chromium(request: pytest.FixtureRequest) -> Iterator[Browser]:
    """The browser. Not for the whole session: while it runs, this thread can run no other event loop."""
    executable = installed_chromium()
    if executable is None:
        why = "no Chromium on this machine (Debian: apt-get install chromium)"
        if request.config.getoption("--require-browser"):
            pytest.fail(why)
        pytest.skip(why)
    expect.set_options(timeout=_SHOWN_MS)
    with running_chromium(executable) as browser:
        yield browser


@pytest.fixture(scope="package")
def house(chromium: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """`onboard up`, with its stand-ins, its schedules off: what runs here is started on the page."""
    folder = tmp_path_factory.mktemp("browser") / "up"
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    quick = variables(request_timeout_seconds=10, settle_seconds=1, lease_seconds=20)
    environment = {**os.environ, **quick, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    command = [*COMMAND, "up", "--port", str(port), "--folder", str(folder)]
    with running_server(command, ready_line="In another terminal", folder=folder.parent, environment=environment) as up:
        family = [up.process.pid, *(one.pid for one in psutil.Process(up.process.pid).children(recursive=True))]
        _switch_schedules_off(f"{address}/api")
        line = next(line for line in (folder / "sandbox.json").read_text().splitlines() if line[0] == "{")
        yield House(address, folder, SandboxControl(json.loads(line)["control_url"]))
    left = [pid for pid in family if psutil.pid_exists(pid)]
    for pid in left:
        psutil.Process(pid).kill()
    assert not left, "onboard up left processes behind"
    assert "Everything is stopped" in "".join(up.log)


@pytest.fixture
def page(chromium: Browser, house: House, request: pytest.FixtureRequest) -> Iterator[PrefectPage]:
    """A page with nothing in its memory, as of a person who opens it for the first time."""
    pictures = _PICTURES if request.config.getoption("--screenshots") else None
    context = chromium.new_context(
        viewport={"width": 1280, "height": 900}, locale="en-US", timezone_id="Etc/UTC", color_scheme="light"
    )
    context.set_default_timeout(_SHOWN_MS)
    try:
        yield PrefectPage(context.new_page(), house.address, pictures)
    finally:
        house.control.remove_faults()
        context.close()


def _switch_schedules_off(api: str) -> None:
    with prefect_client(api) as client:
        for name in ("resume-cases", "take-inbox"):
            found = client.get(f"deployments/name/{name}/{name}").raise_for_status().json()
            for schedule in found["schedules"]:
                place = f"deployments/{found['id']}/schedules/{schedule['id']}"
                client.patch(place, json={"active": False}).raise_for_status()
