"""`onboard resume`: go on with cases where they stopped."""

import asyncio
from typing import Annotated, Final

from cyclopts import Parameter

from cli import doors
from cli.running import run
from cli.worked import say_worked
from onboarding.endings import EXIT_ONBOARDED
from onboarding.errors import BadInput
from onboarding.settings import Settings, load_settings
from onboarding.workbench import Workbench, open_workbench

Flag = Annotated[bool, Parameter(negative="")]
_LOOK_S: Final = 0.5


def resume(*cases: str, all: Flag = False, watch: Flag = False, limit: int = 100, json: Flag = False) -> int:  # noqa: A002
    """Go on with cases where they stopped.

    A case that is named is a person's wish: refused steps are tried again, unknown outcomes are not touched. With --all it is
    every case that is due: a lease that ended, a wait that is over. Those that need a person are left alone.

    Args:
        cases: ids of cases, as `onboard status` prints them.
        all: every case that is due now, the oldest first.
        watch: with --all, stay and take each case as it falls due, until Ctrl-C.
        limit: with --all, so many cases at most.
        json: print JSON lines.
    """
    if bool(cases) == (all or watch):
        raise BadInput(["give cases, or --all (with --watch to stay); 'onboard status' lists them."])
    if limit < 1:
        raise BadInput(["--limit: must be at least 1."])
    settings = load_settings()
    if cases:
        return run(_named(settings, [case.upper() for case in cases], json))
    return run(_due(settings, watch=watch, limit=limit, json=json))


async def _named(settings: Settings, cases: list[str], json: bool) -> int:
    api = doors.prefect_api()
    found = await doors.connections(settings, api)
    async with open_workbench(settings, found, actor=doors.actor()) as bench:
        for case_id in cases:
            if not case_id.isascii() or await bench.in_thread(bench.ledger.case, case_id) is None:
                raise BadInput([f"there is no case {case_id} in this ledger; 'onboard status' lists them."])
        return max([await _work(bench, case_id, api, retry=True, json=json) for case_id in cases])


async def _due(settings: Settings, *, watch: bool, limit: int, json: bool) -> int:
    api = doors.prefect_api()
    found = await doors.connections(settings, api)
    worst = EXIT_ONBOARDED
    async with open_workbench(settings, found, actor=doors.actor()) as bench:
        while True:
            for case_id in await bench.find_due(limit):
                worst = max(worst, await _work(bench, case_id, api, retry=False, json=json))
            if not watch:
                return worst
            await asyncio.sleep(_LOOK_S)


async def _work(bench: Workbench, case_id: str, api: str | None, *, retry: bool, json: bool) -> int:
    worked = await doors.door_for(api)(bench, case_id, retry)
    return say_worked(worked, observed=api is not None, json=json, notes=[])
