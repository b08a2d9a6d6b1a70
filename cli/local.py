"""Processes on this machine that `demo` and `up` start: the sandbox and a Prefect server. Each is ended by its own id."""

import errno
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from cli.running import undivided
from onboarding.errors import OnboardingError

LOOPBACK: Final = "127.0.0.1"
HOSTILE_PREFIXES: Final = ("ONBOARDING_", "PREFECT_", "DOCKET_", "PG")
HOSTILE_NAMES: Final = frozenset(
    {"ALL_PROXY", "FTP_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "NETRC", "SSLKEYLOGFILE", "DATABASE_URL"}
)
QUIET_PREFECT: Final[Mapping[str, str]] = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_UI_API_URL": "/api",
}
# Task runs reach the server as events; noted in batches they cost it a third of the time.
BATCHED_PREFECT: Final[Mapping[str, str]] = {
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "500",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "1",
}
_PORTS_NOT_LENT: Final = range(10_240, 32_768)  # Linux lends from 32,768 on, macOS and RFC 6335 from 49,152
_PORTS_TRIED: Final = 100
_SERVER_STARTS_S: Final = 240.0
_SANDBOX_STARTS_S: Final = 60.0
_ENDS_S: Final = 20.0
_SHOWN_LINES: Final = 12


class DidNotStart(OnboardingError):
    """A process of ours did not start; says which, and how its log ends (the log itself is removed with the folder)."""

    def __init__(self, what: str, log: Path) -> None:
        lines = log.read_text("utf-8", errors="replace").strip().splitlines()
        super().__init__("\n".join([f"{what}; its log ends so:" if lines else f"{what}.", *lines[-_SHOWN_LINES:]]))


@dataclass(frozen=True)
class Sandbox:
    """The running stand-ins: their addresses and the settings that point at them."""

    control_url: str
    settings: Mapping[str, str]
    process: subprocess.Popen[bytes]


def clean_environment() -> dict[str, str]:
    """This process's variables without any that could lead to a real system, a real server or a real ledger."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(HOSTILE_PREFIXES) and name.upper() not in HOSTILE_NAMES
    }


def free_port(among: Sequence[int] = _PORTS_NOT_LENT) -> int:
    """A port of the loopback address on which something can listen right now.

    It is none of those that systems lend to outgoing connections: one of these would now and then take it before, or
    whenever, its owner does not listen.

    Raises:
        OSError: none of a hundred tried is free.
    """
    for _ in range(_PORTS_TRIED):
        port = secrets.choice(among)
        if port_problem(port) is None:
            return port
    raise OSError(errno.EADDRINUSE, "no free port was found on the loopback address")


def port_problem(port: int) -> str | None:
    """Why nothing can listen on a port of this machine; None if something can."""
    try:
        socket.create_server((LOOPBACK, port)).close()
    except OSError as error:
        # The error's own text repeats the address.
        return os.strerror(error.errno).lower() if error.errno else "cannot be used"
    return None


@contextmanager
def started(
    command: list[str], *, environment: Mapping[str, str], log: Path, folder: Path, kept_open: tuple[int, ...] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process in a session of its own; at the end ask it to stop, and kill it if it does not.

    ``kept_open``: files that it holds open for as long as it lives, such as a lock.
    """
    process: subprocess.Popen[bytes] | None = None
    try:
        with log.open("ab") as out, undivided():
            process = subprocess.Popen(
                command,
                env=dict(environment),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                pass_fds=kept_open,
            )
        yield process
    finally:
        if process is not None:
            end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Stop a process that we started, and what it started in its own session."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(_ENDS_S)
        except subprocess.TimeoutExpired:
            continue


@contextmanager
def running_sandbox(
    folder: Path, environment: Mapping[str, str], *options: str, kept_open: tuple[int, ...] = ()
) -> Iterator[Sandbox]:
    """Run the stand-ins with an effect log in ``folder``; ``options`` are those of ``python -m vendor_sandbox``."""
    out = folder / "sandbox.json"
    out.unlink(missing_ok=True)  # of an earlier run, whose addresses it would be taken for
    command = [sys.executable, "-m", "vendor_sandbox", "--effect-log", str(folder / "effects.jsonl"), *options]
    with started(command, environment=environment, log=out, folder=folder, kept_open=kept_open) as process:
        deadline = time.monotonic() + _SANDBOX_STARTS_S
        while not (lines := [line for line in out.read_text("utf-8").splitlines(keepends=True) if line[0] == "{"]):
            if process.poll() is not None or time.monotonic() > deadline:
                raise DidNotStart("the vendor sandbox did not start", out)
            time.sleep(0.05)
        addresses = json.loads(lines[0])
        yield Sandbox(addresses["control_url"], sandbox_settings(addresses), process)


def sandbox_settings(addresses: Mapping[str, str]) -> dict[str, str]:
    """The settings that connect to the stand-ins, with the log-ins they know."""
    from vendor_sandbox import seed

    return {
        "ONBOARDING_OPENSPECIMEN_URL": addresses["openspecimen_url"],
        "ONBOARDING_OPENSPECIMEN_USERNAME": seed.USERNAME,
        "ONBOARDING_OPENSPECIMEN_PASSWORD": seed.PASSWORD,
        "ONBOARDING_CLINICAL_ONE_URL": addresses["clinical_one_url"],
        "ONBOARDING_CLINICAL_ONE_TOKEN_URL": addresses["token_url"],
        "ONBOARDING_CLINICAL_ONE_CLIENT_ID": seed.CLIENT_ID,
        "ONBOARDING_CLINICAL_ONE_CLIENT_SECRET": seed.CLIENT_SECRET,
        "ONBOARDING_CLINICAL_ONE_SCOPE": seed.SCOPE,
        "ONBOARDING_LOOPBACK_ONLY": "true",
    }


@contextmanager
def starting_prefect(
    folder: Path, environment: Mapping[str, str], *, port: int | None = None, kept_open: tuple[int, ...] = ()
) -> Iterator["PrefectServer"]:
    """Begin to run a Prefect server, on a free port if none is given; ``wait`` until it answers."""
    port = free_port() if port is None else port
    api_url = f"http://{LOOPBACK}:{port}/api"
    own = {**environment, **QUIET_PREFECT, "PREFECT_HOME": str(folder / "prefect"), "PREFECT_API_URL": api_url}
    command = [sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"]
    command += ["--host", LOOPBACK, "--port", str(port), "--log-level", "warning", "--no-access-log"]
    log = folder / "prefect-server.log"
    with ExitStack() as stack:
        process = stack.enter_context(started(command, environment=own, log=log, folder=folder, kept_open=kept_open))
        yield PrefectServer(api_url, own, process, log)


@dataclass(frozen=True)
class PrefectServer:
    """A Prefect server of ours and the variables with which a process speaks to it."""

    api_url: str
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes]
    log: Path

    def answers(self) -> bool:
        """Whether the server answers now; raises ``DidNotStart`` if it has ended."""
        if self.process.poll() is not None:
            raise DidNotStart("the Prefect server did not start", self.log)
        try:
            return httpx.get(f"{self.api_url}/health", timeout=2, trust_env=False).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def wait(self) -> None:
        """Wait until the server answers."""
        deadline = time.monotonic() + _SERVER_STARTS_S
        while not self.answers():
            if time.monotonic() > deadline:
                raise DidNotStart(f"the Prefect server did not answer in {_SERVER_STARTS_S:.0f} s", self.log)
            time.sleep(0.2)
