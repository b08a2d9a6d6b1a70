"""Go on with every case that is due: the flow that a schedule starts."""

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Final

from prefect.client.schemas.objects import State

from flows.asked import asked_flow, shown
from flows.onboard_subject import onboard_subject
from flows.run import ended, ended_by, workbench_of_this_run
from onboarding.endings import Ending
from onboarding.errors import BadInput
from onboarding.json_input import kind_of

MOST_CASES: Final = 1000
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
async def resume_cases(limit: LimitField = 100) -> State[Any]:
    """Go on with every case that is due: a lease that ended, a wait that is over, whatever Prefect still shows.

    Each case is worked by a run of its own, tagged with the case. One that needs attention does not fail this run.
    """
    try:
        most = read_limit(limit)
        async with workbench_of_this_run() as bench:
            await bench.finish_releases()
            due = await bench.find_due(most)
        endings: Counter[str] = Counter()
        for case_id in due:
            state: State[Any] = await onboard_subject(case_id=case_id, return_state=True)
            endings[state.name or state.type.value] += 1
    except Exception as error:  # noqa: BLE001 - Prefect would store the text of any, and pickle it
        return ended_by(error)
    if not due:
        return ended(Ending.NOTHING_DUE, None)
    cases = "1 case was" if len(due) == 1 else f"{len(due)} cases were"
    more = " There may be more." if len(due) == most else ""
    counts = ", ".join(f"{count} {name}" for name, count in endings.most_common())
    return ended(Ending.RESUMED, None, what=f"{cases} due: {counts}.{more}")
