"""Every ledger test runs on SQLite and on PostgreSQL, each on a database of its own, copied from a migrated one."""

import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from psycopg import sql
from pydantic import SecretStr

from onboarding.keys import LedgerKey
from onboarding.ledger.ledger import Ledger, migrate
from onboarding.ledger.store import Store
from onboarding.settings import Settings
from tests.ledger.bench import Bench, HandClock
from tests.support.postgres import PostgresServer

KEY_TEXT = LedgerKey.new_text()
BACKENDS = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]


def settings_for(url: str) -> Settings:
    return Settings(ledger_url=url, ledger_key=SecretStr(KEY_TEXT))


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ledger") / "template.db"
    migrate(settings_for(f"sqlite:///{path}"))
    return path


@pytest.fixture(scope="session")
def postgres_template(postgres: PostgresServer) -> Iterator[str]:
    with postgres.fresh_database() as url:
        migrate(settings_for(url))
        yield url.rsplit("/", 1)[1]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def empty_url(backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a ledger may come to be: no file yet, or an empty database."""
    if backend == "sqlite":
        return f"sqlite:///{tmp_path / 'new' / 'ledger.db'}"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def ledger_url(backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A ledger of its own, migrated, with the key ``KEY_TEXT``."""
    if backend == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "ledger.db")
        yield f"sqlite:///{tmp_path / 'ledger.db'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    template: str = request.getfixturevalue("postgres_template")
    name = f"ledger_{secrets.token_hex(8)}"
    names = {"name": sql.Identifier(name), "template": sql.Identifier(template)}
    server.execute(sql.SQL("CREATE DATABASE {name} TEMPLATE {template}").format(**names))
    try:
        yield server.url(name)
    finally:
        server.execute(sql.SQL("DROP DATABASE {name} WITH (FORCE)").format(**names))


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def bench(ledger_url: str, clock: HandClock) -> Iterator[Bench]:
    found = Bench(Ledger(Store(ledger_url, clock=clock), LedgerKey.from_text(KEY_TEXT)), clock)
    yield found
    found.close()


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
