"""The wall clock is set backwards, or a day forwards, while leases are held and quiet times run.

On SQLite neither matters, since both go by the boot clock. On PostgreSQL leases go by the database's wall clock, so that a
step forwards ends them early: whoever takes over must still wait for the quiet time, which no wall clock shortens.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from onboarding.clocks import boot_seconds, utc_now
from onboarding.endings import Ending
from onboarding.errors import LeaseLost
from onboarding.ledger.states import CaseStatus
from onboarding.ledger.views import Held
from tests.crash.auditor import audit
from tests.crash.boundaries import Trouble
from tests.crash.faults import EFFECT_CALLS
from tests.crash.points import SETTINGS, judged, quick_folder, settle
from tests.crash.runners import Runners, running_runners
from tests.crash.volume import ledger_settings
from tests.steps.lab import Lab, laboratory, leased
from tests.support.postgres import PostgresServer
from tests.support.requests import example
from tests.support.wall_clock import DatabaseClock, WallClock

DAY: Final = 86400
PATIENT: Final[dict[str, Any]] = {"lease_seconds": 20, "request_timeout_seconds": 5, "settle_seconds": 0.2}

# SQLite: the boot clock


@pytest.mark.parametrize("ahead", [DAY, -DAY], ids=["a day forwards", "a day backwards"])
async def test_a_step_of_the_wall_clock_neither_ends_a_lease_nor_a_quiet_time_on_sqlite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    clock = WallClock(tmp_path)
    for name, value in clock.variables.items():
        monkeypatch.setenv(name, value)
    async with running_runners() as shifted, laboratory(tmp_path, **{**SETTINGS, "settle_seconds": 1.5}) as lab:
        held = lab.fault("update_registration", "hold", when="before")
        case_id = await lab.open(example())
        first = shifted.start(lab, case_id)
        await lab.control.wait_held()
        clock.set_ahead(ahead)
        assert (await shifted.run(lab, case_id)).said == "Held"
        await first.kill()
        assert (await first.outcome).killed
        assert (await shifted.run(lab, case_id)).said == "Held", "its lease reaches past its quiet time"
        lab.control.release(held)
        await asyncio.sleep(lab.case(case_id).lease_left_s)
        assert (await shifted.run(lab, case_id)).said == Ending.ONBOARDED
        (_, taken) = lab.trail(case_id, "lease_taken")
        assert abs((taken.at - utc_now()).total_seconds() - ahead) < DAY / 2, "its wall clock was not shifted"
        assert lab.effects()["registration_updated"] == 1
        assert lab.case(case_id).fence == 2


# PostgreSQL: the database's wall clock


@asynccontextmanager
async def shifted_world(server: PostgresServer, **settings: Any) -> AsyncIterator[tuple[Lab, DatabaseClock]]:
    """A laboratory whose database's wall clock can be set."""
    with quick_folder() as folder, ledger_settings(server) as ledger:
        clock = DatabaseClock(ledger["ledger_url"])
        async with laboratory(folder, **{**PATIENT, **ledger, **settings}) as lab:
            yield lab, clock


@pytest.mark.postgres
@pytest.mark.parametrize("call", EFFECT_CALLS)
async def test_a_step_forwards_never_lets_a_request_on_its_way_be_taken_for_absent(
    postgres: PostgresServer, call: str
) -> None:
    async with shifted_world(postgres, request_timeout_seconds=2) as (lab, clock):
        held = lab.fault(call, "hold", when="before")
        case_id = await lab.open(example())
        async with lab.another_bench("first") as first:
            work = asyncio.create_task(lab.work(case_id, bench=first))
            await lab.control.wait_held()
            clock.set_ahead(DAY)
            await lab.attempt(case_id)  # takes it over, since its lease looks ended
            lab.control.release(held)
            with pytest.raises(LeaseLost):
                await work
        assert audit(await judged(lab)) == []
        assert lab.case(case_id).status is CaseStatus.DONE


@pytest.mark.postgres
async def test_a_step_forwards_right_before_a_send_repeats_nothing(runners: Runners, postgres: PostgresServer) -> None:
    async with shifted_world(postgres, request_timeout_seconds=4) as (lab, clock):
        whole = (await runners.run(lab, await lab.open(example()))).boundaries
    async with shifted_world(postgres, request_timeout_seconds=4) as (lab, clock):
        case_id = await lab.open(example())
        at = whole.index("before PUT registration") + 1
        first = runners.start(lab, case_id, at=at, trouble=Trouble.STOP)
        assert await first.stopped()
        clock.set_ahead(DAY)
        await lab.attempt(case_id)  # takes it over
        assert lab.calls("update_registration") == []
        assert (await first.go_on()).said == "LeaseLost"
        # It sent what it had intended, which its own clock allowed; whoever took over waited for that.
        evidence = await judged(lab)
        assert {problem.partition(":")[0] for problem in audit(evidence)} == {"intents_are_older"}
        assert len(lab.calls("update_registration")) == 1


@pytest.mark.postgres
async def test_a_runner_is_fenced_off_when_a_step_forwards_ended_its_lease(postgres: PostgresServer) -> None:
    async with shifted_world(postgres) as (lab, clock), lab.another_bench("first") as first:
        case_id = await lab.open(example())
        async with leased(first, case_id) as session:
            clock.set_ahead(DAY)
            assert (await lab.attempt(case_id)).ending is Ending.ONBOARDED
            effects = lab.effects()
            with pytest.raises(LeaseLost):
                await session.finish()
            with pytest.raises(LeaseLost):
                session.check_lease()
        assert lab.effects() == effects
        assert audit(await judged(lab)) == []


@pytest.mark.postgres
async def test_a_step_backwards_never_lets_two_runners_own_a_case(postgres: PostgresServer) -> None:
    async with shifted_world(postgres) as (lab, clock), lab.another_bench("first") as first:
        held = lab.fault("update_registration", "hold", when="before")
        case_id = await lab.open(example())
        work = asyncio.create_task(lab.work(case_id, bench=first))
        await lab.control.wait_held()
        clock.set_ahead(-DAY)
        async with lab.bench.session(case_id) as second:
            assert isinstance(second, Held)
        lab.control.release(held)
        assert (await work).ending is Ending.ONBOARDED
        assert lab.case(case_id).fence == 1
        assert audit(await judged(lab)) == []


@pytest.mark.postgres
async def test_a_step_backwards_makes_a_dead_runners_case_wait_and_loses_nothing(
    runners: Runners, postgres: PostgresServer
) -> None:
    async with shifted_world(postgres, **SETTINGS) as (lab, clock):
        held = lab.fault("update_registration", "hold", when="after")
        case_id = await lab.open(example())
        first = runners.start(lab, case_id)
        await lab.control.wait_held()
        await first.kill()
        await first.outcome
        clock.set_ahead(-DAY)
        lab.control.release(held)
        assert DAY < lab.case(case_id).lease_left_s < DAY + 10
        clock.set_ahead(0)  # a day later
        await settle(lab)
        assert audit(await judged(lab)) == []


@pytest.mark.postgres
async def test_a_step_backwards_lets_no_runner_think_that_its_lease_lasts_longer(postgres: PostgresServer) -> None:
    async with shifted_world(postgres) as (lab, clock):
        case_id = await lab.open(example())
        async with leased(lab.bench, case_id) as session:
            clock.set_ahead(-DAY)
            await session.commit(lambda _write: None)
            assert session.lease.valid_until - boot_seconds() <= PATIENT["lease_seconds"]
            clock.set_ahead(0)
