"""The clocks: UTC for what people read and for due times, seconds since boot for leases and quiet times."""

import subprocess
import sys
import time
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

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
    if sys.platform == "darwin":
        command = ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603 - fixed words
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
