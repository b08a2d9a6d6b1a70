"""The database is locked for longer than a write waits, at each write of a run: nothing is sent without a committed intent."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final, Protocol, TypeVar

import psycopg
import pytest
from sqlalchemy import Connection

from onboarding.ledger.ledger import Ledger
from onboarding.ledger.store import Store, StoreUnavailable
from onboarding.settings import load_connections, load_settings
from onboarding.workbench import open_workbench
from tests.crash.auditor import audit
from tests.crash.faults import EFFECT_CALLS
from tests.crash.points import SETTINGS, judged, quick_folder
from tests.crash.subjects import alone
from tests.crash.volume import ledger_settings
from tests.steps.lab import Lab, laboratory
from tests.support.postgres import PostgresServer
from vendor_sandbox import seed as seeds

T = TypeVar("T")
BUSY_S: Final = {"sqlite": 0.05, "postgresql": 0.4}
_HOLDER: Final = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
for line in sys.stdin:
    connection.execute(line)
    print(flush=True)
"""


class Locker(Protocol):
    """Somebody else who locks the ledger, or a case of it, and lets go."""

    def lock(self, case_id: str) -> None: ...

    def unlock(self) -> None: ...


class AnotherProcess:
    """Another process that holds SQLite's write lock."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def lock(self, _case_id: str) -> None:
        self._tell("BEGIN IMMEDIATE")

    def unlock(self) -> None:
        self._tell("ROLLBACK")

    def _tell(self, statement: str) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(statement, file=self._process.stdin, flush=True)
        self._process.stdout.readline()


class AnotherSession:
    """Another session of PostgreSQL that holds a case's row."""

    def __init__(self, connection: "psycopg.Connection[tuple[object, ...]]") -> None:
        self._connection = connection

    def lock(self, case_id: str) -> None:
        self._connection.execute("SELECT id FROM onboarding_case WHERE id = %s FOR UPDATE", (case_id,))

    def unlock(self) -> None:
        self._connection.rollback()


@contextmanager
def locker_of(url: str) -> Iterator[Locker]:
    """Somebody else who uses the ledger."""
    if url.startswith("sqlite"):
        command = [sys.executable, "-c", _HOLDER, url.removeprefix("sqlite:///")]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            yield AnotherProcess(process)
            assert process.stdin is not None
            process.stdin.close()
    else:
        with psycopg.connect(url.replace("+psycopg", "")) as connection:
            yield AnotherSession(connection)


class LockedStore(Store):
    """A store that finds itself locked from its write number ``at`` on."""

    def __init__(self, url: str, at: int, lock: Callable[[], None]) -> None:
        super().__init__(url, busy_seconds=BUSY_S[url.partition(":")[0].partition("+")[0]])
        self._left = at
        self._lock = lock

    @property
    def met(self) -> bool:
        """Whether it got so far."""
        return self._left <= 0

    def write(self, change: Callable[[Connection], T]) -> T:
        self._left -= 1
        if self._left == 0:
            self._lock()
        return super().write(change if self.is_sqlite else partial(_however_slow, change))


def _however_slow(change: Callable[[Connection], T], connection: Connection) -> T:
    """The short limit is for locks; a busy machine can leave a transaction idle for longer."""
    connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
    return change(connection)


async def works_until_locked(lab: Lab, case_id: str, at: int, locker: Locker) -> str | None:
    """Work a case until its ledger is locked at a write; what is said then, or None if the run has fewer writes."""
    settings = load_settings(lab.environment)
    connections = load_connections(settings, lab.environment)
    sent_when_locked: list[int] = []

    def lock() -> None:
        locker.lock(case_id)
        sent_when_locked.append(sent(lab))

    store = LockedStore(lab.environment["ONBOARDING_LEDGER_URL"], at, lock)
    async with open_workbench(
        settings, connections, actor="locked", ledger=Ledger(store, lab.bench.ledger.key)
    ) as bench:
        try:
            await lab.work(case_id, bench=bench)
        except StoreUnavailable as error:
            assert sent_when_locked == [sent(lab)], "something was sent while no intent could be committed"
            return str(error)
        finally:
            if store.met:
                locker.unlock()
    assert not store.met
    return None


def sent(lab: Lab) -> int:
    """How many requests with an effect have arrived."""
    return sum(len(lab.calls(call)) for call in EFFECT_CALLS)


@pytest.mark.parametrize("backend", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
async def test_a_ledger_that_is_locked_at_any_write_stops_the_run_and_repeats_nothing(
    backend: str, request: pytest.FixtureRequest
) -> None:
    server: PostgresServer | None = request.getfixturevalue("postgres") if backend == "postgresql" else None
    with quick_folder() as folder, ledger_settings(server) as ledger:
        async with laboratory(folder, world=seeds.many(60), **SETTINGS, **ledger) as lab:
            with locker_of(lab.environment["ONBOARDING_LEDGER_URL"]) as locker:
                words: list[str] = []
                for at in range(1, 60):
                    said = await works_until_locked(lab, await lab.open(alone(at)), at, locker)
                    if said is None:
                        break
                    words.append(said)
            assert len(words) >= 8, "every write of a run"
            assert all("cannot be used" in said and "ONBOARDING_LEDGER_URL" in said for said in words)
            assert audit(await judged(lab)) == []
