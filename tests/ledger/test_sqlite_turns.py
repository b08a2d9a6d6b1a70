"""SQLite's one write lock is shared fairly: who writes all the time keeps nobody waiting for long."""

import errno
import fcntl
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from onboarding.ledger.sqlite_turns import WriteTurns
from onboarding.ledger.store import Store, StoreGone

BUSY_S = 0.003
"""How long each transaction of the busy one takes: as long as a real one, and longer than it rests between two."""


@pytest.fixture
def url(tmp_path: Path) -> str:
    address = f"sqlite:///{tmp_path / 'l.db'}"
    store = Store(address)
    store.write(lambda c: c.execute(text("CREATE TABLE noted (who TEXT)")))
    store.close()
    return address


def note(store: Store, who: str, seconds: float = 0.0) -> None:
    def change(connection: Connection) -> None:
        connection.execute(text("INSERT INTO noted VALUES (:who)"), {"who": who})
        time.sleep(seconds)

    store.write(change)


@contextmanager
def always_writing(url: str) -> Iterator[None]:
    """Somebody writes one transaction after another, without a rest."""
    store, stop, begun = Store(url), threading.Event(), threading.Event()

    def write() -> None:
        while not stop.is_set():
            note(store, "busy", BUSY_S)
            begun.set()

    thread = threading.Thread(target=write)
    thread.start()
    begun.wait()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        store.close()


def test_who_waits_is_next_after_a_transaction_or_two(url: str) -> None:
    store = Store(url)
    with always_writing(url):
        for _ in range(30):
            note(store, "patient")
    said = [row.who for row in store.read(lambda c: c.execute(text("SELECT who FROM noted ORDER BY rowid")).all())]
    store.close()
    places = [place for place, who in enumerate(said) if who == "patient"]
    between = sorted(after - before - 1 for before, after in pairwise(places))
    assert between[len(between) // 2] <= 3, "transactions of the busy one while the other waits, in the middle"


def test_who_has_written_steps_back_only_if_somebody_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    holder = sqlite3.connect(tmp_path / "l.db", isolation_level=None)
    turns, waiting = WriteTurns(tmp_path / "l.db", 5), WriteTurns(tmp_path / "l.db", 5)
    slept: list[float] = []
    turns.begin(holder)
    turns.step_back()

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 1:  # the other one waits now, and says so
            turns.step_back()
            holder.execute("COMMIT")

    monkeypatch.setattr(time, "sleep", sleep)
    other = sqlite3.connect(tmp_path / "l.db", isolation_level=None)
    waiting.begin(other)
    turns.step_back()
    assert len(slept) == 2, "once who waits, once who steps back for it"
    assert slept[1] > slept[0], "longer than it takes until who waits tries again"
    for one in (holder, other):
        one.close()
    for each in (turns, waiting):
        each.close()


def test_who_has_written_steps_back_for_its_own_process_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    holder, other = (sqlite3.connect(tmp_path / "l.db", isolation_level=None) for _ in range(2))
    turns = WriteTurns(tmp_path / "l.db", 5)
    slept: list[float] = []
    turns.begin(holder)

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 1:  # the other one waits now
            turns.step_back()
            holder.execute("COMMIT")

    monkeypatch.setattr(time, "sleep", sleep)
    turns.begin(other)
    turns.step_back()
    assert len(slept) == 2, "once who waits, once who steps back for it"
    assert slept[1] > slept[0]
    for one in (holder, other):
        one.close()
    turns.close()


def test_nobody_begins_at_once_while_somebody_writes(tmp_path: Path) -> None:
    holder, other = (sqlite3.connect(tmp_path / "l.db", isolation_level=None) for _ in range(2))
    turns = WriteTurns(tmp_path / "l.db", 5)
    assert turns.begin_at_once(holder)
    assert not turns.begin_at_once(other)
    holder.execute("COMMIT")
    assert turns.begin_at_once(other)
    assert other.execute("PRAGMA busy_timeout").fetchone() == (5000,)
    for one in (holder, other):
        one.close()
    turns.close()


def test_who_waits_too_long_is_told_and_waits_no_more(url: str) -> None:
    store, holder = Store(url, busy_seconds=0.1), sqlite3.connect(url.removeprefix("sqlite:///"))
    holder.isolation_level = None
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreGone):
        note(store, "patient")
    holder.execute("ROLLBACK")
    note(store, "patient")
    with (Path(str(store.path)).with_name("l.db-waiting")).open("rb") as waiting:
        fcntl.flock(waiting, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises if anybody still says that it waits
    store.close()
    holder.close()


def test_other_errors_than_a_lock_are_not_waited_for(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "l.db", isolation_level=None)
    turns = WriteTurns(tmp_path / "l.db", 60)
    turns.begin(connection)
    with pytest.raises(sqlite3.OperationalError, match="within a transaction"):
        turns.begin(connection)
    connection.close()
    turns.close()


class Busy:
    """A connection that is busy, in one of SQLite's words for it, for its first statements that take a lock."""

    def __init__(self, code: int, times: int) -> None:
        self.code, self.left, self.said = code, times, list[str]()

    def execute(self, statement: str) -> None:
        if "busy_timeout" in statement:
            return
        self.said.append(statement)
        if self.left > 0:
            self.left -= 1
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorcode = self.code
            raise error


@pytest.mark.parametrize("code", [sqlite3.SQLITE_BUSY, sqlite3.SQLITE_BUSY_RECOVERY, sqlite3.SQLITE_BUSY_SNAPSHOT])
def test_every_kind_of_busy_is_waited_for(tmp_path: Path, code: int) -> None:
    turns = WriteTurns(tmp_path / "l.db", 60)
    writing, connecting = Busy(code, 2), Busy(code, 2)
    turns.begin(writing)
    turns.prepare(connecting)
    assert writing.said == ["BEGIN IMMEDIATE"] * 3
    assert connecting.said == ["PRAGMA journal_mode=WAL"] * 3
    turns.close()


def test_many_that_open_a_new_database_at_once_wait_for_each_other(tmp_path: Path) -> None:
    for round_ in range(20):
        stores = [Store(f"sqlite:///{tmp_path / f'{round_}.db'}") for _ in range(6)]
        begin = threading.Barrier(len(stores))

        def make(store: Store, begin: threading.Barrier = begin) -> None:
            begin.wait()
            store.write(lambda c: c.execute(text("CREATE TABLE IF NOT EXISTS noted (who TEXT)")))

        with ThreadPoolExecutor(len(stores)) as threads:
            list(threads.map(make, stores))  # raises what one of them met
        for store in stores:
            store.close()


def test_a_file_system_without_such_locks_costs_the_courtesy_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_descriptor: int, _how: int) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    store = Store(f"sqlite:///{tmp_path / 'l.db'}", busy_seconds=0.05)
    monkeypatch.setattr(fcntl, "flock", refused)
    store.write(lambda c: c.execute(text("CREATE TABLE noted (who TEXT)")))
    note(store, "alone")
    holder = sqlite3.connect(tmp_path / "l.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreGone):
        note(store, "patient")
    holder.close()
    note(store, "again")
    left = store.read(lambda c: c.execute(text("PRAGMA busy_timeout")).scalar_one())
    assert left == 50, "milliseconds; it is as it was"
    store.close()


def test_who_waited_to_connect_says_so_no_longer(tmp_path: Path) -> None:
    turns = WriteTurns(tmp_path / "l.db", 60)
    turns.prepare(Busy(sqlite3.SQLITE_BUSY, 2))
    with (tmp_path / "l.db-waiting").open("rb") as waiting:
        fcntl.flock(waiting, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises if anybody still says that it waits
    turns.close()


def test_without_its_file_nobody_steps_back_and_all_goes_on(tmp_path: Path) -> None:
    (tmp_path / "l.db-waiting").mkdir()  # no file can be made in its place
    connection = sqlite3.connect(tmp_path / "l.db", isolation_level=None)
    turns = WriteTurns(tmp_path / "l.db", 0.05)
    turns.step_back()
    turns.begin(connection)
    with sqlite3.connect(tmp_path / "l.db", isolation_level=None) as other, pytest.raises(sqlite3.OperationalError):
        turns.begin(other)
    other.close()
    connection.close()
    turns.close()


def test_who_looks_for_others_at_the_same_moment_keeps_nobody_from_waiting(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "l.db", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    turns = WriteTurns(tmp_path / "l.db", 0.05)
    with (tmp_path / "l.db-waiting").open("wb") as frozen:  # as a process that was stopped while it looked
        fcntl.flock(frozen, fcntl.LOCK_EX)
        other = sqlite3.connect(tmp_path / "l.db", isolation_level=None)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            turns.begin(other)
        connection.execute("ROLLBACK")
        turns.begin(other)
        other.execute("COMMIT")
        turns.step_back()
    other.close()
    connection.close()
    turns.close()
