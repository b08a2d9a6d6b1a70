"""Onboard the subjects of a file: the flow that `onboard batch`, the page, the inbox's schedule and the API start."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from typing import Annotated, Any

from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

from flows.asked import ID_PATTERN, NotShown, asked_flow, shown
from flows.batch_artifacts import ROWS_SHOWN, plan_words, save_plan
from flows.batch_asked import MOST_LANES, AskedBatch, name_of_batch_run, read_batch_asked, storable_batch
from flows.batch_work import GOES_ON, BatchRun
from flows.run import ended, ended_by, workbench_of_this_run
from onboarding.batch.dry_run import PlanCounts, Planned, Subject, plan_all, subject_of, subjects_of
from onboarding.batch.inbox import InboxBusy, Taken, inbox_of
from onboarding.batch.intake import Intake, IntakeStopped, take_in_file
from onboarding.batch.reading import open_batch
from onboarding.batch.stopping import until_stopped
from onboarding.endings import Ending
from onboarding.errors import BadInput
from onboarding.ledger import batches
from onboarding.workbench import Workbench

FileField = Annotated[
    str | NotShown,
    shown(
        title="File in the inbox",
        description="Name of a file in the inbox (the folder ONBOARDING_INBOX), without a path. It is stored here, so it must "
        "name no person. Example: site-12.csv",
        minLength=1,
    ),
]
BatchField = Annotated[
    str | NotShown,
    shown(
        title="Batch",
        description="A batch that was taken in before, to go on with, instead of a file. Example: 7K3Q9M2XW4TB",
        pattern=ID_PATTERN,
    ),
]
DryRunField = Annotated[
    bool, shown(title="Dry run", description="Read only, and show what would be done. Nothing is sent or stored.")
]
SkipField = Annotated[
    bool,
    shown(
        title="Leave bad rows out",
        description="Onboard the good rows of the file, and explain the others. Off: one bad row, and none is onboarded.",
    ),
]
LanesField = Annotated[
    int | NotShown,
    shown(
        title="Cases at a time",
        description="How many cases are worked at a time, 1 to 1000. Left empty: as the setting "
        "ONBOARDING_CONCURRENCY says. Example: 48",
        minimum=1,
        maximum=MOST_LANES,
    ),
]


_FILE_STAYS = (
    "The file lies in .taken, and the schedule of take-inbox goes on with it within a minute, unless it is paused."
)


def run_name() -> str:
    """The batch's id, or that it is a file."""
    return name_of_batch_run(flow_run.parameters)


@asked_flow(storable=storable_batch, name="onboard-batch", flow_run_name=run_name)
async def onboard_batch(
    file: FileField = None,
    batch_id: BatchField = None,
    dry_run: DryRunField = False,
    skip_bad: SkipField = False,
    concurrency: LanesField = None,
) -> State[Any]:
    """Onboard many subjects: of a batch that was taken in, or of a file in the inbox. The same again goes on.

    Up to a hundred cases (setting) show each step as a task run; of more, a task run is a chunk of many cases.
    """
    given = {"batch_id": batch_id, "file": file, "dry_run": dry_run, "skip_bad": skip_bad, "concurrency": concurrency}
    try:
        asked = read_batch_asked(given)
        async with workbench_of_this_run() as bench:
            lanes = asked.concurrency or bench.settings.concurrency
            if asked.dry_run:
                return await _show_plan(bench, asked, lanes)
            if asked.batch_id is not None:
                return await BatchRun(bench, asked.batch_id, lanes).work()
            assert asked.file is not None
            return await work_file(
                bench, asked.file, lambda found: BatchRun(bench, found, lanes).work(), skip_bad=asked.skip_bad
            )
    except InboxBusy as error:
        return ended(Ending.HELD_BY_ANOTHER_RUN, None, what=str(error))
    except Exception as error:  # noqa: BLE001 - Prefect would store the text of any, and pickle it
        return ended_by(error)


async def work_file(
    bench: Workbench, name: str, work: Callable[[str], Awaitable[State[Any]]], *, skip_bad: bool = False
) -> State[Any]:
    """Take a file of the inbox in, ``work`` its batch, and move it away with its results; or to where it was rejected.

    A run that is stopped leaves the file where the next one finds it.
    """
    with inbox_of(bench.settings).take(name) as taken:
        stop = asyncio.Event()
        try:
            intake = await _taken_in(bench, taken, stop, skip_bad=skip_bad)
        except BadInput as error:
            taken.reject(error.problems)
            raise
        except IntakeStopped as error:
            return ended(Ending.CANCELLED, None, what=f"{error} {_FILE_STAYS}")
        if stop.is_set():
            said = "stopped while the file was taken in; its cases may have been opened, and none was begun."
            return ended(Ending.CANCELLED, None, what=f"{said} {GOES_ON} {_FILE_STAYS}")
        assert intake is not None
        if not intake.released:
            place = await bench.in_thread(lambda: taken.finish(bench.ledger, intake.batch_id, released=False))
            what = f"{intake.left_out} of {intake.rows} rows have problems" if intake.whole else "it could not be read"
            said = f"file: nothing was opened: {what}. The inbox has it with every reason under rejected."
            assert place.startswith("rejected/")
            return ended(Ending.REQUEST_REFUSED, None, what=said)
        state = await work(intake.batch_id)
        worked = (Ending.BATCH_DONE, Ending.BATCH_WAITS, Ending.BATCH_NEEDS_ATTENTION)
        if state.name in set(map(str, worked)):
            await bench.in_thread(lambda: taken.finish(bench.ledger, intake.batch_id, released=True))
            before = " This very file was taken in before; nothing was opened twice." if intake.known else ""
            state.message = f"{state.message or ''}{before}"
        elif state.name == Ending.CANCELLED:
            state.message = f"{state.message or ''} {_FILE_STAYS}"
        return state


async def _taken_in(bench: Workbench, taken: Taken, stop: asyncio.Event, *, skip_bad: bool) -> Intake | None:
    """Take a file in, unless a signal or a cancellation comes first; None if that came too late to tell."""

    def take() -> Intake:
        return take_in_file(
            bench.ledger,
            taken.path,
            addresses=bench.systems.addresses,
            actor=bench.runner.actor,
            settings=bench.settings,
            skip_bad=skip_bad,
            stopped=stop.is_set,
        )

    try:
        return await until_stopped(bench.in_thread(take), stop)
    except asyncio.CancelledError:
        stop.set()  # for the thread, which no cancellation reaches
        raise


async def _show_plan(bench: Workbench, asked: AskedBatch, lanes: int) -> State[Any]:
    counts, first, stop = PlanCounts(), list[Planned](), asyncio.Event()

    async def look() -> None:
        with ExitStack() as stack:
            if asked.file is not None:
                stream = stack.enter_context(inbox_of(bench.settings).read(asked.file))
                subjects = subjects_of(stack.enter_context(open_batch(stream)), bench)
            else:
                assert asked.batch_id is not None
                subjects = _cases_of(bench, asked.batch_id)
            async for planned in plan_all(bench, subjects, lanes=lanes, stop=stop):
                counts.add(planned)
                if len(first) < ROWS_SHOWN:
                    first.append(planned)

    await until_stopped(look(), stop)
    if stop.is_set():
        return ended(Ending.CANCELLED, None, what="the dry run was stopped; nothing was sent.")
    await save_plan(first, counts)
    if not counts.whole or not counts.subjects:
        return ended(Ending.REQUEST_REFUSED, None, what="file: it holds no row that can be taken, or cannot be read.")
    return ended(Ending.PLANNED, None, what=f"{plan_words(counts)}. Nothing was sent.")


def _cases_of(bench: Workbench, batch_id: str) -> Iterator[Subject]:
    """The subjects of a batch, as the ledger has them."""
    ledger = bench.ledger
    if batches.batch(ledger, batch_id) is None:
        raise BadInput([f"batch_id: there is no batch {batch_id} in this ledger."])
    for row in batches.outcomes(ledger, batch_id):
        if row.case_id is not None and row.status is not None and row.same_as is None:
            yield subject_of(bench, (row.number, row.line), ledger.request(row.case_id))
