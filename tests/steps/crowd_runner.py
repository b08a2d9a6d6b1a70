"""A runner in a process of its own that works many cases at a time. Reads its settings from the environment.

Prints "ready", waits for a line, works the cases named on it, and prints how each of them ended.
"""

import asyncio
import json
import sys

from onboarding.batch.engine import Here, Worked, one_by_one, work_cases
from onboarding.settings import load_connections, load_settings
from onboarding.workbench import open_workbench

LANES = 50


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def main() -> None:
    """Work the cases."""
    settings = load_settings()
    async with open_workbench(settings, load_connections(settings), actor="one of many") as bench:
        _say("ready")
        case_ids = json.loads(await asyncio.to_thread(sys.stdin.readline))
        ended: list[Worked] = []
        await work_cases(Here(bench), one_by_one(case_ids), lanes=LANES, told=ended.append, stop=asyncio.Event())
        _say(json.dumps([[one.case_id, str(one.ending), one.code] for one in ended]))


if __name__ == "__main__":
    asyncio.run(main())
