"""Run the sandbox as a process: `python -m vendor_sandbox --effect-log effects.jsonl`.

Prints one line of JSON with the addresses once all of them listen; ends on SIGTERM or SIGINT after the requests in
progress.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import signal
import sys
from pathlib import Path

from vendor_sandbox.listening import NotLoopback
from vendor_sandbox.sandbox import read_seed
from vendor_sandbox.seeding import SeedRefused
from vendor_sandbox.server import Options, Ports, SandboxServer
from vendor_sandbox.switches import CHOICES, Switches, SwitchRefused

# Whoever is measured against the sandbox shares its processor; a world of many subjects is looked through seldom.
_COLLECTED_AFTER = 50_000


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m vendor_sandbox", description="Stand-ins for both vendors.")
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address")
    parser.add_argument("--effect-log", type=Path, metavar="FILE", help="JSON Lines file that effects are appended to")
    parser.add_argument("--seed", type=Path, metavar="FILE", help="JSON file with the data to start with")
    parser.add_argument("--world", type=Path, metavar="FILE", help="keeps what they know for the next start")
    for system in ("openspecimen", "clinical-one", "token", "control"):
        parser.add_argument(f"--{system}-port", type=int, default=0, metavar="N", help="default: a free port")
    parser.add_argument("--time-zone", default="UTC", metavar="ZONE", help="OpenSpecimen's zone, e.g. Europe/Berlin")
    parser.add_argument(
        "--openspecimen-errors", choices=CHOICES["openspecimen_errors"], default="code", help="column of statuses"
    )
    parser.add_argument("--latency-ms", type=float, default=0, help="added before every vendor request")
    return parser


def _options(given: argparse.Namespace) -> Options:
    switches = Switches().changed(
        {
            "time_zone": given.time_zone,
            "openspecimen_errors": given.openspecimen_errors,
            "latency_ms": given.latency_ms,
        }
    )
    ports = Ports(given.openspecimen_port, given.clinical_one_port, given.token_port, given.control_port)
    seed = None if given.seed is None else read_seed(given.seed)
    return Options(given.effect_log, seed, switches, given.host, ports, given.world)


async def _serve(options: Options) -> None:
    server = SandboxServer(options)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopped.set)
    await server.start()
    print(json.dumps(dict(server.addresses)), flush=True)
    await stopped.wait()
    await server.stop()


def main() -> int:
    """Serve until told to stop; returns the exit status."""
    gc.set_threshold(_COLLECTED_AFTER)
    try:
        asyncio.run(_serve(_options(_parser().parse_args())))
    except (NotLoopback, SeedRefused, SwitchRefused, OSError) as error:
        print(f"vendor_sandbox: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
