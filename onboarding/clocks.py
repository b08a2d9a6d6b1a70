"""The clocks: UTC for what people read and for due times, seconds since boot for leases and quiet times."""

import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Final

_BOOT_ID_FILE: Final = Path("/proc/sys/kernel/random/boot_id")
_BOOT_ID_COMMAND: Final = ("/usr/sbin/sysctl", "-n", "kern.bootsessionuuid")
DATABASE_EPOCH: Final = "postgresql"
"""The name of the clock by which leases go on PostgreSQL: the database's own, a wall clock."""

_BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", None)


def utc_now() -> datetime:
    """The present moment, aware, in UTC."""
    return datetime.now(UTC)


def boot_seconds() -> float:
    """Seconds since boot, counting time asleep where the system can (Linux); never set back by a clock change."""
    return time.clock_gettime(_BOOT_CLOCK) if _BOOT_CLOCK is not None else time.monotonic()


@cache
def boot_id() -> str:
    """A word that changes with every boot, so that seconds since boot of two boots are never compared."""
    return read_boot_id(sys.platform, _BOOT_ID_FILE, _BOOT_ID_COMMAND)


def read_boot_id(platform: str, file: Path, command: Sequence[str]) -> str:
    """The boot's word as the platform (``sys.platform``) tells it: macOS by a command, Linux by a file."""
    if platform == "darwin":
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603 - fixed words
    return file.read_text("ascii").strip()
