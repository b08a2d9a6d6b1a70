"""`onboard resume`: go on with cases where they stopped."""

import asyncio
import sys
from collections.abc import Iterable
from typing import Annotated, Final

from cyclopts import Parameter

from cli import doors
from cli.faults import place_of
from cli.running import run
from cli.who import actor
from cli.worked import say_worked, worst
from onboarding.endings import EXIT_FAULT
from onboarding.errors import BadInput, OnboardingError
from onboarding.ledger import batches
from onboarding.ledger.states import CaseStatus
from onboarding.ledger.store import StoreUnavailable
from onboarding.settings import Settings, load_settings
from onboarding.workbench import Workbench, open_workbench

Flag = Annotated[bool, Parameter(negative="")]
_LOOK_S: Final = 0.5
_LANES: Final = 8
"""Cases at a time, so that one whose vendor is slow keeps no other from its turn. Flows run one after another."""


def resume(
    *cases: str,
    batch: str | None = None,
    code: str | None = None,
    all: Flag = False,  # noqa: A002 - --all
    watch: Flag = False,
    limit: int = 100,
    json: Flag = False,
) -> int:
    """Go on with cases where they stopped.

    A case that is named is a person's wish: refused steps are tried again, unknown outcomes are not touched. With --all it is
    every case that is due: a lease that ended, a wait that is over. Those that need a person are left alone.

    Args:
        cases: ids of cases, as `onboard status` prints them.
        batch: the cases of this batch that need a person, as if each was named: once it is mended what they were refused for.
        code: with --batch, only those with this code.
        all: every case that is due now, the oldest first.
        watch: with --all, stay and take each case as it falls due, until Ctrl-C.
        limit: with --all, so many cases at most.
        json: print JSON lines.
    """
    if [bool(cases), batch is not None, all or watch].count(True) != 1:
        raise BadInput(["give cases, or --batch BATCH, or --all (with --watch to stay); 'onboard status' lists them."])
    if code is not None and batch is None:
        raise BadInput(["--code: goes with --batch."])
    if limit < 1:
        raise BadInput(["--limit: must be at least 1."])
    settings = load_settings()
    if cases:
        return run(_named(settings, [case.upper() for case in cases], json))
    if batch is not None:
        return run(_of_batch(settings, batch.upper(), code, json=json))
    return run(_due(settings, watch=watch, limit=limit, json=json))


async def _named(settings: Settings, cases: list[str], json: bool) -> int:
    api = doors.prefect_api()
    found = await doors.connections(settings, api)
    async with open_workbench(settings, found, actor=actor()) as bench:
        for case_id in cases:
            if not case_id.isascii() or await bench.in_thread(bench.ledger.case, case_id) is None:
                raise BadInput([f"there is no case {case_id} in this ledger; 'onboard status' lists them."])
        return worst([await _work(bench, case_id, api, retry=True, json=json) for case_id in cases])


async def _of_batch(settings: Settings, batch_id: str, code: str | None, *, json: bool) -> int:
    api = doors.prefect_api()
    found = await doors.connections(settings, api)
    async with open_workbench(settings, found, actor=actor()) as bench:
        if not batch_id.isascii() or await bench.in_thread(batches.batch, bench.ledger, batch_id) is None:
            raise BadInput([f"--batch: there is no batch {batch_id} in this ledger."])
        attention = [CaseStatus.ATTENTION]
        cases = await bench.in_thread(lambda: bench.ledger.cases(statuses=attention, batch_id=batch_id))
        wanted = [case.id for case in cases if code is None or case.reason == code.upper()]
        if not wanted:
            of_code = "" if code is None else f" for {code.upper()}"
            print(f"onboard: no case of batch {batch_id} needs a person{of_code}.", file=sys.stderr)
        lanes = _Lanes(bench, api, retry=True, json=json)
        async with asyncio.TaskGroup() as group:
            lanes.start(group, wanted, len(wanted))
        return worst(lanes.statuses)


async def _due(settings: Settings, *, watch: bool, limit: int, json: bool) -> int:
    api = doors.prefect_api()
    found = await doors.connections(settings, api)
    async with open_workbench(settings, found, actor=actor()) as bench:
        lanes = _Lanes(bench, api, retry=False, json=json)
        try:
            async with asyncio.TaskGroup() as group:
                await bench.finish_releases()
                lanes.start(group, await bench.find_due(limit), limit)
                while watch:
                    await asyncio.sleep(_LOOK_S)
                    lanes.start(group, await _find_due(bench, limit), limit)
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return worst(lanes.statuses)


async def _find_due(bench: Workbench, limit: int) -> list[str]:
    """The cases that are due; none while the ledger's database cannot be reached, which a watch outlasts."""
    try:
        await bench.finish_releases()  # one can be interrupted at any time
        return await bench.find_due(limit)
    except StoreUnavailable as error:
        print(f"onboard: {error}", file=sys.stderr)
        return []


class _Lanes:
    """Works cases, a few at a time, the oldest first. One that cannot be worked keeps no other from its turn."""

    def __init__(self, bench: Workbench, api: str | None, *, retry: bool, json: bool) -> None:
        self.statuses: list[int] = []
        self._retry = retry
        self._bench = bench
        self._api = api
        self._json = json
        self._free = asyncio.Semaphore(_LANES if api is None else 1)
        self._at_work: set[str] = set()

    def start(self, group: asyncio.TaskGroup, cases: Iterable[str], limit: int) -> None:
        """Begin with each case that is not under way already."""
        for case_id in cases:
            if case_id not in self._at_work and len(self._at_work) < limit:
                self._at_work.add(case_id)
                group.create_task(self._work(case_id))

    async def _work(self, case_id: str) -> None:
        async with self._free:
            try:
                status = await _work(self._bench, case_id, self._api, retry=self._retry, json=self._json)
            except OnboardingError as error:
                for line in str(error).splitlines():
                    print(f"onboard: {line if case_id in line else f'case {case_id}: {line}'}", file=sys.stderr)
                status = EXIT_FAULT
            except Exception as error:  # noqa: BLE001 - one case's fault must not stop the others
                what = f"unexpected {type(error).__name__} at {place_of(error)}; this is a mistake of ours, please report it."
                print(f"onboard: case {case_id}: {what} 'onboard show {case_id}' has how it stands.", file=sys.stderr)
                status = EXIT_FAULT
        self._at_work.discard(case_id)
        self.statuses = [worst([*self.statuses, status])]


async def _work(bench: Workbench, case_id: str, api: str | None, *, retry: bool, json: bool) -> int:
    worked = await doors.door_for(api)(bench, case_id, retry)
    return say_worked(worked, observed=api is not None, json=json, notes=[])
