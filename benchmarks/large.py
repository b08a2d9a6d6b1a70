"""``make bench-large``: 50,000 subjects in one batch, and whether memory and cost per subject grow with them."""

import argparse
import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from benchmarks.contenders.large import FIRST_SAMPLE
from benchmarks.report import machine, replace_figures, versions
from benchmarks.rounds import Failed, play
from benchmarks.servers import LATENCY_MS, ROOT, Servers, end_in_order, running_sandbox_process
from benchmarks.table import LARGE

RESULTS = ROOT / "benchmarks" / "results"
BEGIN = "<!-- large: written by `make bench-large`, do not edit -->"
END = "<!-- end of large -->"


def lines_of(figures: Mapping[str, Any]) -> list[str]:
    """What is worth saying of one large batch."""
    samples, subjects = figures["samples"], figures["subjects"]
    first = next((one for one in samples if one["done"] == FIRST_SAMPLE < subjects), samples[0])
    last = samples[-1]
    half = min(samples, key=lambda one: abs(one["done"] - subjects / 2))
    opened, worked = subjects / figures["intake_s"], subjects / figures["wall_s"]
    grown, each_ms = last["mb"] - first["mb"], 1000 * figures["cpu_s"] / subjects
    wait = f"its slowest write waited {figures['slowest_look_s']:.2f} s"
    return [
        f"- Opening from CSV ({figures['csv_mb']:.1f} MB): {opened:.0f} rows/s; memory {figures['intake_mb']:+.0f} MB.",
        f"- Another runner held a case meanwhile, under a lease of a few seconds, and kept it; {wait}.",
        f"- Working: {worked:.0f} subjects/s, {each_ms:.2f} ms of client CPU and {_requests(figures)} requests each.",
        f"- Memory from {first['done']:.0f} to {last['done']:.0f} subjects: {grown:+.0f} MB; peak {figures['peak_mb']:.0f} MB.",
        f"- CPU per subject: {_cpu_ms(first, half):.2f} ms in the first half, {_cpu_ms(half, last):.2f} ms in the second.",
    ]


def _requests(figures: Mapping[str, Any]) -> str:
    return f"{figures['requests'] / figures['subjects']:.2f}"


def _cpu_ms(since: Mapping[str, float], until: Mapping[str, float]) -> float:
    return 1000 * (until["cpu_s"] - since["cpu_s"]) / max(1.0, until["done"] - since["done"])


def main() -> int:
    """Measure, print, save; returns the exit status."""
    parser = argparse.ArgumentParser(prog="make bench-large", description=__doc__)
    parser.add_argument("--subjects", type=int, default=LARGE.subjects, metavar="N", help="default 50000")
    parser.add_argument("--at-once", type=int, default=64, metavar="N", help="subjects at a time (default 64)")
    given = parser.parse_args()
    end_in_order()
    with running_sandbox_process() as sandbox:
        try:
            figures = play(LARGE, Servers(sandbox), subjects=given.subjects, at_once=given.at_once)
        except Failed as failed:
            print(f"benchmarks: {failed}", file=sys.stderr)
            return 1
    at = datetime.now(UTC).isoformat(timespec="seconds")
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"large-{at.replace(':', '')}.json"
    path.write_text(json.dumps({"at": at, **figures}, indent=1), encoding="utf-8")
    head = [
        f"{at[:10]}, {given.subjects} subjects in one batch, SQLite, without Prefect, {LATENCY_MS:g} ms latency per call.",
        f"{given.at_once} at a time, load average {figures['load']:.1f} before. {machine()}. {versions()}.",
        "",
    ]
    text = "\n".join([*head, *lines_of(figures)])
    print(f"{text}\n\nall figures: {path.relative_to(ROOT)}")
    if given.subjects >= LARGE.subjects:
        replace_figures(ROOT / "docs" / "performance.md", BEGIN, END, text)
        print("wrote docs/performance.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
