"""Go on with every case that is due: the flow that a schedule starts."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Final

from prefect.client.schemas.objects import State

from flows.asked import asked_flow, shown
from flows.onboard_subject import onboard_subject
from flows.run import ended, ended_by, workbench_of_this_run
from onboarding.batch.children import hands_for
from onboarding.batch.engine import Worked, one_by_one, work_cases
from onboarding.batch.stopping import until_stopped
from onboarding.endings import Ending
from onboarding.errors import BadInput
from onboarding.json_input import kind_of
from onboarding.ledger import batches
from onboarding.workbench import Workbench

MOST_CASES: Final = 5000
RUNS_OF_THEIR_OWN: Final = 20
"""So many due cases are worked by a run each; a run takes more than a second, so more of them are worked by this run itself."""
LimitField = Annotated[
    int,
    shown(
        title="Cases at most",
        description="So many cases at most, the oldest due first; the rest is left to the next run. Example: 100",
        minimum=1,
        maximum=MOST_CASES,
    ),
]


def read_limit(given: object) -> int:
    """How many cases a run works at most. Raises ``BadInput``."""
    if not isinstance(given, int) or isinstance(given, bool):
        raise BadInput([f"limit: must be a whole number, not {kind_of(given)}."])
    if not 1 <= given <= MOST_CASES:
        raise BadInput([f"limit: must be from 1 to {MOST_CASES}."])
    return given


def storable_limit(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What the server may store of a run's parameters."""
    given = parameters.get("limit")
    return {"limit": given} if isinstance(given, int) else {}


@asked_flow(storable=storable_limit, name="resume-cases", flow_run_name="due cases")
async def resume_cases(limit: LimitField = 1000) -> State[Any]:
    """Go on with every case that is due: a lease that ended, a wait that is over, whatever Prefect still shows.

    Up to 20 cases are worked by a run each, tagged with the case; more of them in this run, many at a time. One that needs
    attention does not fail this run. Cases of a batch that another run is just beginning are left to that run.
    """
    endings: Counter[str] = Counter()
    stop = asyncio.Event()
    try:
        most = read_limit(limit)
        async with workbench_of_this_run() as bench:
            await bench.finish_releases()
            await bench.in_thread(batches.sweep, bench.ledger)
            due = await bench.find_due(most)
            many = len(due) > RUNS_OF_THEIR_OWN
            if many:
                await until_stopped(_work_here(bench, due, endings, stop), stop)
        if not many:
            for case_id in due:
                state: State[Any] = await onboard_subject(case_id=case_id, return_state=True)
                endings[state.name or state.type.value] += 1
    except Exception as error:  # noqa: BLE001 - Prefect would store the text of any, and pickle it
        return ended_by(error)
    if not due:
        return ended(Ending.NOTHING_DUE, None)
    cases = "1 case was" if len(due) == 1 else f"{len(due)} cases were"
    more = " There may be more." if len(due) == most else ""
    left = len(due) - endings.total()
    counts = [f"{count} {name}" for name, count in endings.most_common()] + ([f"{left} not begun"] if left else [])
    ending = Ending.CANCELLED if stop.is_set() else Ending.RESUMED
    return ended(ending, None, what=f"{cases} due: {', '.join(counts)}.{more}")


async def _work_here(bench: Workbench, due: list[str], endings: Counter[str], stop: asyncio.Event) -> None:
    """Work many cases in this run, without a run or a task for each; counts how they ended."""

    def told(worked: Worked) -> None:
        endings[str(worked.ending or worked.code)] += 1

    async with hands_for(bench, len(due)) as hands:
        lanes = bench.settings.concurrency * hands.processes
        await work_cases(hands, one_by_one(due), lanes=lanes, told=told, stop=stop)
