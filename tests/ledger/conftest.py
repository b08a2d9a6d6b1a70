"""Every ledger test runs on SQLite and on PostgreSQL, each on a migrated ledger that holds nothing yet.

Those that work on cases run on SQLite once more, with each write worked out ahead of its lock, as that of many cases is.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from pydantic import SecretStr

from onboarding.keys import LedgerKey
from onboarding.ledger import together
from onboarding.ledger.ledger import Ledger, migrate
from onboarding.ledger.store import Store
from onboarding.settings import Settings
from tests.ledger.bench import Bench, HandClock
from tests.support.postgres import PostgresServer

KEY_TEXT = LedgerKey.new_text()
AHEAD = "sqlite, worked out ahead"
WORK_CASES = {f"test_{name}" for name in ("claims", "exception_claims", "late_answers", "leases", "steps", "together")}
BACKENDS = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]


def settings_for(url: str) -> Settings:
    return Settings(ledger_url=url, ledger_key=SecretStr(KEY_TEXT))


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ledger") / "template.db"
    migrate(settings_for(f"sqlite:///{path}"))
    return path


class SharedDatabase:
    """A migrated PostgreSQL database that is emptied for every test, and made anew after one that changed its schema."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._stack = ExitStack()
        self._url: str | None = None

    def emptied(self) -> str:
        """Its address, with a ledger in it that holds nothing."""
        if self._url is None:
            self._url = self._stack.enter_context(self._server.fresh_database())
            migrate(settings_for(self._url))
            name = sql.Identifier(self._url.rsplit("/", 1)[1])
            # What is tested here is not whether the disk keeps its word; that costs half the time.
            self._server.execute(sql.SQL("ALTER DATABASE {} SET synchronous_commit = off").format(name))
        with psycopg.connect(self._url.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute("SET session_replication_role = replica")  # the trail refuses to be emptied otherwise
            for table in ("event", "step", "claim", "vendor_state", "case", "batch_row", "batch"):
                connection.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(f"onboarding_{table}")))
        return self._url

    def drop(self) -> None:
        """Let the next test have another one."""
        self._stack.close()
        self._url = None


@pytest.fixture(scope="session")
def shared_database(postgres: PostgresServer) -> Iterator[SharedDatabase]:
    shared = SharedDatabase(postgres)
    yield shared
    shared.drop()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" in metafunc.fixturenames:
        works = metafunc.module.__name__.rpartition(".")[2] in WORK_CASES
        metafunc.parametrize("backend", [*BACKENDS, AHEAD] if works else BACKENDS, indirect=True)


@pytest.fixture
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param != AHEAD:
        return str(request.param)
    monkeypatch.setattr(together, "WORTH_PREPARING", 1)
    return "sqlite"


@pytest.fixture
def empty_url(backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a ledger may come to be: no file yet, or an empty database."""
    if backend == "sqlite":
        return f"sqlite:///{tmp_path / 'new' / 'ledger.db'}"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def ledger_url(backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A migrated ledger that holds nothing, with the key ``KEY_TEXT``."""
    if backend == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "ledger.db")
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    shared: SharedDatabase = request.getfixturevalue("shared_database")
    return shared.emptied()


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def bench(ledger_url: str, clock: HandClock, request: pytest.FixtureRequest) -> Iterator[Bench]:
    found = Bench(Ledger(Store(ledger_url, clock=clock), LedgerKey.from_text(KEY_TEXT)), clock)
    yield found
    found.close()
    if found.changed_the_schema and not found.is_sqlite:
        request.getfixturevalue("shared_database").drop()


@pytest.fixture
def another_bench(ledger_url: str, clock: HandClock) -> Iterator[Callable[..., Bench]]:
    """Opens the same ledger again, as another process would (``key``: with another key)."""
    opened: list[Bench] = []

    def open_again(key: str = KEY_TEXT) -> Bench:
        opened.append(Bench(Ledger(Store(ledger_url, clock=clock), LedgerKey.from_text(key)), clock))
        return opened[-1]

    yield open_again
    for each in opened:
        each.close()


@pytest.fixture
def sqlite_bench(sqlite_template: Path, tmp_path: Path, clock: HandClock) -> Iterator[Bench]:
    """A ledger on SQLite, for what is so on SQLite alone."""
    shutil.copy(sqlite_template, tmp_path / "only.db")
    found = Bench(Ledger(Store(f"sqlite:///{tmp_path / 'only.db'}", clock=clock), LedgerKey.from_text(KEY_TEXT)), clock)
    yield found
    found.close()


@pytest.fixture
def postgres_bench(postgres_url: str, clock: HandClock) -> Iterator[Bench]:
    """A ledger on PostgreSQL, for what is so on PostgreSQL alone."""
    migrate(settings_for(postgres_url))
    found = Bench(Ledger(Store(postgres_url, clock=clock), LedgerKey.from_text(KEY_TEXT)), clock)
    yield found
    found.close()
