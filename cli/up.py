"""`onboard up`: everything on this machine with one command, until Ctrl-C. A second start goes on with the same data."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, NoReturn

import platformdirs
from cyclopts import Parameter, validators

from cli import local, present
from cli.example_batch import FILE, SEED, write_example
from cli.running import stop_once
from cli.settings_file import shown_url
from cli.up_folder import SERVED, UpFolder, secret_names, up_folder
from onboarding.endings import EXIT_FAULT, EXIT_ONBOARDED
from onboarding.errors import BadInput, BadSettings
from onboarding.ledger.ledger import migrate, open_ledger
from onboarding.settings import APPLICATION, PREFIX, Settings, load_connections, load_settings

PORT: Final = 4200
_SERVES_S: Final = 180.0
_DRAINS_S: Final = 60.0
_ENDS_S: Final = 10.0
_LOOK_S: Final = 0.2
# They lead to real systems and to a real ledger; with stand-ins none of them is taken from the environment.
_NOT_WITH_STAND_INS: Final = ("LEDGER_URL", "LEDGER_KEY", "SETTINGS_FILE", "OPENSPECIMEN_", "CLINICAL_ONE_")


def up(
    *,
    port: Annotated[int, Parameter(validator=validators.Number(gte=1, lte=65535))] = PORT,
    folder: Path | None = None,
) -> int:
    """Run everything on this machine until Ctrl-C: the Prefect server with its page, all deployments, schedules on.

    Where the environment names no vendor connection, stand-ins for both vendors run too, with a ledger of their own. At the end,
    runs under way are finished, for a minute at most; a second Ctrl-C ends them at once. The next start goes on with the same
    data.

    Args:
        port: where the page is: http://127.0.0.1:PORT.
        folder: where everything is kept; by default a folder of its own in the user's data folder.
    """
    stop_once()
    place = (folder or Path(platformdirs.user_data_dir(APPLICATION)) / "up").absolute()
    with up_folder(place) as kept, ExitStack() as stack:
        try:
            house = _start(kept, stack, port)
        except KeyboardInterrupt:
            print("onboard: stopped before everything was running; what was started is ended.", file=sys.stderr)
            return EXIT_FAULT
        try:
            house.watch()
        except KeyboardInterrupt:
            house.drain()
    present.console().print(f"Everything is stopped. 'onboard up' goes on with what is in {place}.", soft_wrap=True)
    return EXIT_ONBOARDED


@dataclass(frozen=True)
class _Part:
    """A process that must run for as long as everything does."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path


@dataclass(frozen=True)
class _House:
    """Everything that runs; the last part serves the deployments."""

    parts: tuple[_Part, ...]

    def watch(self) -> NoReturn:
        """Wait for a signal. Raises ``DidNotStart`` when a part has ended by itself."""
        while True:
            for part in self.parts:
                if part.process.poll() is not None:
                    raise local.DidNotStart(f"{part.name} ended by itself, so everything is stopped", part.log)
            time.sleep(_LOOK_S)

    def drain(self) -> None:
        """Let runs under way end, for a minute at most or until a second signal; then none of their processes is left."""
        out, hurry = present.console(), _Hurry()
        out.print("Stopping: runs under way are finished first. Ctrl-C again ends them at once.")
        serving = self.parts[-1].process
        serving.send_signal(signal.SIGTERM)
        if not _ended(serving, _DRAINS_S, hurry):
            out.print("Runs are ended in the middle: their cases go on with the next start.", soft_wrap=True)
            # It began a session of its own, and its runs are in it. They give their leases back.
            os.killpg(serving.pid, signal.SIGTERM)
            _ended(serving, _ENDS_S, None)
        with suppress(ProcessLookupError):
            os.killpg(serving.pid, signal.SIGKILL)


def _ended(process: subprocess.Popen[bytes], within_s: float, hurry: "_Hurry | None") -> bool:
    deadline = time.monotonic() + within_s
    while process.poll() is None and time.monotonic() < deadline and not (hurry and hurry.asked):
        time.sleep(_LOOK_S)
    return process.poll() is not None


class _Hurry:
    """Whether another signal came."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._ask)

    def _ask(self, *_: object) -> None:
        self.asked = True


def _start(kept: UpFolder, stack: ExitStack, port: int) -> _House:
    stand_ins = _with_stand_ins()
    if why := local.port_problem(port):
        raise BadInput([f"--port: {port} is in use or cannot be used ({why}); try: onboard up --port {_another(port)}"])
    ports = kept.sandbox_ports() if stand_ins else {}
    settings = _settings_of_stand_ins(kept.path) if stand_ins else _ours(os.environ)
    _make_ledger(load_settings(settings), stand_ins=stand_ins)
    out = present.console()
    base = {**local.clean_environment(), **local.BATCHED_PREFECT}
    out.print(f"Starting the Prefect server on port {port} (about half a minute) ...")
    kept.log("prefect-server.log")
    prefect = stack.enter_context(local.starting_prefect(kept.path, base, port=port, kept_open=(kept.lock,)))
    parts = [_Part("the Prefect server", prefect.process, prefect.log)]
    if stand_ins:
        sandbox = _start_stand_ins(kept, stack, base, ports)
        parts.append(_Part("the vendor sandbox", sandbox.process, kept.path / "sandbox.json"))
        settings |= sandbox.settings
    prefect.wait()
    log = kept.log("serving.log")
    command = [sys.executable, "-m", "cli.serving"]
    environment = {**prefect.environment, **settings}
    serving = stack.enter_context(
        local.started(command, environment=environment, log=log, folder=kept.path, kept_open=(kept.lock,))
    )
    parts.append(_Part("what serves the deployments", serving, log))
    _wait_until_served(parts[-1])
    mine = {name: prefect.environment[name] for name in ("PREFECT_API_URL", "PREFECT_HOME", "DO_NOT_TRACK")} | settings
    _say_where(kept, mine, stand_ins=stand_ins)
    return _House(tuple(parts))


def _with_stand_ins() -> bool:
    """Whether the environment names no vendor connection. Raises ``BadSettings`` if it names one of the two."""
    named = {
        name for name in _ours(os.environ) if name.startswith((f"{PREFIX}OPENSPECIMEN_", f"{PREFIX}CLINICAL_ONE_"))
    }
    if not named:
        return True
    found = load_connections(load_settings())
    missing = {"OPENSPECIMEN": found.openspecimen, "CLINICAL_ONE": found.clinical_one}
    problems = [
        f"{PREFIX}{name}_...: is not set, but the other vendor's connection is; set both, or none for the stand-ins."
        for name, connection in missing.items()
        if connection is None
    ]
    if problems:
        raise BadSettings(problems)
    return False


def _ours(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name.startswith((PREFIX, "PG")) and value}


def _start_stand_ins(
    kept: UpFolder, stack: ExitStack, environment: Mapping[str, str], ports: Mapping[str, int]
) -> local.Sandbox:
    world, seed = kept.path / "stand-ins.world", kept.path / SEED
    if not world.exists():
        write_example(kept.path)
    options = ["--world", str(world), *(("--seed", str(seed)) if seed.exists() else ())]
    for name, port in ports.items():
        options += [f"--{name}-port", str(port)]
    return stack.enter_context(local.running_sandbox(kept.path, environment, *options, kept_open=(kept.lock,)))


def _settings_of_stand_ins(folder: Path) -> dict[str, str]:
    """The settings of an installation whose vendors are stand-ins, but for the connections to them.

    What leads elsewhere is not taken from the environment.
    """
    settings_file, inbox = folder / "settings.toml", folder / "inbox"
    settings_file.touch(mode=0o600)
    inbox.mkdir(mode=0o700, exist_ok=True)
    refused = tuple(PREFIX + name for name in _NOT_WITH_STAND_INS)
    chosen = {name: value for name, value in os.environ.items() if name.startswith(PREFIX) and value}
    return {
        f"{PREFIX}INBOX": str(inbox),
        f"{PREFIX}DISPENSATION_CHECK_SECONDS": "60",
        **{name: value for name, value in chosen.items() if not name.startswith(refused)},
        f"{PREFIX}LEDGER_URL": f"sqlite:///{folder / 'ledger.db'}",
        f"{PREFIX}SETTINGS_FILE": str(settings_file),
    }


def _make_ledger(settings: Settings, *, stand_ins: bool) -> None:
    """See that there is a ledger before anything is started, so that it can be looked at at once.

    Raises:
        BadSettings, LedgerError: it cannot be used.
    """
    if stand_ins:
        migrate(settings)  # it belongs to this folder, so no person has to
    else:
        open_ledger(settings).close()


def _wait_until_served(serving: _Part) -> None:
    deadline = time.monotonic() + _SERVES_S
    while SERVED not in serving.log.read_text("utf-8", errors="replace"):
        if serving.process.poll() is not None or time.monotonic() > deadline:
            raise local.DidNotStart("the deployments are not served", serving.log)
        time.sleep(_LOOK_S)


def _say_where(kept: UpFolder, variables: Mapping[str, str], *, stand_ins: bool) -> None:
    out = present.console()
    settings = load_settings(variables)
    page = variables["PREFECT_API_URL"].removesuffix("/api")
    secrets = [] if stand_ins else secret_names(variables)  # the stand-ins' log-ins are no secret
    environment = kept.write_environment(variables, secrets)
    vendors = (
        "stand-ins on this machine; for real ones set ONBOARDING_OPENSPECIMEN_... and ONBOARDING_CLINICAL_ONE_..."
        if stand_ins
        else "as the environment names them"
    )
    out.print("Everything runs, until Ctrl-C.")
    for name, what in {
        "Page": f"{page}/v2/deployments (start onboard-subject there)",
        "API": variables["PREFECT_API_URL"],
        "Vendors": vendors,
        "Ledger": shown_url(settings.ledger_url),
        **({"Batch to try": str(batch)} if stand_ins and (batch := kept.path / FILE).exists() else {}),
        "Inbox": str(settings.inbox or "none; ONBOARDING_INBOX names its folder"),
        "Logs": str(kept.path),
        **({"Secret": f"{', '.join(secrets)}: not in the file below, so set in that terminal"} if secrets else {}),
        "In another terminal": f". {shlex.quote(str(environment))}; onboard status",
    }.items():
        out.print(f"  {name + ':':<21}{what}", soft_wrap=True)


def _another(port: int) -> int:
    return port + 100 if port + 100 <= 65535 else PORT
