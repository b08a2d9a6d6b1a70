"""Measuring inside a contender's process: the time and the processor of the measured part, nothing of its preparation."""

import cProfile
import json
import os
import pstats
import re
import resource
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


def _cpu_s() -> float:
    """This process's own time on a processor and that of its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def resident_mb() -> float:
    """Memory that this process occupies now."""
    facts = Path("/proc/self/statm").read_text("ascii")
    return int(facts.split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def peak_mb() -> float:
    """The most memory that this program occupied; unlike ``ru_maxrss``, without what its parent occupied at the fork."""
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text("ascii"))
    assert peak is not None, "Linux tells it"
    return int(peak[1]) * 1024 / 1e6


@dataclass
class Stopwatch:
    """Tells the process that started this one when the measured part begins and ends: one line of JSON each.

    ``profile``: a file for the functions that cost most, in the thread that measures; it slows the work down by half.
    """

    profile: Path | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    _began: tuple[float, float, float] = (0.0, 0.0, 0.0)
    _profiler: cProfile.Profile = field(default_factory=lambda: cProfile.Profile(time.thread_time))

    def begin(self) -> None:
        """The preparation is over."""
        self.figures["mb_before"] = resident_mb()
        self._mark("begin")
        self._began = (time.perf_counter(), _cpu_s(), time.thread_time())
        if self.profile is not None:
            self._profiler.enable()

    def end(self) -> None:
        """Every subject is onboarded, as far as this process knows."""
        if self.profile is not None:
            self._profiler.disable()
            with self.profile.open("w") as text:
                pstats.Stats(self._profiler, stream=text).sort_stats("tottime").print_stats(80)
        self.figures["wall_s"] = time.perf_counter() - self._began[0]
        self.figures["cpu_s"] = _cpu_s() - self._began[1]
        self.figures["loop_cpu_s"] = time.thread_time() - self._began[2]  # of it, what this thread used
        self.figures["peak_mb"] = peak_mb()
        self._mark("end")

    def drained(self) -> None:
        """What the contender's server still had to store is stored."""
        self.figures["drained_s"] = time.perf_counter() - self._began[0]
        self._mark("drained")

    def tell(self) -> None:
        """Hand over the figures."""
        self._mark("figures", **self.figures)

    def _mark(self, mark: str, **figures: Any) -> None:
        print(json.dumps({"mark": mark, **figures}), file=sys.stdout, flush=True)
