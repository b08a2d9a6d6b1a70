"""When a batch is worked no further: nothing waits, only long waits are left, a vendor is left alone, or it was stopped."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from onboarding.batch.engine import Hands, Here, due_cases, work_cases
from onboarding.batch.intake import take_in_file
from onboarding.batch.progress import Pace, Progress, look
from onboarding.batch.rounds import Left, Rest, patience_s, work_and_tell, work_rounds
from onboarding.batch.stopping import until_stopped
from onboarding.intake import IntakeRequest
from onboarding.ledger import batch_progress, batches, drafting
from onboarding.ledger.drafting import Draft
from onboarding.ledger.leasing import Runner
from onboarding.ledger.preparing import prepare
from onboarding.ledger.states import StepName
from onboarding.ledger.writes import Lease
from tests.steps.lab import Lab, laboratory
from tests.support.batch_files import csv_text, exception_row, subject_row
from tests.support.requests import example
from vendor_sandbox import seed


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    async with laboratory(tmp_path, world=seed.many(8), lease_seconds=1.5) as running:
        yield running


async def taken_in(lab: Lab, *rows: dict[str, str]) -> str:
    path = Path(lab.effect_log).with_name("subjects.csv")
    path.write_text(csv_text(rows))
    intake = await lab.bench.in_thread(
        lambda: take_in_file(
            lab.bench.ledger, path, addresses=lab.bench.systems.addresses, actor="t", settings=lab.bench.settings
        )
    )
    return str(intake.batch_id)


async def worked(lab: Lab, batch_id: str, stop: asyncio.Event | None = None) -> tuple[Left, list[float]]:
    waits: list[float] = []
    ends = stop or asyncio.Event()

    async def due_now() -> float:
        cases = due_cases(lab.bench, batch_id)
        return await work_cases(Here(lab.bench), cases, lanes=4, told=lambda _worked: None, stop=ends)

    return await work_rounds(lab.bench, batch_id, due_now, ends, waiting=waits.append), waits


async def test_a_release_that_was_interrupted_is_finished_before_due_cases_are_looked_for(lab: Lab) -> None:
    ledger = lab.bench.ledger
    batch_id = batches.open_batch(ledger, lab.bench.systems.addresses, actor="t")
    request = IntakeRequest.model_validate(example())
    drafting.add_rows(ledger, batch_id, [Draft(1, 2, prepare(ledger.key, request))])
    said = "UPDATE onboarding_batch SET state = 'releasing', file_digest = 'd', rows = 1"
    ledger.store.write(lambda connection: connection.exec_driver_sql(said))  # and then the process was killed
    assert await lab.bench.find_due(10) == []
    await lab.bench.finish_releases()
    assert len(await lab.bench.find_due(10)) == 1


async def test_all_that_is_due_is_worked_and_then_nothing_waits(lab: Lab) -> None:
    batch_id = await taken_in(lab, *(subject_row(number) for number in range(1, 5)))
    left, waits = await worked(lab, batch_id)
    assert (left, waits) == (Left(Rest.NOTHING_WAITS), [])
    progress = await lab.bench.in_thread(look, lab.bench.ledger, batch_id)
    assert (progress.done, progress.cases) == (4, 4)
    assert {found.done for found in progress.steps.values()} == {4}


async def test_a_killed_runners_lease_is_waited_for(lab: Lab) -> None:
    batch_id = await taken_in(lab, exception_row(1), exception_row(2))
    (first, _) = [case.id for case in lab.bench.ledger.cases()]
    killed = Runner("killed", 1.5)
    assert isinstance(lab.bench.ledger.take(first, killed, lab.bench.systems.addresses), Lease)
    left, waits = await worked(lab, batch_id)
    assert left.why is Rest.NOTHING_WAITS
    assert sum(waits) < 5
    assert lab.case(first).status == "done"


async def test_what_waits_long_is_left_and_its_time_is_said(lab: Lab) -> None:
    batch_id = await taken_in(lab, exception_row(1))
    lab.fault("list_exceptions", "throttle", retry_after=600)
    left, waits = await worked(lab, batch_id)
    assert left.why in (Rest.LONG_WAITS, Rest.VENDOR_LEFT_ALONE)
    assert left.due_at is not None
    assert waits == []
    assert patience_s(lab.bench.settings) < 60


async def test_a_stop_ends_a_wait_at_once(lab: Lab) -> None:
    batch_id = await taken_in(lab, exception_row(1))
    lab.fault("list_exceptions", "throttle", retry_after=12)
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.3, stop.set)
    async with asyncio.timeout(8):
        left, _ = await worked(lab, batch_id, stop)
    assert left.why is Rest.STOPPED


async def test_a_batch_that_waits_for_a_log_in_is_not_waited_for(lab: Lab) -> None:
    batch_id = await taken_in(lab, exception_row(1))
    async with lab.another_bench(clinical_one_client_secret="wrong") as wrong:
        cases = due_cases(wrong, batch_id)
        await work_cases(Here(wrong), cases, lanes=1, told=lambda _worked: None, stop=asyncio.Event())
        logins = wrong.systems.login_digests
        assert batch_progress.next_look_s(wrong.ledger, batch_id, logins=logins) is None
    found = batch_progress.next_look_s(lab.bench.ledger, batch_id, logins=lab.bench.systems.login_digests)
    assert found is not None, "with other credentials it may go on"


async def test_the_time_of_each_step_is_told_from_the_end_of_the_one_before(lab: Lab) -> None:
    batch_id = await taken_in(lab, *(subject_row(number) for number in range(1, 4)))
    lab.fault("dispensation", "delay", seconds=0.4, nth="every")
    await worked(lab, batch_id)
    seconds = batch_progress.step_seconds(lab.bench.ledger, batch_id)
    assert set(seconds) == set(StepName)
    assert max(seconds, key=lambda step: seconds[step]) is StepName.DISPENSATION
    assert seconds[StepName.DISPENSATION] >= 0.4


def test_the_pace_of_a_batch_is_known_however_far_apart_the_looks_at_it_are() -> None:
    moments = iter([0.0, 25.0, 50.0, 55.0])
    pace = Pace(lambda: next(moments))
    found = []
    for done in (0, 2500, 3000, 3100):
        progress = Progress(done=done, untouched=1000, waiting=0, attention=0, cancelled=0, steps={})
        pace.add(progress)
        found.append((pace.per_second, pace.left_s(progress)))
    assert found == [(0.0, None), (100.0, 10.0), (20.0, 50.0), (20.0, 50.0)]


# Signals


async def test_the_first_signal_asks_and_the_second_cuts_off() -> None:
    stop, said = asyncio.Event(), list[str]()

    async def work() -> str:
        os.kill(os.getpid(), signal.SIGTERM)
        await stop.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(60)
        return "it was not cut off"

    before = signal.getsignal(signal.SIGTERM)
    assert await until_stopped(work(), stop, lambda: said.append("stopping")) is None
    assert said == ["stopping"]
    assert signal.getsignal(signal.SIGTERM) is before


async def test_work_that_ends_after_the_first_signal_gives_what_it_has() -> None:
    stop = asyncio.Event()

    async def work() -> str:
        os.kill(os.getpid(), signal.SIGINT)
        await stop.wait()
        return "finished"

    assert await until_stopped(work(), stop) == "finished"


async def test_a_cancellation_from_elsewhere_goes_on_its_way() -> None:
    begun = asyncio.Event()

    async def work() -> None:
        begun.set()
        await asyncio.sleep(60)

    task = asyncio.create_task(until_stopped(work(), asyncio.Event()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


class HandsThatEnd(Here):
    """This process, which notes when others would begin to end."""

    def __init__(self, lab: Lab, order: list[str]) -> None:
        super().__init__(lab.bench)
        self._order = order

    def no_more(self) -> None:
        """Nobody is given work any more."""
        self._order.append("begin to end")


@pytest.mark.parametrize(
    ("why", "expected"),
    [
        (Rest.NOTHING_WAITS, ["worked", "begin to end", "told", "ended"]),
        (Rest.LONG_WAITS, ["worked", "begin to end", "told", "ended"]),
        (Rest.STOPPED, ["worked", "ended", "told"]),
    ],
)
async def test_results_are_told_while_processes_end_and_after_it_if_these_are_cut_off(
    lab: Lab, why: Rest, expected: list[str]
) -> None:
    order: list[str] = []

    @asynccontextmanager
    async def hands() -> AsyncIterator[Hands]:
        yield HandsThatEnd(lab, order)
        order.append("ended")

    async def work(_: Hands) -> Left:
        order.append("worked")
        return Left(why)

    async def tell(left: Left) -> Rest:
        order.append("told")
        return left.why

    assert await work_and_tell(hands(), work, tell) is why
    assert order == expected
