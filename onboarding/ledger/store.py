"""The database under the ledger: SQLite (one machine) or PostgreSQL (several), opened safely or not at all.

A write is one function of a transaction: ``store.write(change)`` begins it with the write lock (``BEGIN IMMEDIATE``; row
locks on PostgreSQL), commits, and gives back what the function returned. A commit whose outcome is not known raises
``CommitUnknown``.
"""

import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from sqlalchemy.pool import QueuePool

from onboarding.clocks import DATABASE_EPOCH, boot_id, boot_seconds
from onboarding.errors import BadSettings, LedgerError
from onboarding.ledger.sqlite_turns import WriteTurns

T = TypeVar("T")
LeaseClock = Callable[[Connection], tuple[str, float]]

SCHEMA_VERSION: Final = "0002"
# A runner that freezes inside a transaction must not keep its row locks, or nobody could take its case over.
_POSTGRESQL_LIMITS: Final = ("lock_timeout", "idle_in_transaction_session_timeout")
_MOUNTS: Final = Path("/proc/self/mounts")
_NETWORK_FILE_SYSTEMS: Final = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "9p",
        "afs",
        "ceph",
        "fuse.sshfs",
        "fuse.glusterfs",
        "fuse.s3fs",
        "lustre",
        "gpfs",
        "ncpfs",
    }
)
_GIVEN_UP: Final = ("40001", "40P01")  # PostgreSQL: serialization_failure, deadlock_detected
_OUT_OF_REACH: Final = ("08", "57P0")  # PostgreSQL: connection exceptions, shutdowns
_TIMES_GIVEN_UP: Final = 3
_CLOCK: Final = text("SELECT extract(epoch FROM clock_timestamp())")
_VERSION: Final = text("SELECT version_num FROM onboarding_schema")
_UNSAFE_WHEN_OFF: Final = ("fsync", "full_page_writes", "synchronous_commit")


class CommitUnknown(LedgerError):
    """The database did not say whether it committed; nothing is sent until the state is read again."""


class StoreUnavailable(LedgerError):
    """The database did not answer; nothing was written."""


class StoreGone(StoreUnavailable):
    """The database as a whole cannot be used: no connection, or (SQLite) its one lock was held for too long."""


class StoreBusy(StoreUnavailable):
    """Another transaction stood in the way for too long; nothing was written."""


class Store:
    """One ledger database. Threads may share it; each call takes a connection of its own.

    ``place``: where the ledger is, without credentials.
    ``clock`` tells the epoch and the seconds by which leases go; by default it is this boot's clock (SQLite) or the
    database's (PostgreSQL). Quiet times go by it too, unless it can be set: see ``quiet_clock``. ``busy_seconds``: how
    long a write waits for another one to end, and a call for a free connection.
    """

    def __init__(self, url: str, *, clock: LeaseClock | None = None, busy_seconds: float = 30.0) -> None:
        self.url: Final = _checked_url(url)
        self.is_sqlite: Final = self.url.get_backend_name() == "sqlite"
        self._turns = WriteTurns(Path(str(self.url.database)), busy_seconds) if self.is_sqlite else None
        self._engine = (
            _postgresql_engine(self.url, busy_seconds)
            if self._turns is None
            else _sqlite_engine(self.url, busy_seconds, self._turns)
        )
        self._clock = clock or (_boot_clock if self.is_sqlite else _database_clock)
        # Without the query: that can hold a password, too.
        self.place: Final = self.url.set(query={}).render_as_string(hide_password=True)

    @property
    def path(self) -> Path | None:
        """The file of an SQLite ledger."""
        return Path(str(self.url.database)) if self.is_sqlite else None

    def write(self, change: Callable[[Connection], T]) -> T:
        """Run ``change`` in one transaction and commit it; nothing is kept if it raises.

        It is run again if the database gave this transaction up in favour of another one (a deadlock).
        """
        for _ in range(_TIMES_GIVEN_UP):
            with suppress(StoreBusy):
                return self._write(change)
        return self._write(change)

    def _write(self, change: Callable[[Connection], T]) -> T:
        with _said_plainly(self.place), self._engine.connect() as connection:
            self._begin(connection, writes=True)
            result = _changed(connection, change)
            self._commit(connection)
        return self._after(result)

    def begin_write(self, change: Callable[[Connection], T]) -> Callable[[], T] | None:
        """All of a write but its commit, if SQLite's write lock is free: what this returns commits it, in whatever thread.

        Until then the lock is held, so nothing that waits for the lock may come before. None: somebody has it (or it is not
        SQLite); nothing was done, and ``write`` waits its turn.
        """
        if self._turns is None:
            return None
        with _said_plainly(self.place), ExitStack() as open_:
            connection = open_.enter_context(self._engine.connect())
            if not self._begin(connection, writes=True, waits=False):
                return None
            result = _changed(connection, change)
            open_.pop_all()

        def commit() -> T:
            with _said_plainly(self.place), connection:
                self._commit(connection)
            return self._after(result)

        return commit

    def _commit(self, connection: Connection) -> None:
        try:
            connection.commit()
        except SQLAlchemyError as error:
            connection.invalidate()
            raise CommitUnknown(
                f"the ledger {self.place} did not say whether it stored the last change ({type(error).__name__}); "
                "nothing is sent until its state is read again: resume the case."
            ) from None

    def _after(self, result: T) -> T:
        if self._turns is not None:
            self._turns.step_back()
        return result

    def read(self, look: Callable[[Connection], T]) -> T:
        """Run ``look`` on one consistent view and give its result back."""
        with _said_plainly(self.place), self._engine.connect() as connection:
            if not self.is_sqlite:  # else each statement would have a view of its own
                connection.execution_options(isolation_level="REPEATABLE READ")
            self._begin(connection, writes=False)
            return look(connection)  # and nothing is kept of it

    def clock(self, connection: Connection) -> tuple[str, float]:
        """The lease clock: the name of its epoch and the seconds in it. Times of two epochs cannot be compared."""
        return self._clock(connection)

    def durability_problems(self) -> list[str]:
        """What could make this database forget a commit, one line each (PostgreSQL; SQLite is set by us)."""
        if self.is_sqlite:
            return []

        def look(connection: Connection) -> list[str]:
            values = {name: str(connection.execute(text(f"SHOW {name}")).scalar_one()) for name in _UNSAFE_WHEN_OFF}
            return [
                f"{name} is {value} on {self.place}: set it to on" for name, value in values.items() if value == "off"
            ]

        return self.read(look)

    def is_blank(self) -> bool:
        """Whether the database holds no table at all: an SQLite file that another process is about to fill."""
        return self.read(lambda c: not inspect(c).get_table_names())

    def close(self) -> None:
        """Give every connection back."""
        self._engine.dispose()
        if self._turns is not None:
            self._turns.close()

    @contextmanager
    def migrating(self) -> Iterator[Connection]:
        """A connection with one write transaction, for migrations only."""
        with _said_plainly(self.place), self._engine.connect() as connection:
            self._begin(connection, writes=True)
            if not self.is_sqlite:  # two installations must not migrate at once
                connection.execute(text("SELECT pg_advisory_xact_lock(7364012205)"))
            yield connection
            connection.commit()

    def _begin(self, connection: Connection, *, writes: bool, waits: bool = True) -> bool:
        """Begin a transaction; on SQLite by a statement of ours (a listener of SQLAlchemy's would slow every statement down).

        Returns whether it did: not if somebody else writes, and this one ``waits`` for nobody.
        """
        connection.execution_options(onboarding_writes=writes).begin()
        if self._turns is None:
            return True
        driver = connection.connection.dbapi_connection
        assert driver is not None, "it was given for this"
        try:
            if writes and not waits:
                return self._turns.begin_at_once(driver)
            if writes:
                self._turns.begin(driver)
            else:
                driver.execute("BEGIN")
        except sqlite3.Error as error:
            raise DBAPIError.instance("BEGIN", None, error, sqlite3.Error) from error
        return True


def _changed(connection: Connection, change: Callable[[Connection], T]) -> T:
    try:
        return change(connection)
    except BaseException:
        with suppress(SQLAlchemyError):
            connection.rollback()
        raise


def _boot_clock(_connection: Connection) -> tuple[str, float]:
    return boot_id(), boot_seconds()


def _database_clock(connection: Connection) -> tuple[str, float]:
    seconds = connection.execute(_CLOCK).scalar_one()
    return DATABASE_EPOCH, float(seconds)


def schema_version(connection: Connection) -> str | None:
    """The version of the schema as this connection sees it."""
    dialect = connection.dialect
    if not dialect.has_table(connection, "onboarding_schema"):
        return None
    return connection.execute(_VERSION).scalar_one_or_none()


@contextmanager
def _said_plainly(place: str) -> Iterator[None]:
    """Turn driver errors into one line; drivers repeat statements and values in theirs."""
    try:
        yield
    except IntegrityError:
        raise  # a broken promise of ours, not the database's
    except (DBAPIError, NoConnectionFree) as error:
        detail = type(error.orig if isinstance(error, DBAPIError) else error).__name__
        raised = _class_of(error)
        raise raised(
            f"the ledger {place} cannot be used ({detail}): check ONBOARDING_LEDGER_URL, that the database runs, "
            "is not full and lets this user in."
        ) from None


def _class_of(error: DBAPIError | NoConnectionFree) -> type[StoreUnavailable]:
    """Whether the whole database is out of reach, or only this transaction had to give way or was refused."""
    state = getattr(getattr(error, "orig", None), "sqlstate", None)
    if state in _GIVEN_UP:
        return StoreBusy
    if isinstance(error, NoConnectionFree):
        return StoreGone
    gone = isinstance(error, OperationalError) and (state is None or state.startswith(_OUT_OF_REACH))
    return StoreGone if gone else StoreUnavailable


def _checked_url(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # ValueError: a port that is not a number
        raise BadSettings(
            ["ONBOARDING_LEDGER_URL: not a database address; write sqlite:////path.db or postgresql+psycopg://..."]
        ) from None
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        if not parsed.database or not Path(parsed.database).is_absolute():
            raise BadSettings(["ONBOARDING_LEDGER_URL: the path must be absolute; write sqlite:////absolute/path.db."])
        refuse_network_file_system(Path(parsed.database), mounted(_MOUNTS))
        return parsed.set(drivername="sqlite")
    if backend == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    raise BadSettings([f"ONBOARDING_LEDGER_URL: {backend!r} is not supported; use sqlite or postgresql+psycopg."])


def _postgresql_engine(url: URL, busy_seconds: float) -> Engine:
    engine = create_engine(
        url,
        pool_size=8,
        max_overflow=8,
        pool_timeout=busy_seconds,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args={"connect_timeout": 10, "application_name": "subject-onboarding"},
        isolation_level="READ COMMITTED",
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        for limit in _POSTGRESQL_LIMITS:
            connection.execute(f"SET {limit} = {int(busy_seconds * 1000)}")
        connection.commit()

    return engine


def _sqlite_engine(url: URL, busy_seconds: float, turns: WriteTurns) -> Engine:
    path = Path(str(url.database))
    engine = create_engine(
        url,
        poolclass=QueuePool,
        pool_size=8,
        max_overflow=8,
        pool_timeout=busy_seconds,
        hide_parameters=True,
        connect_args={"timeout": busy_seconds, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions are begun by ``Store``
        with suppress(OSError):
            path.chmod(stat.S_IRUSR | stat.S_IWUSR)
        turns.prepare(connection)
        for pragma in ("synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    return engine


def prepare_folder(path: Path) -> None:
    """Make the folder of an SQLite ledger, and the empty file, readable by this user alone."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Only if it is not there yet: closing any handle of a file gives up SQLite's locks on it, for this whole process.
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def refuse_network_file_system(path: Path, mounts: str) -> None:
    """Raise ``BadSettings`` if ``path`` lies on a network file system; ``mounts`` as in ``/proc/self/mounts``."""
    target = str(path.resolve())
    best, kind = "", ""
    for line in mounts.splitlines():
        _, point, found, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        inside = target == point or target.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, found
    if kind in _NETWORK_FILE_SYSTEMS:
        why = f"lies on a network file system ({kind}), where locks are not safe; use a local disk or PostgreSQL."
        raise BadSettings([f"ONBOARDING_LEDGER_URL: {why}"])


def mounted(table: Path) -> str:
    """What is mounted where, or nothing where the system has no such table."""
    with suppress(OSError):
        return table.read_text("utf-8", errors="replace")
    return ""
