"""`onboard demo`: the whole product on this machine alone, told in four scenes, with a proof from the sandbox's effect log."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from cli import local
from cli.running import stop_once, undivided
from onboarding.endings import EXIT_ATTENTION, EXIT_FAULT, EXIT_ONBOARDED, EXIT_WAITING
from onboarding.errors import OnboardingError
from vendor_sandbox import SandboxControl, seed

_SETTINGS: Final[Mapping[str, str]] = {
    "ONBOARDING_REQUEST_TIMEOUT_SECONDS": "3",
    "ONBOARDING_SETTLE_SECONDS": "2",
    "ONBOARDING_LEASE_SECONDS": "6",
    "PREFECT_LOGGING_LEVEL": "INFO",
}
_COMMAND_ENDS_S: Final = 180.0


class DemoFailed(OnboardingError):
    """The demo did not show what it promises; says where."""


def demo(*, keep: bool = False) -> int:
    """Show the product at work on this machine: stand-ins for both vendors, a Prefect server and a ledger of its own.

    Everything lives in a temporary folder and ends by itself; nothing outside this machine is contacted.

    Args:
        keep: leave the folder (ledger, effect log, logs) behind.
    """
    out = Console(highlight=False, markup=False)
    stop_once()
    folder = Path(tempfile.mkdtemp(prefix="onboard-demo-"))
    try:
        with _stage(folder, out) as stage:
            _first_subject(stage)
            _waiting_for_dispensation(stage)
            _refusal(stage)
            _killed_and_resumed(stage)
            stage.title("All cases")
            stage.onboard("status", expected=EXIT_ONBOARDED)
            stage.say("Everything ran on this machine, and has been stopped again.")
    except KeyboardInterrupt:
        print("onboard: the demo was interrupted; everything it started has been stopped.", file=sys.stderr)
        return EXIT_FAULT
    finally:
        if keep:
            out.print(f"Kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return 0


class Stage:
    """Where the scenes play: a folder, the sandbox, the environment of the commands, and the screen."""

    def __init__(self, folder: Path, out: Console, sandbox: local.Sandbox, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.control = SandboxControl(sandbox.control_url)
        self.environment = dict(environment)
        self._out = out
        self._scene = 0
        self._began = time.monotonic()

    def title(self, text: str) -> None:
        """Begin a scene."""
        self._scene += 1
        self._out.print(
            f"\n{self._scene}. {text} [{time.monotonic() - self._began:.0f} s]", style="bold", soft_wrap=True
        )

    def say(self, text: str) -> None:
        """Tell what happens."""
        self._out.print(text, style="cyan", soft_wrap=True)

    def show(self, table: Table) -> None:
        """Show a table."""
        self._out.print(table)

    def request(self, name: str, content: Mapping[str, Any]) -> str:
        """Write a request file; gives its name."""
        (self.folder / name).write_text(json.dumps(content, indent=2), "utf-8")
        return name

    @contextmanager
    def started(self, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        """A command as a user would start it, in the demo's folder, its output on the screen; ended with the block."""
        self._out.print(f"$ onboard {' '.join(words)}", style="bold")
        sys.stdout.flush()
        command = [sys.executable, "-m", "cli.main", *words]
        process: subprocess.Popen[bytes] | None = None
        try:
            with undivided():
                process = subprocess.Popen(command, env=self.environment, cwd=self.folder, start_new_session=True)
            yield process
        finally:
            if process is not None:
                local.end(process)

    def onboard(self, *words: str, expected: int) -> None:
        """Run a command to its end; its exit status must be the expected one."""
        with self.started(*words) as process:
            status = process.wait(_COMMAND_ENDS_S)
        if status != expected:
            raise DemoFailed(
                f"'onboard {' '.join(words)}' ended with {status}, not {expected}; run 'onboard demo --keep' and look."
            )
        self._out.print(f"(exit status {status})", style="dim")

    def case_of(self, subject_id: str) -> dict[str, Any]:
        """The subject's case, as ``onboard status --json`` prints it."""
        command = [sys.executable, "-m", "cli.main", "status", "--json"]
        done = subprocess.run(
            command, env=self.environment, cwd=self.folder, check=True, capture_output=True, text=True
        )
        cases = [json.loads(line) for line in done.stdout.splitlines()]
        return next(case for case in cases if case["subject"] == subject_id)


def documented_request(number: int, **changes: Any) -> dict[str, Any]:
    """The vendors' documented example for subject 1 of the sandbox, and the like for its other subjects."""
    device = {"inventory_id": seed.inventory_id(number), "m_subject_id": f"M-{number:04d}"}
    return {
        "registration": {
            "id": number,
            "cp_id": 3,
            "participant": {"id": 2 * number},
            "ppid": f"ASCI{122 + number}",
            "registration_date": "2014-04-21",
            "external_subject_id": f"TEST_{number:03d}",
            "activity_status": "Active",
            **changes.pop("registration", {}),
        },
        "subject": {"study_id": seed.STUDY_ID, "mode": "test", "subject_id": seed.subject_id(number)},
        "device": {**device, **changes.pop("device", {"subject_number": f"siteA-{number}"})},
        "dnd_exception": {
            "all_countries": False,
            "countries": ["US"],
            "site_ids": [seed.SITE_ID],
            "kit_type_src_ids": [seed.KIT_TYPE_ID],
            "visit_dnd": [{"visit_src_id": seed.VISIT_ID, "dnd": 2}],
        },
    }


@contextmanager
def _stage(folder: Path, out: Console) -> Iterator[Stage]:
    environment = local.clean_environment()
    out.print("Starting stand-ins for OpenSpecimen and Clinical One, and a Prefect server (about half a minute) ...")
    with ExitStack() as stack:
        prefect = stack.enter_context(local.starting_prefect(folder, environment))
        sandbox = stack.enter_context(local.running_sandbox(folder, environment))
        ledger = f"sqlite:///{folder / 'ledger.db'}"
        own = {**prefect.environment, **sandbox.settings, **_SETTINGS, "ONBOARDING_LEDGER_URL": ledger}
        own["ONBOARDING_SETTINGS_FILE"] = str(folder / "settings.toml")
        (folder / "settings.toml").touch()
        with out.status("Waiting for the Prefect server ..."):
            prefect.wait()
        out.print(f"They run: Prefect at {prefect.api_url.removesuffix('/api')} (for as long as this demo takes).")
        yield Stage(folder, out, sandbox, own)


def _first_subject(stage: Stage) -> None:
    stage.title("A subject is onboarded: the vendors' documented example, registration 1 (ASCI123)")
    stage.say("Four steps, each a task of a real Prefect flow run.")
    name = stage.request("subject-1.json", documented_request(1))
    stage.onboard("subject", name, expected=EXIT_ONBOARDED)


def _waiting_for_dispensation(stage: Stage) -> None:
    stage.title("A device that is not dispensed yet: the case waits, and goes on later")
    name = stage.request("subject-5.json", documented_request(5))
    stage.onboard("subject", name, expected=EXIT_WAITING)
    stage.say("Now the site dispenses the device in Clinical One (here: in its stand-in), and the case is resumed.")
    subject_id = seed.subject_id(5)
    stage.control.dispense(seed.STUDY_ID, "test", seed.inventory_id(5), subject_id, visit_id=seed.VISIT_ID)
    stage.onboard("resume", stage.case_of(subject_id)["case"], expected=EXIT_ONBOARDED)


def _refusal(stage: Stage) -> None:
    stage.title("The vendor refuses: its code, and what to do about it")
    stage.say("This request asks for the PPID that the first subject has by now.")
    name = stage.request("subject-4.json", documented_request(4, registration={"ppid": "ASCI123"}))
    stage.onboard("subject", name, expected=EXIT_ATTENTION)


def _killed_and_resumed(stage: Stage) -> None:
    stage.title("A run is killed in the middle of a step, and resumed: no effect is lost, none is repeated")
    stage.say(
        "The device's registration is applied by Clinical One, but its answer is held back; then the run is killed."
    )
    fault = stage.control.add_fault("clinical_one", "hold", call="register_device", when="after")
    device = {"vendor_code": "XYZ123"}
    name = stage.request("subject-2.json", documented_request(2, device=device))
    with stage.started("subject", name) as process:
        stage.control.held(fault_id=fault, timeout_s=_COMMAND_ENDS_S)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    stage.control.remove_faults(fault)
    stage.say(f"Killed with SIGKILL (process {process.pid}). The ledger knows that an attempt was under way:")
    subject_id = seed.subject_id(2)
    stage.onboard("status", expected=EXIT_ONBOARDED)
    case = stage.case_of(subject_id)
    with Console().status("Waiting for the dead run's lease to end ..."):
        while stage.case_of(subject_id)["being_worked"]:
            time.sleep(0.2)
    stage.onboard("resume", case["case"], expected=EXIT_ONBOARDED)
    _prove(stage)


def _prove(stage: Stage) -> None:
    effects = stage.control.effects()
    counts = Counter((entry["effect"], json.dumps(_what(entry), sort_keys=True)) for entry in effects)
    table = Table(title="What the vendors' effect log holds", title_justify="left", header_style="bold")
    for heading in ("effect", "on", "times"):
        table.add_column(heading, overflow="fold")
    for (effect, key), times in counts.items():
        on = ", ".join(f"{name} {value}" for name, value in json.loads(key).items())
        table.add_row(effect, on, str(times), style=None if times == 1 else "red")
    stage.show(table)
    repeated = [key for key, times in counts.items() if times != 1]
    mine = [entry for entry in effects if entry["key"].get("subject_id") == seed.subject_id(2)]
    if repeated or len(mine) != 1:
        raise DemoFailed(f"effects that are not there exactly once: {repeated or mine}")
    stage.say("Each effect is there exactly once; the three subjects share one DND exception.")


def _what(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What an effect was on: the keys that name one thing."""
    named = ("registration_id", "inventory_id", "dnd_exception_id", "content_sha256")
    chosen = {name: value for name, value in entry["key"].items() if name in named}
    if "content_sha256" in chosen:  # the same exception made twice would have two ids, but one content
        return {"content": chosen["content_sha256"][:12]}
    return chosen
