"""Making, migrating and opening a ledger: schema, key, durability, and who may be first."""

import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier
from typing import Any, LiteralString

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from psycopg import sql
from pydantic import SecretStr
from sqlalchemy import create_engine

from onboarding.errors import BadSettings, LedgerError
from onboarding.keys import LedgerKey, key_file, make_key_file
from onboarding.ledger.ledger import migrate, open_ledger
from onboarding.ledger.migrations import config
from onboarding.ledger.store import SCHEMA_VERSION
from onboarding.ledger.tables import CaseRow
from onboarding.settings import Settings
from tests.ledger.bench import ADDRESSES, Bench
from tests.ledger.conftest import KEY_TEXT, settings_for
from tests.support.postgres import PostgresServer
from tests.support.requests import request


def without_key(url: str) -> Settings:
    return Settings(ledger_url=url)


def opens(settings: Settings) -> None:
    open_ledger(settings).close()


def together(count: int, work: Callable[[], Any]) -> list[Any]:
    start = Barrier(count)

    def run(_: int) -> Any:
        start.wait(30)
        return work()

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(run, range(count)))


def test_the_migrated_schema_equals_the_models(bench: Bench) -> None:
    engine = create_engine(bench.ledger.store.url)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": "onboarding_schema", "compare_type": True}
        )
        assert compare_metadata(context, CaseRow.metadata) == []
    engine.dispose()


def test_the_version_in_code_is_the_last_migration() -> None:
    assert ScriptDirectory.from_config(config()).get_heads() == [SCHEMA_VERSION]


def test_a_migration_makes_a_ledger_that_can_be_opened(empty_url: str) -> None:
    settings = settings_for(empty_url)
    assert migrate(settings) == (None, SCHEMA_VERSION)
    opens(settings)


def test_a_second_migration_changes_nothing(bench: Bench) -> None:
    bench.open()
    before = bench.content()
    settings = settings_for(bench.ledger.store.url.render_as_string(hide_password=False))
    assert migrate(settings) == (SCHEMA_VERSION, SCHEMA_VERSION)
    assert bench.content() == before


def test_migrations_at_the_same_time_make_one_ledger(empty_url: str) -> None:
    settings = settings_for(empty_url)
    together(4, lambda: migrate(settings))
    opens(settings)


def test_two_doors_opened_at_the_same_time_for_the_first_time_share_one_new_ledger(tmp_path: Path) -> None:
    settings = without_key(f"sqlite:///{tmp_path / 'new' / 'ledger.db'}")

    def open_and_use() -> tuple[str, str]:
        ledger = open_ledger(settings)
        try:
            return ledger.key.key_id, ledger.open_case(request(), ADDRESSES, actor="a").case_id
        finally:
            ledger.close()

    assert len(set(together(6, open_and_use))) == 1


def test_a_ledger_of_another_schema_is_refused_by_opening_and_by_taking(bench: Bench, ledger_url: str) -> None:
    case_id = bench.open()
    for version in ("0000", "9999"):
        bench.sql("UPDATE onboarding_schema SET version_num = :version", version=version)
        with pytest.raises(LedgerError, match=f"has schema {version}, this version needs {SCHEMA_VERSION}"):
            opens(settings_for(ledger_url))
        with pytest.raises(LedgerError, match=f"has schema {version}.* run 'onboard migrate'"):
            bench.take(case_id)


def test_a_newer_ledger_is_not_migrated(bench: Bench, ledger_url: str) -> None:
    bench.sql("UPDATE onboarding_schema SET version_num = '9999'")
    with pytest.raises(LedgerError, match=rf"newer than {SCHEMA_VERSION}.* install the newer version"):
        migrate(settings_for(ledger_url))


@pytest.mark.parametrize("change", ["DELETE FROM onboarding_schema", "DROP TABLE onboarding_schema"])
def test_a_ledger_that_does_not_say_its_schema_is_refused(bench: Bench, ledger_url: str, change: str) -> None:
    bench.sql(change)
    with pytest.raises(LedgerError, match="has schema none"):
        opens(settings_for(ledger_url))


def test_an_unmigrated_postgresql_database_is_refused(postgres_url: str) -> None:
    with pytest.raises(LedgerError, match=r"schema none.* run 'onboard migrate'"):
        opens(settings_for(postgres_url))
    with pytest.raises(LedgerError, match=r"has no key here: set ONBOARDING_LEDGER_KEY to the key it was made with\."):
        migrate(without_key(postgres_url))


# Keys


def test_a_wrong_key_is_refused_before_anything_else(bench: Bench, ledger_url: str) -> None:
    bench.open()
    before = bench.content()
    settings = Settings(ledger_url=ledger_url, ledger_key=SecretStr(LedgerKey.new_text()))
    for use in (opens, migrate):
        with pytest.raises(LedgerError, match=r"key does not belong to .* ONBOARDING_LEDGER_KEY"):
            use(settings)
    assert bench.content() == before


def test_a_missing_key_is_refused_and_none_is_made(ledger_url: str, tmp_path: Path) -> None:
    for use in (opens, migrate):
        with pytest.raises(LedgerError, match="has no key here: set ONBOARDING_LEDGER_KEY to the key it was made with"):
            use(without_key(ledger_url))
    assert not list(tmp_path.rglob("*.key*"))


def test_a_new_sqlite_ledger_makes_its_own_key_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "ledger.db"
    opens(without_key(f"sqlite:///{path}"))
    assert sorted(file.name for file in path.parent.iterdir()) == ["ledger.db", "ledger.db.key"]
    assert stat.S_IMODE(key_file(path).stat().st_mode) == 0o600
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    key = key_file(path).read_bytes()
    opens(without_key(f"sqlite:///{path}"))
    assert migrate(without_key(f"sqlite:///{path}")) == (SCHEMA_VERSION, SCHEMA_VERSION)
    assert key_file(path).read_bytes() == key


def test_a_given_key_is_used_for_a_new_ledger_and_no_file_is_made(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger = open_ledger(settings_for(f"sqlite:///{path}"))
    assert ledger.key.key_id == LedgerKey.from_text(KEY_TEXT).key_id
    ledger.close()
    assert not key_file(path).exists()


def test_a_key_of_its_own_that_was_lost_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    opens(without_key(f"sqlite:///{path}"))
    key_file(path).rename(tmp_path / "elsewhere")
    with pytest.raises(LedgerError, match=r"put the key file back beside it \(.*ledger\.db\.key\)"):
        opens(without_key(f"sqlite:///{path}"))
    assert not key_file(path).exists()


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"not a key\n"])
def test_a_key_file_that_holds_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ledger.db"
    opens(without_key(f"sqlite:///{path}"))
    key_file(path).write_bytes(content)
    with pytest.raises(BadSettings, match="must be 32 bytes"):
        opens(without_key(f"sqlite:///{path}"))


def test_a_key_that_stands_already_is_never_replaced(tmp_path: Path) -> None:
    first = make_key_file(tmp_path / "ledger.db")
    assert together(4, lambda: make_key_file(tmp_path / "ledger.db")) == [first] * 4
    assert [file.name for file in tmp_path.iterdir()] == ["ledger.db.key"]


def test_a_making_that_was_interrupted_is_taken_up_again(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    make_key_file(path)
    path.touch()
    opens(without_key(f"sqlite:///{path}"))


def test_who_only_looks_makes_no_ledger(tmp_path: Path) -> None:
    path = tmp_path / "new" / "ledger.db"
    with pytest.raises(LedgerError, match=r"there is no ledger .* yet"):
        open_ledger(without_key(f"sqlite:///{path}"), create=False)
    assert not path.parent.exists()


@pytest.mark.parametrize("use", [opens, migrate])
def test_a_place_where_no_ledger_can_be_is_said_plainly(tmp_path: Path, use: Callable[[Settings], Any]) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LedgerError, match=r"cannot be used .*: check ONBOARDING_LEDGER_URL and the permissions"):
        use(without_key(f"sqlite:///{tmp_path / 'file' / 'ledger.db'}"))


def test_a_key_file_that_cannot_be_read_is_said_plainly(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    opens(without_key(f"sqlite:///{path}"))
    key_file(path).unlink()
    key_file(path).mkdir()
    with pytest.raises(LedgerError, match="cannot be used"):
        opens(without_key(f"sqlite:///{path}"))


def test_a_file_that_is_no_ledger_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "letter.db"
    path.write_bytes(b"Dear Sir or Madam, " * 100)
    with pytest.raises(LedgerError, match=r"cannot be used \(DatabaseError\)"):
        opens(settings_for(f"sqlite:///{path}"))
    assert path.read_bytes() == b"Dear Sir or Madam, " * 100


# Durability


@pytest.fixture
def ledger_on_postgres(postgres_url: str) -> str:
    migrate(settings_for(postgres_url))
    return postgres_url


@contextmanager
def altered_server(postgres: PostgresServer, name: str) -> Iterator[None]:
    """Switch a setting of the whole server off for a while."""
    try:
        set_on_server(postgres, "ALTER SYSTEM SET {} = off", name, "off")
        yield
    finally:
        set_on_server(postgres, "ALTER SYSTEM RESET {}", name, "on")


def set_on_server(postgres: PostgresServer, statement: LiteralString, name: str, expected: str) -> None:
    """Alter the server's settings, until new connections see it: a reload is only asked for."""
    postgres.execute(sql.SQL(statement).format(sql.Identifier(name)))
    postgres.execute(sql.SQL("SELECT pg_reload_conf()").format())
    for _ in range(1000):
        with psycopg.connect(postgres.admin_dsn) as connection:
            if connection.execute(sql.SQL("SHOW {}").format(sql.Identifier(name))).fetchone() == (expected,):
                return
    raise AssertionError(f"{name} did not become {expected}")


def test_a_postgresql_server_that_could_forget_is_refused(postgres: PostgresServer, ledger_on_postgres: str) -> None:
    with (
        altered_server(postgres, "full_page_writes"),
        pytest.raises(LedgerError, match=r"could forget .*full_page_writes is off .*set it to on"),
    ):
        opens(settings_for(ledger_on_postgres))
    opens(settings_for(ledger_on_postgres))


@pytest.mark.parametrize("scope", ["DATABASE", "address"])
def test_commits_that_do_not_wait_are_refused(postgres: PostgresServer, ledger_on_postgres: str, scope: str) -> None:
    url = ledger_on_postgres
    if scope == "address":
        url += "?options=-c%20synchronous_commit%3Doff"
    else:
        name = sql.Identifier(url.rsplit("/", 1)[1])
        postgres.execute(sql.SQL("ALTER DATABASE {} SET synchronous_commit = off").format(name))
    with pytest.raises(LedgerError, match="synchronous_commit is off") as refused:
        opens(settings_for(url))
    assert postgres.password not in str(refused.value)


def test_sqlite_is_set_to_be_durable(tmp_path: Path) -> None:
    ledger = open_ledger(settings_for(f"sqlite:///{tmp_path / 'ledger.db'}"))

    def pragma(name: str) -> Any:
        return ledger.store.read(lambda c: c.exec_driver_sql(f"PRAGMA {name}").scalar_one())

    assert (pragma("journal_mode"), pragma("synchronous"), pragma("foreign_keys")) == ("wal", 2, 1)
    assert ledger.store.durability_problems() == []
    ledger.close()
