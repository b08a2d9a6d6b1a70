"""PostgreSQL stops in the middle of work, or ends its connections: whatever was under way is neither lost nor repeated.

The server is a cluster of the test's own. Many runners, a case each, are stopped (SIGSTOP) each at another boundary; then the
server is stopped as by ``pg_ctl stop -m immediate``, so that one stop meets every moment there is.
"""

import asyncio
import os
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import pytest
from sqlalchemy import Connection, update

from onboarding.clocks import boot_seconds
from onboarding.endings import Ending
from onboarding.ledger.columns import CASES
from onboarding.ledger.ledger import Ledger
from onboarding.ledger.store import CommitUnknown, Store, StoreUnavailable
from onboarding.settings import load_connections, load_settings
from onboarding.steps.case import work_case
from onboarding.workbench import open_workbench
from tests.crash.auditor import audit
from tests.crash.boundaries import Trouble
from tests.crash.faults import EFFECT_CALLS
from tests.crash.points import FIGURES, SETTINGS, judged, quick_folder
from tests.crash.runners import Runners, Running
from tests.crash.subjects import alone
from tests.crash.volume import ledger_settings
from tests.steps.lab import Lab, laboratory, leased
from tests.support.postgres import StoppablePostgres, stoppable_postgres
from vendor_sandbox import seed as seeds

pytestmark = [pytest.mark.postgres, pytest.mark.xdist_group("stoppable postgres")]

T = TypeVar("T")
SUBJECTS: Final = 100
NO_EFFECT: Final = frozenset({"login", "token", "logout"})
EVERYWHERE: Final = "CRASH_ALL" in os.environ
KINDS: Final = ("commit", "PUT registration", "POST register-device", "POST dndexception")
UNHURRIED: Final[dict[str, Any]] = {"lease_seconds": 30, "request_timeout_seconds": 10, "settle_seconds": 0.2}


@pytest.fixture(scope="module")
def stoppable() -> Iterator[StoppablePostgres]:
    with stoppable_postgres() as own:
        yield own


@asynccontextmanager
async def world(own: StoppablePostgres, **settings: Any) -> AsyncIterator[Lab]:
    """A laboratory full of subjects whose ledger is on the server that stops."""
    with quick_folder() as folder, ledger_settings(own.server) as ledger:
        async with laboratory(folder, world=seeds.many(SUBJECTS), **{**SETTINGS, **ledger, **settings}) as lab:
            yield lab


def sent(lab: Lab) -> Counter[str]:
    """The requests so far that can have an effect, by call."""
    return Counter(one["call"] for one in lab.calls() if one["method"] != "GET" and one["call"] not in NO_EFFECT)


def database(lab: Lab) -> str:
    """The name of the ledger's database."""
    return lab.bench.ledger.store.place.rsplit("/", 1)[1]


class Stopped:
    """A runner at each of many boundaries, each with a case of its own, all of them stopped there."""

    def __init__(self, runners: Runners, lab: Lab) -> None:
        self._runners = runners
        self._lab = lab
        self._stopped: dict[int, Running] = {}

    async def at_every_third(self, first: int) -> None:
        """Start them and wait until each is where it shall be: the three troubles share the boundaries out.

        With ``CRASH_ALL`` (``make crash-all``) each trouble meets all of them. Reads of the vendors are left out.
        """
        whole = (await self._runners.run(self._lab, await self._lab.open(alone(1)))).boundaries
        kinds = sorted((name, n) for n, name in enumerate(whole, start=1) if name.endswith(KINDS))
        # Counted within each kind: a renewal in between would move all others on, and leave a trouble without a kind.
        places = [n for index, (_, n) in enumerate(kinds) if EVERYWHERE or index % 3 == first]
        cases = [await self._lab.open(alone(number)) for number in range(2, len(places) + 2)]
        started = {
            at: self._runners.start(self._lab, case_id, at=at, trouble=Trouble.STOP)
            for at, case_id in zip(places, cases, strict=True)
        }
        self._stopped = {at: one for at, one in started.items() if await one.stopped()}
        assert len(self._stopped) > len(places) / 2

    async def go_on(self) -> dict[str, Counter[str]]:
        """Let them all go on to their ends; their last words, by the kind of place where they were stopped."""
        words: dict[str, Counter[str]] = {"before commit": Counter(), "elsewhere": Counter()}
        for at, ended in [(at, asyncio.create_task(one.go_on())) for at, one in self._stopped.items()]:
            outcome = await ended
            assert not str(outcome.said).startswith('"'), outcome.said  # a fault of the program
            words["before commit" if outcome.boundaries[at - 1] == "before commit" else "elsewhere"][
                str(outcome.said)
            ] += 1
        return words


def say(what: str, words: dict[str, Counter[str]], began: float) -> None:
    count = sum(one.total() for one in words.values())
    ends = {place: dict(one) for place, one in words.items()}
    FIGURES.append(f"{what}: {count} runners, {ends}, {time.monotonic() - began:.0f} s")


@pytest.mark.parametrize("stops", [True, False], ids=["stopped", "connections ended"])
async def test_runners_go_on_when_the_database_is_back_and_stop_where_a_commit_is_not_known(
    runners: Runners, stoppable: StoppablePostgres, stops: bool
) -> None:
    began = time.monotonic()
    async with world(stoppable, **UNHURRIED) as lab:
        stopped = Stopped(runners, lab)
        if stops:
            await stopped.at_every_third(0)
            stoppable.stop_immediately()
            stoppable.start()
        else:
            await stopped.at_every_third(1)
            stoppable.end_connections(database(lab))
        words = await stopped.go_on()
        say("PostgreSQL stopped and started" if stops else "PostgreSQL's connections ended", words, began)
        assert set(words["before commit"]) == {"CommitUnknown"}
        assert set(words["elsewhere"]) == {Ending.ONBOARDED}
        assert audit(await judged(lab)) == []


async def test_runners_whose_leases_end_while_the_database_is_away_send_nothing_more(
    runners: Runners, stoppable: StoppablePostgres
) -> None:
    began = time.monotonic()
    # So long that none is renewed before its runner is stopped: who stands before that commit hears of it only at its next write.
    async with world(stoppable, lease_seconds=10) as lab:
        stopped = Stopped(runners, lab)
        await stopped.at_every_third(2)
        over_s = max(case.lease_left_s for case in lab.bench.ledger.cases())
        before = sent(lab)
        stoppable.stop_immediately()
        await asyncio.sleep(over_s)
        words = await stopped.go_on()
        assert sent(lab) == before
        stoppable.start()
        say("PostgreSQL away past the leases", words, began)
        assert set(words["before commit"]) == {"CommitUnknown"}
        assert set(words["elsewhere"]) <= {"LeaseLost", "StoreGone", Ending.ONBOARDED}
        assert audit(await judged(lab)) == []


async def test_an_answer_that_comes_while_the_database_is_away_is_found_out_later(
    runners: Runners, stoppable: StoppablePostgres
) -> None:
    patient = {"lease_seconds": 2, "request_timeout_seconds": 5, "settle_seconds": 0.2}
    async with world(stoppable, **patient) as one, world(stoppable, **patient) as other:
        before, after = await asyncio.gather(held(runners, one, "before"), held(runners, other, "after"))
        stoppable.stop_immediately()
        for lab in (one, other):
            lab.control.release()
        said = [(await running.outcome).said for running in [*before, *after]]
        stoppable.start()
        assert said == ["StoreGone"] * 6
        assert [audit(evidence) for evidence in await asyncio.gather(judged(one), judged(other))] == [[], []]


async def held(runners: Runners, lab: Lab, when: str) -> list[Running]:
    """Three runners, each with another of the requests that have an effect held at the vendor."""
    found = []
    for number, call in enumerate(EFFECT_CALLS, start=1):
        fault = lab.fault(call, "hold", when=when)
        found.append(runners.start(lab, await lab.open(alone(number))))
        await lab.control.wait_held(fault_id=fault)
    return found


class LateStore(Store):
    """A store that stops its server right before the write of a late answer is committed."""

    def __init__(self, url: str, own: StoppablePostgres) -> None:
        super().__init__(url)
        self._own = own
        self.stops_next = False

    def write(self, change: Callable[[Connection], T]) -> T:
        def about_to_commit(connection: Connection) -> T:
            result = change(connection)  # raises, if this write is fenced off
            if self.stops_next:
                self._own.stop_immediately()
            return result

        return super().write(about_to_commit)


async def test_a_late_answer_that_cannot_be_kept_changes_nothing(stoppable: StoppablePostgres) -> None:
    async with world(stoppable, request_timeout_seconds=5, lease_seconds=30) as lab:
        store = LateStore(lab.environment["ONBOARDING_LEDGER_URL"], stoppable)
        settings = load_settings(lab.environment)
        connections = load_connections(settings, lab.environment)
        case_id = await lab.open(alone(1))
        fault = lab.fault("register_device", "hold", when="after")
        async with open_workbench(
            settings, connections, actor="late", ledger=Ledger(store, lab.bench.ledger.key)
        ) as late:
            work = asyncio.create_task(lab.work(case_id, bench=late))
            await lab.control.wait_held(fault_id=fault)
            fence_off(lab, case_id)
            store.stops_next = True
            lab.control.release(fault)
            with pytest.raises(CommitUnknown):
                await work
        stoppable.start()
        assert lab.trail(case_id, "late_answer") == []
        assert audit(await judged(lab)) == []
        assert lab.effects()["device_registered"] == 1


def fence_off(lab: Lab, case_id: str) -> None:
    """Let the case's lease be over in the ledger, as if its runner had been away for long."""
    with lab.bench.ledger.store.migrating() as connection:
        connection.execute(update(CASES).where(CASES.c.id == case_id).values(lease_until=0.0, fence=CASES.c.fence + 1))


class WatchedStore(Store):
    """A store that tells when a write could not be made."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.failed = threading.Event()

    def write(self, change: Callable[[Connection], T]) -> T:
        try:
            return super().write(change)
        except StoreUnavailable:
            self.failed.set()
            raise


async def test_a_lease_is_renewed_once_the_database_is_back_if_it_has_not_ended_by_then(
    stoppable: StoppablePostgres,
) -> None:
    async with world(stoppable, lease_seconds=20) as lab:
        store = WatchedStore(lab.environment["ONBOARDING_LEDGER_URL"])
        settings = load_settings(lab.environment)
        connections = load_connections(settings, lab.environment)
        case_id = await lab.open(alone(1))
        ledger = Ledger(store, lab.bench.ledger.key)
        async with (
            open_workbench(settings, connections, actor="patient", ledger=ledger) as bench,
            leased(bench, case_id) as session,
        ):
            stoppable.stop_immediately()
            first_end = session.lease.valid_until
            assert await asyncio.to_thread(store.failed.wait, 20)
            stoppable.start()
            while session.lease.valid_until == first_end:
                assert boot_seconds() < first_end, "it was not renewed in time"
                await asyncio.sleep(0.02)  # nobody is told of a renewal
            session.check_lease()
            assert (await work_case(session)).ending is Ending.ONBOARDED
        assert lab.case(case_id).fence == 1
        assert audit(await judged(lab)) == []
