"""Work some cases of a batch: the flow that several workers run at the same time for one batch."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import ceil
from typing import Annotated, Any, Final

from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

from flows.asked import ID_PATTERN, NOT_STORED, asked_flow, read_case_id, shown
from flows.batch_asked import read_batch_id
from flows.run import ended, ended_by, label_run, workbench_of_this_run
from onboarding.batch.engine import Here, Worked, one_by_one, work_cases
from onboarding.batch.stopping import until_stopped
from onboarding.endings import Ending
from onboarding.errors import BadInput
from onboarding.json_input import kind_of

MOST_CASES: Final = 5000
_LEFT_ALONE: Final = "vendor-left-alone:"
BatchField = Annotated[
    str,
    shown(title="Batch", description="The batch that the cases are of. Example: 7K3Q9M2XW4TB", pattern=ID_PATTERN),
]
CasesField = Annotated[
    list[str],
    shown(title="Cases", description="The cases to work, by their ids. Example: 7K3Q9M2XW4TB", maxItems=MOST_CASES),
]


def read_chunk(given: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The batch and the cases of a chunk. Raises ``BadInput``."""
    batch_id, cases = read_batch_id(given.get("batch_id")), given.get("case_ids")
    if not isinstance(cases, Sequence) or isinstance(cases, str | bytes):
        raise BadInput([f"case_ids: must be a list, not {kind_of(cases)}."])
    if not 1 <= len(cases) <= MOST_CASES:
        raise BadInput([f"case_ids: must be 1 to {MOST_CASES} cases."])
    return batch_id, [read_case_id(case_id) for case_id in cases]


def storable_chunk(given: Mapping[str, Any]) -> dict[str, Any]:
    """What the server may store of a run's parameters: all of them, or none of those that cannot be used."""
    try:
        batch_id, cases = read_chunk(given)
    except BadInput:
        return {"batch_id": NOT_STORED}
    return {"batch_id": batch_id, "case_ids": cases}


def left_alone_s(tags: Iterable[str]) -> float:
    """Seconds for which a vendor is to be left alone, as the tags of a chunk's run tell; else 0."""
    told = [tag.removeprefix(_LEFT_ALONE) for tag in tags if tag.startswith(_LEFT_ALONE)]
    return float(max((int(seconds) for seconds in told if seconds.isdecimal()), default=0))


def run_name() -> str:
    """The batch, and how many of its cases."""
    try:
        batch_id, cases = read_chunk(flow_run.parameters)
    except BadInput:
        return "no chunk"
    return f"{len(cases)} cases of batch {batch_id}"


@asked_flow(storable=storable_chunk, name="onboard-chunk", flow_run_name=run_name)
async def onboard_chunk(batch_id: BatchField, case_ids: CasesField) -> State[Any]:
    """Work some cases of a batch, many at a time. Started by onboard-batch; what another run works on is left to it."""
    endings: Counter[str] = Counter()
    stop = asyncio.Event()

    def told(worked: Worked) -> None:
        endings[str(worked.ending or worked.code)] += 1

    try:
        batch, cases = read_chunk({"batch_id": batch_id, "case_ids": case_ids})
        async with workbench_of_this_run() as bench:
            await label_run(f"batch:{batch}")
            work = work_cases(Here(bench), one_by_one(cases), lanes=bench.settings.concurrency, told=told, stop=stop)
            closed_for_s = await until_stopped(work, stop)
            if closed_for_s:  # a state's data would have to be stored; this the run of the batch can read
                await label_run(f"batch:{batch}", f"{_LEFT_ALONE}{ceil(closed_for_s)}")
    except Exception as error:  # noqa: BLE001 - Prefect would store the text of any, and pickle it
        return ended_by(error)
    counts = ", ".join(f"{count} {name}" for name, count in endings.most_common()) or "none begun"
    what = f"batch {batch}: {endings.total()} of {len(cases)} cases: {counts}."
    return ended(Ending.CANCELLED if stop.is_set() else Ending.CHUNK_WORKED, None, what=what)
