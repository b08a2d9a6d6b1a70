"""Rounds: in each, every contender once, in a process of its own, on fresh subjects of the same sandbox."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from benchmarks.checking import problems
from benchmarks.job import Job
from benchmarks.servers import ROOT, Servers, cpu_s
from benchmarks.table import Contender
from vendor_sandbox import seed

FIRST: Final = 1
SEEDED_AT_ONCE: Final = 5000
LONGEST_S: Final = 600.0
SLOWEST_PER_S: Final = 10
"""Subjects a second below which a contender of many is given up."""

Figures = dict[str, Any]


class Failed(RuntimeError):
    """A contender did not do its work; the message says what."""


def play_round(
    contenders: Sequence[Contender], servers: Servers, *, at_once: int, scale: float, turn: int, profiles: Path | None
) -> Iterator[Figures]:
    """One round; each contender's figures as they come. ``turn`` shifts the order, so that nobody is always first."""
    shift = turn % len(contenders)
    for contender in (*contenders[shift:], *contenders[:shift]):
        subjects = max(2, round(contender.subjects * scale))
        figures: Figures
        try:
            figures = play(contender, servers, subjects=subjects, at_once=at_once, profiles=profiles)
        except Failed as failed:
            figures = {"failed": str(failed)}
        yield {"round": turn, "contender": contender.name, **figures}


def play(
    contender: Contender, servers: Servers, *, subjects: int, at_once: int, profiles: Path | None = None
) -> Figures:
    """One contender once; ``profiles`` is a folder for what costs its processor time.

    Returns:
        ``wall_s``, ``cpu_s`` (client), ``server_cpu_s``, ``sandbox_cpu_s``, ``requests``, ``peak_mb``, ``load`` and more.

    Raises:
        Failed: its process failed, or the sandbox says that it did otherwise than all others.
    """
    control = servers.sandbox.control
    control.reset()
    for first in range(FIRST, FIRST + subjects, SEEDED_AT_ONCE):
        control.seed(seed.many(min(SEEDED_AT_ONCE, FIRST + subjects - first), first=first), add=first > FIRST)
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory(prefix="onboarding-bench-"))
        environment = dict(os.environ)
        if contender.prefect:
            environment |= stack.enter_context(servers.awake(contender.store))
        job = Job(
            contender=contender.name,
            addresses=servers.sandbox.addresses,
            first=FIRST,
            subjects=subjects,
            at_once=at_once,
            folder=folder,
            database_url=stack.enter_context(_database(contender, servers, Path(folder))),
            profile="" if profiles is None else str(profiles / f"{contender.name}.profile.txt"),
        )
        marks = _marks_of(job, environment, servers, servers.pids(contender.store, prefect=contender.prefect))
    effects, counts = control.effects(), control.counts()
    if wrong := problems(effects, counts, job.numbers, job.addresses):
        raise Failed(f"{contender.name}: {len(wrong)} deviations, such as {'; '.join(wrong[:5])}")
    return {**_figures(marks), "subjects": subjects, "requests": sum(counts.values()), "counts": counts}


@contextmanager
def _database(contender: Contender, servers: Servers, folder: Path) -> Iterator[str]:
    if contender.store == "postgres":
        assert servers.postgres is not None
        with servers.postgres.fresh_database() as url:
            yield url
    else:
        yield f"sqlite:///{folder / 'state.db'}" if contender.store else ""


def _marks_of(job: Job, environment: Mapping[str, str], servers: Servers, pids: list[int]) -> dict[str, Figures]:
    """Run the contender's process; what it said, and what the servers had used by then."""
    marks: dict[str, Figures] = {}
    log = Path(job.folder) / "log"
    command = [sys.executable, "-m", "benchmarks.worker", str(job.save())]
    with log.open("w") as errors:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        assert process.stdout is not None
        too_long = threading.Timer(max(LONGEST_S, job.subjects / SLOWEST_PER_S), process.kill)
        too_long.start()
        with process.stdout as told:
            try:
                for line in told:
                    if line.startswith('{"mark"'):
                        said = json.loads(line)
                        marks[said.pop("mark")] = {**said, **_used(servers, pids)}
                process.wait()
            finally:
                too_long.cancel()
                process.kill()
                process.wait()
    if process.returncode or "figures" not in marks:
        raise Failed(f"{job.contender} ended with {process.returncode}:\n{log.read_text(errors='replace')[-3000:]}")
    return marks


def _used(servers: Servers, pids: list[int]) -> Figures:
    return {
        "sandbox_cpu_s": cpu_s([servers.sandbox.pid]),
        "server_cpu_s": cpu_s(pids),
        "load": os.getloadavg()[0],
    }


def _figures(marks: dict[str, Figures]) -> Figures:
    begin, end = marks["begin"], marks["end"]
    last = marks.get("drained", end)
    return {
        **marks["figures"],
        "sandbox_cpu_s": end["sandbox_cpu_s"] - begin["sandbox_cpu_s"],
        "server_cpu_s": last["server_cpu_s"] - begin["server_cpu_s"],
        "load": begin["load"],
    }
