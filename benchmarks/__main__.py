"""``make bench``: measure this project beside others and write ``docs/performance.md``."""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.report import markdown_table, save_report, summary
from benchmarks.rounds import play_round
from benchmarks.servers import LATENCY_MS, ROOT, end_in_order, installed_postgres, running_servers
from benchmarks.table import Contender, picked

RESULTS = ROOT / "benchmarks" / "results"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="interleaved rounds (default 5)")
    parser.add_argument(
        "--only", default="", metavar="NAMES", help="beginnings of names, such as limit,direct,dbos-sqlite"
    )
    parser.add_argument("--at-once", type=int, default=128, metavar="N", help="subjects at a time (default 128)")
    parser.add_argument("--scale", type=float, default=1.0, metavar="X", help="times as many subjects as usual")
    parser.add_argument("--profile", action="store_true", help="write profiles beside the figures; they slow all down")
    parser.add_argument("--write", action="store_true", help="write docs/performance.md even if only some were picked")
    return parser


def measure(contenders: Sequence[Contender], given: argparse.Namespace) -> list[dict[str, Any]]:
    """Play all rounds; the figures of each contender and round."""
    played: list[dict[str, Any]] = []
    with TemporaryDirectory(prefix="onboarding-bench-") as folder:
        stores = {one.store for one in contenders}
        prefect = {one.store for one in contenders if one.prefect}
        with running_servers(Path(folder), postgres="postgres" in stores, prefect=prefect) as servers:
            for turn in range(given.rounds):
                for figures in play_round(
                    contenders,
                    servers,
                    at_once=given.at_once,
                    scale=given.scale,
                    turn=turn,
                    profiles=RESULTS if given.profile else None,
                ):
                    played.append(figures)
                    print(f"round {turn + 1} {figures['contender']:24} {_line(figures)}", flush=True)
    return played


def _line(figures: Mapping[str, Any]) -> str:
    if "failed" in figures:
        return f"FAILED: {figures['failed']}"
    rate, cpu_ms = figures["subjects"] / figures["wall_s"], 1000 * figures["cpu_s"] / figures["subjects"]
    share = figures["sandbox_cpu_s"] / figures["wall_s"]
    return f"{rate:8.1f} subjects/s  client {cpu_ms:7.2f} ms each  sandbox {share:4.0%}  load {figures['load']:.1f}"


def main() -> int:
    """Measure, print, save; returns the exit status."""
    given = _parser().parse_args()
    end_in_order()
    chosen = picked([word for word in given.only.split(",") if word])
    contenders = []
    for one in chosen:
        lacks = one.missing()
        if one.prefect and one.store == "postgres" and installed_postgres() is None:
            lacks = "installed PostgreSQL with pg_trgm, which Prefect's server needs (Debian: postgresql)"
        if lacks:
            print(f"left out: {one.name} (there is no {lacks})")
        else:
            contenders.append(one)
    RESULTS.mkdir(exist_ok=True)
    began = time.monotonic()
    played = measure(contenders, given)
    failed = [one for one in played if "failed" in one]
    rows = summary([one for one in played if "failed" not in one], contenders)
    run = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "minutes": round((time.monotonic() - began) / 60, 1),
        "rounds": given.rounds,
        "at_once": given.at_once,
        "scale": given.scale,
        "latency_ms": LATENCY_MS,
        "rows": rows,
        "played": played,
    }
    path = RESULTS / f"{run['at'].replace(':', '')}.json"
    path.write_text(json.dumps(run, indent=1), encoding="utf-8")
    print(f"\n{markdown_table(rows)}\n\n{run['minutes']} minutes; all figures: {path.relative_to(ROOT)}")
    if failed:
        print(f"{len(failed)} contenders' turns failed; nothing is written.", file=sys.stderr)
        return 1
    if given.write or not (given.only or given.profile or given.rounds < 5 or given.scale != 1):
        save_report(run, ROOT / "docs")
        print("wrote docs/performance.md and docs/performance.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
