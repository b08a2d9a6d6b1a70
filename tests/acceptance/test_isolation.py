"""The demo and the tests' environments contact nothing outside, whatever the shell exports; the demo leaves nothing behind."""

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tests.support.installation import COMMAND, ROOT, Installation, variables

_DEMO_ENDS_S = 300


@dataclass
class Trap:
    """A listener that nobody must contact; remembers who did."""

    port: int
    contacts: list[str] = field(default_factory=list)


@contextmanager
def trap() -> Iterator[Trap]:
    """Listens on loopback and remembers the first bytes of whoever comes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        found = Trap(listener.getsockname()[1])

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:  # the listener was closed
                    return
                with connection:
                    connection.settimeout(5)
                    try:
                        found.contacts.append(repr(connection.recv(200)))
                    except OSError as error:
                        found.contacts.append(type(error).__name__)

        watcher = threading.Thread(target=accept, daemon=True)
        watcher.start()
        try:
            yield found
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            watcher.join(10)


def hostile(port: int, home: Path) -> dict[str, str]:
    """What a shell could export to lead everything to ``port``, and a home folder whose files say the same."""
    url = f"http://127.0.0.1:{port}"
    (home / ".prefect").mkdir(parents=True, exist_ok=True)
    (home / ".prefect" / "profiles.toml").write_text(
        f'active = "real"\n[profiles.real]\nPREFECT_API_URL = "{url}/api"\nPREFECT_LOGGING_LEVEL = "DEBUG"\n'
    )
    settings = home / ".config" / "subject-onboarding" / "settings.toml"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text(f'ledger_url = "postgresql+psycopg://real@127.0.0.1:{port}/real"\nmodes = ["active"]\n')
    return {
        **variables(
            openspecimen_url=f"{url}/openspecimen",
            openspecimen_username="real",
            openspecimen_password="real",
            clinical_one_url=url,
            clinical_one_token_url=f"{url}/token",
            clinical_one_client_id="real",
            clinical_one_client_secret="real",
            clinical_one_scope="real",
            clinical_one_dnd_path="real",
            ledger_url=f"postgresql+psycopg://real@127.0.0.1:{port}/real",
            ledger_key="real",
            modes="active",
            settings_file=settings,
            allow_plain_http="true",
            lease_seconds=0.2,
            request_timeout_seconds=0.01,
        ),
        "PREFECT_API_URL": f"{url}/api",
        "PREFECT_API_KEY": "real",
        "PREFECT_PROFILE": "real",
        "PREFECT_HOME": str(home / ".prefect"),
        "PREFECT_PROFILES_PATH": str(home / ".prefect" / "profiles.toml"),
        "PREFECT_API_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://real@127.0.0.1:{port}/real",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://real@127.0.0.1:{port}/real",
        "DOCKET_URL": f"redis://127.0.0.1:{port}",
        **{
            name: url
            for proxy in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "FTP_PROXY")
            for name in (proxy, proxy.lower())
        },
        "PGHOST": "127.0.0.1",
        "PGPORT": str(port),
        "HOME": str(home),
    }


@dataclass
class Demo:
    """A demo that runs in a session of its own, and every process that it ever started."""

    process: subprocess.Popen[str]
    temporary: Path
    seen: dict[int, psutil.Process] = field(default_factory=dict)

    def read_until(self, words: str) -> str:
        """Read the output up to a line with these words, and note who runs then."""
        assert self.process.stdout is not None
        read = ""
        for line in self.process.stdout:
            read += line
            self.look()
            if words in line:
                return read
        raise AssertionError(f"the demo did not say {words!r}:\n{read}")

    def look(self) -> None:
        """Note the processes that the demo has now."""
        try:
            for process in psutil.Process(self.process.pid).children(recursive=True):
                self.seen[process.pid] = process
        except psutil.NoSuchProcess:
            return

    def left_behind(self) -> list[str]:
        """The processes that still run, and the files that are still there."""
        running = [process for process in self.seen.values() if process.is_running()]
        alive = [process for process in running if process.status() != psutil.STATUS_ZOMBIE]
        return [str(process) for process in alive] + [str(path) for path in self.temporary.iterdir()]


@contextmanager
def running_demo(folder: Path, **environment: str) -> Iterator[Demo]:
    """The demo, killed with all it started at the end of the block if it still runs."""
    temporary = folder / "tmp"
    temporary.mkdir()
    inherited = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "TMPDIR": str(temporary)}
    process = subprocess.Popen(
        [*COMMAND, "demo"],
        env={**inherited, **environment},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    demo = Demo(process, temporary)
    with process:
        try:
            yield demo
        finally:
            demo.look()
            for one in [psutil.Process(process.pid), *demo.seen.values()] if process.poll() is None else []:
                if one.is_running():
                    one.kill()


def test_the_demo_runs_to_its_end_contacts_no_one_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with trap() as caught, running_demo(tmp_path, **hostile(caught.port, tmp_path / "home")) as demo:
        told = demo.read_until("has been stopped again")
        assert demo.process.wait(_DEMO_ENDS_S) == 0
    assert caught.contacts == []
    assert demo.left_behind() == []
    assert len(demo.seen) >= 3, "a sandbox, a Prefect server and the commands were seen"
    scenes = ["A subject is onboarded", "not dispensed yet", "The vendor refuses", "is killed", "All cases"]
    places = [told.index(f"{number}. ") for number, _ in enumerate(scenes, 1)]
    assert all(scene in told for scene in scenes)
    assert places == sorted(places)
    for words in ("ASCI123", "AwaitingDispensation", "CPR_DUP_PPID", "SIGKILL", "PROBE_FOUND_APPLIED", "exactly once"):
        assert words in told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGINT, "Starting stand-ins"),
        (signal.SIGTERM, "They run: Prefect"),
        (signal.SIGHUP, "$ onboard subject"),
    ],
)
def test_a_demo_that_is_interrupted_leaves_nothing_behind(tmp_path: Path, number: signal.Signals, moment: str) -> None:
    with running_demo(tmp_path) as demo:
        demo.read_until(moment)
        demo.process.send_signal(number)
        rest = demo.read_until("interrupted")
        assert demo.process.wait(_DEMO_ENDS_S) == 1
    assert "Traceback" not in rest
    assert demo.left_behind() == []


def test_a_demo_whose_server_does_not_start_says_why_and_leaves_nothing_behind(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "uvicorn.py").write_text('raise SystemExit("this uvicorn is broken")\n')
    with running_demo(tmp_path, PYTHONPATH=f"{broken}{os.pathsep}{ROOT}") as demo:
        told = demo.read_until("this uvicorn is broken")
        assert demo.process.wait(_DEMO_ENDS_S) == 1
    assert "the Prefect server did not start" in told
    assert "Traceback" not in told
    assert demo.left_behind() == []


def test_the_environment_of_make_contacts_no_one(tmp_path: Path) -> None:
    with trap() as caught:
        environment = {**os.environ, **hostile(caught.port, tmp_path)}
        environment.pop("PYTHONPATH", None)
        command = ["sh", str(ROOT / "scripts" / "clean_env.sh"), "env"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=30)
    names = {line.partition("=")[0] for line in done.stdout.splitlines()}
    assert {name for name in names if name.startswith(("ONBOARDING_", "PREFECT_", "DOCKET_", "PG"))} == set()
    assert {name for name in names if name.lower().endswith("_proxy")} == set()
    assert caught.contacts == []


def test_vendors_are_never_asked_through_a_proxy(installation: Installation) -> None:
    with trap() as caught:
        url = f"http://127.0.0.1:{caught.port}"
        proxies = dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"), url)
        assert installation.run_afresh("subject", installation.request(), variables=dict(proxies)).status == 0
        assert installation.run("doctor", variables=dict(proxies)).status == 0
    assert caught.contacts == []


def test_loopback_only_keeps_every_address_of_another_machine_from_being_contacted(installation: Installation) -> None:
    for host in (
        "10.0.0.1",
        "example.org",
        "192.0.2.1",
        "[2001:db8::1]",
        "0.0.0.0",  # noqa: S104 - to be refused
        "127.0.0.1.nip.io",
        "localhost.org",
    ):
        for name in ("openspecimen_url", "clinical_one_url", "clinical_one_token_url"):
            ran = installation.run(
                "subject", installation.request(), variables=dict(variables(**{name: f"https://{host}/x"}))
            )
            assert ran.status == 2, host
            assert f"ONBOARDING_{name.upper()}: is not on this machine" in ran.said[0]
    assert installation.requests() == []
