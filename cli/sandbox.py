"""`onboard sandbox`: stand-ins for both vendors on this machine."""

import os
import sys
from pathlib import Path
from typing import NoReturn


def sandbox(
    *,
    effect_log: Path | None = None,
    seed: Path | None = None,
    time_zone: str = "UTC",
    openspecimen_port: int = 0,
    clinical_one_port: int = 0,
    token_port: int = 0,
    control_port: int = 0,
) -> NoReturn:
    """Run stand-ins for OpenSpecimen and Clinical One on this machine until Ctrl-C; prints their addresses as JSON.

    Args:
        effect_log: file to which every effect is appended, as JSON lines.
        seed: JSON file with the data to start with; by default the vendors' documented examples.
        time_zone: time zone of the OpenSpecimen stand-in.
        openspecimen_port: port, or 0 for a free one.
        clinical_one_port: port, or 0 for a free one.
        token_port: port of the token service, or 0 for a free one.
        control_port: port of the control interface (faults, effects), or 0 for a free one.
    """
    command = [sys.executable, "-m", "vendor_sandbox", "--time-zone", time_zone]
    command += ["--openspecimen-port", str(openspecimen_port), "--clinical-one-port", str(clinical_one_port)]
    command += ["--token-port", str(token_port), "--control-port", str(control_port)]
    if effect_log is not None:
        command += ["--effect-log", str(effect_log)]
    if seed is not None:
        command += ["--seed", str(seed)]
    os.execv(sys.executable, command)  # noqa: S606 - it becomes this process, so whatever signal ends one ends both
