"""An installation of the product for tests: a ledger of its own, settings that point at a sandbox, and its command line."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from cli.local import sandbox_settings
from tests.support.processes import running_server
from tests.support.requests import example
from vendor_sandbox import SandboxControl

ROOT: Final = Path(__file__).parents[2]
COMMAND: Final = (sys.executable, "-m", "cli.main")
IGNORING_SIGINT: Final = ("sh", "-c", "trap '' INT; exec \"$@\"", "sh")
"""Before a command: it is run as in the background of a script."""
_ENDS_S: Final = 120


@dataclass(frozen=True)
class Ran:
    """How a command ended, and what it printed."""

    status: int
    out: str
    err: str

    @property
    def json_lines(self) -> list[dict[str, Any]]:
        """Standard output as JSON lines; every line must be one."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def said(self) -> list[str]:
        """The lines on standard error, which all must be ours."""
        lines = self.err.splitlines()
        assert all(line.startswith("onboard: ") for line in lines), self.err
        return [line.removeprefix("onboard: ") for line in lines]


class WarmCommands:
    """Runs commands in processes forked from one that has imported the command line. See ``warm_commands``."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process = process
        self._folder = folder

    def run(self, words: tuple[str, ...], environment: Mapping[str, str], folder: Path, given: bytes) -> Ran:
        """Run one command to its end."""
        places = {name: self._folder / name for name in ("in", "out", "err")}
        places["in"].write_bytes(given)
        command = {
            "words": words,
            "environment": dict(environment),
            "folder": str(folder),
            **{name: str(path) for name, path in places.items()},
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        status = json.loads(self._process.stdout.readline())["status"]
        return Ran(status, places["out"].read_text("utf-8"), places["err"].read_text("utf-8"))


@contextmanager
def warm_commands(folder: Path) -> Iterator[WarmCommands]:
    """A process from which commands are forked, for the duration of the block."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.warm_commands"],
        env=environment,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == '"ready"\n'
        yield WarmCommands(process, folder)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(_ENDS_S)
        assert process.stdout is not None
        process.stdout.close()


@contextmanager
def sandbox_process(folder: Path) -> Iterator[dict[str, str]]:
    """The sandbox as a process of its own; gives its addresses."""
    command = [sys.executable, "-m", "vendor_sandbox", "--effect-log", str(folder / "effects.jsonl")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with running_server(command, ready_line="control_url", folder=folder, environment=environment) as server:
        addresses: dict[str, str] = json.loads(next(line for line in server.log if "control_url" in line))
        yield addresses


class Installation:
    """One installation: a folder, an environment, and the sandbox that its settings point at."""

    def __init__(self, folder: Path, addresses: Mapping[str, str], commands: WarmCommands) -> None:
        self.folder = folder
        self.addresses = dict(addresses)
        self.control = SandboxControl(addresses["control_url"])
        self.ledger_file = folder / "ledger" / "ledger.db"
        self._commands = commands
        self.environment = {
            **{name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
            **sandbox_settings(addresses),
            **variables(
                ledger_url=f"sqlite:///{self.ledger_file}",
                request_timeout_seconds=2,
                settle_seconds=0.5,
                lease_seconds=6,
                settings_file=folder / "settings.toml",
            ),
            "PYTHONPATH": str(ROOT),
        }
        (folder / "settings.toml").touch()

    def run(self, *words: str, given: bytes = b"", variables: Mapping[str, str | None] | None = None) -> Ran:
        """Run a command to its end; ``variables`` change the environment (None: not set)."""
        return self._commands.run(words, self.changed(variables), self.folder, given)

    def run_afresh(self, *words: str, variables: Mapping[str, str | None] | None = None) -> Ran:
        """As ``run``, but in a newly started interpreter, as a shell does it; needed for flows and for what is imported."""
        done = subprocess.run(
            [*COMMAND, *words],
            env=self.changed(variables),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_ENDS_S,
            check=False,
        )
        return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())

    @contextmanager
    def started(
        self,
        *words: str,
        variables: Mapping[str, str | None] | None = None,
        stdout: int | IO[str] = subprocess.PIPE,
        under: Sequence[str] = (),
    ) -> Iterator[subprocess.Popen[str]]:
        """A command that is running, in a session of its own; killed at the end of the block if it still runs.

        ``under``: a command that becomes it.
        """
        process = subprocess.Popen(
            [*under, *COMMAND, *words],
            env=self.changed(variables),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        with process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()

    def changed(self, variables: Mapping[str, str | None] | None) -> dict[str, str]:
        """The environment with these variables set, or taken out (None)."""
        environment = {**self.environment, **(variables or {})}
        return {name: value for name, value in environment.items() if value is not None}

    def request(self, content: Mapping[str, Any] | None = None, **changes: Any) -> str:
        """Write a request file (the documented example, changed as by ``example``); gives its path."""
        path = self.folder / f"request-{len(list(self.folder.glob('request-*')))}.json"
        path.write_text(json.dumps(example(**changes) if content is None else content), "utf-8")
        return str(path)

    def cases(self) -> list[dict[str, Any]]:
        """The cases of the ledger, as ``status --json`` prints them; none if there is no ledger."""
        return self.run("status", "--json").json_lines if self.ledger_file.exists() else []

    def case(self) -> dict[str, Any]:
        """The only case."""
        (case,) = self.cases()
        return case

    def requests(self, call: str | None = None) -> list[dict[str, Any]]:
        """The requests that reached the vendors."""
        return self.control.requests(call=call)

    def effects(self) -> list[str]:
        """The effects that happened, in order."""
        return [entry["effect"] for entry in self.control.effects()]

    def fault(self, system: str, kind: str, **rule: Any) -> int:
        """Add a fault to the sandbox."""
        return self.control.add_fault(system, kind, **rule)


def variables(**settings: object) -> dict[str, str]:
    """Settings by their names, as variables."""
    return {f"ONBOARDING_{name.upper()}": str(value) for name, value in settings.items()}


def without(*settings: str) -> dict[str, str | None]:
    """Settings that are not set."""
    return {f"ONBOARDING_{name.upper()}": None for name in settings}
