"""The database under the ledger: addresses, failures and what is known after them, busy and full, clocks and views."""

import resource
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from cli.local import free_port
from onboarding.clocks import boot_id, boot_seconds
from onboarding.errors import BadSettings, LedgerError
from onboarding.ledger.ledger import Ledger
from onboarding.ledger.store import CommitUnknown, Store, StoreUnavailable, mounted, refuse_network_file_system
from onboarding.ledger.writes import CaseWrite
from tests.ledger.bench import REGISTRATION, Bench, HandClock, applied, other_subject

SECRET = "Mrkr-secret-word"

# Addresses


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("not an address", "not a database address"),
        ("", "not a database address"),
        (f"postgresql://user:{SECRET}@host:port/db", "not a database address"),
        ("sqlite://", "the path must be absolute"),
        ("sqlite:///ledger.db", "the path must be absolute"),
        ("sqlite:///:memory:", "the path must be absolute"),
        (f"mysql://user:{SECRET}@host/db", "'mysql' is not supported; use sqlite or postgresql"),
    ],
)
def test_an_address_that_is_no_ledger_s_is_refused(url: str, what: str) -> None:
    with pytest.raises(BadSettings, match=f"^ONBOARDING_LEDGER_URL: .*{what}") as refused:
        Store(url)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        (f"postgresql://ann:{SECRET}@host/db", "postgresql+psycopg://ann:***@host/db"),
        (f"postgresql+asyncpg://host/db?password={SECRET}", "postgresql+psycopg://host/db"),
        ("sqlite+aiosqlite:////tmp/x.db", "sqlite:////tmp/x.db"),
    ],
)
def test_the_driver_is_ours_and_the_place_holds_no_password(url: str, place: str) -> None:
    store = Store(url)
    assert store.place == place
    assert store.path == (Path("/tmp/x.db") if store.is_sqlite else None)  # noqa: S108 - never opened
    store.close()


MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/sdb1 /home/ann/local ext4 rw 0 0
//box/share /media/a\\040share cifs rw 0 0
host:/ /mnt fuse.sshfs rw 0 0
tmpfs /mnt tmpfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"), [("/home/ann/l.db", "nfs4"), ("/media/a share/l.db", "cifs"), ("/home", "nfs4")]
)
def test_a_network_file_system_is_refused(path: str, kind: str) -> None:
    with pytest.raises(BadSettings, match=rf"network file system \({kind}\)"):
        refuse_network_file_system(Path(path), MOUNTS)


@pytest.mark.parametrize("path", ["/var/l.db", "/home/ann/local/l.db", "/homework/l.db", "/mnt/l.db"])
def test_a_local_file_system_passes(path: str) -> None:
    refuse_network_file_system(Path(path), MOUNTS)
    refuse_network_file_system(Path(path), "")


def test_a_system_without_a_table_of_mounts_refuses_none(tmp_path: Path) -> None:
    table = tmp_path / "mounts"
    assert mounted(table) == ""
    table.write_bytes(b"server:/a\xff /a nfs rw 0 0\n")
    with pytest.raises(BadSettings, match="network file system"):
        refuse_network_file_system(Path("/a/ledger.db"), mounted(table))


# Unavailable


def test_a_database_that_does_not_answer_is_unavailable_and_the_message_tells_nothing_else() -> None:
    store = Store(f"postgresql://ann:{SECRET}@127.0.0.1:{free_port()}/db")
    with pytest.raises(StoreUnavailable, match=r"cannot be used .*: check ONBOARDING_LEDGER_URL") as refused:
        store.write(lambda c: c.execute(text("SELECT :secret"), {"secret": SECRET}))
    assert SECRET not in str(refused.value)
    assert refused.value.__cause__ is None
    store.close()


def test_a_failing_statement_is_unavailable_without_its_text_or_values(bench: Bench) -> None:
    with pytest.raises(StoreUnavailable) as refused:
        bench.ledger.store.write(lambda c: c.execute(text("INSERT INTO nowhere VALUES (:secret)"), {"secret": SECRET}))
    assert SECRET not in str(refused.value)
    assert "nowhere" not in str(refused.value)


def test_a_broken_promise_of_ours_is_no_outage_and_shows_no_values(bench: Bench) -> None:
    statement = text("INSERT INTO onboarding_claim (kind, key, bound_to) VALUES ('k', :secret, NULL)")
    with pytest.raises(IntegrityError) as broken:
        bench.ledger.store.write(lambda c: c.execute(statement, {"secret": SECRET}))
    assert "hidden" in str(broken.value)


def test_when_every_connection_is_taken_the_ledger_is_unavailable(tmp_path: Path, bench: Bench) -> None:
    store = Store(bench.ledger.store.url.render_as_string(hide_password=False), busy_seconds=0.2)
    release = threading.Event()
    all_taken = threading.Barrier(17)

    def hold(_connection: Connection) -> None:
        all_taken.wait(30)
        release.wait(30)

    with ThreadPoolExecutor(16) as threads:
        holding = [threads.submit(store.read, hold) for _ in range(16)]
        all_taken.wait(30)
        with pytest.raises(StoreUnavailable, match="TimeoutError"):
            store.read(lambda c: None)
        release.set()
        for each in holding:
            each.result()
    store.close()


# SQLite busy and full


def test_a_busy_sqlite_ledger_is_unavailable_after_a_while_and_goes_on_after_it(sqlite_bench: Bench) -> None:
    bench = sqlite_bench
    impatient = Ledger(Store(str(bench.ledger.store.url), clock=bench.clock, busy_seconds=0.05), bench.ledger.key)
    lease = bench.open_and_lease()

    def hold_the_write_lock(_connection: Connection) -> None:
        with pytest.raises(StoreUnavailable, match="OperationalError"):
            impatient.renew(lease)
        assert impatient.case(lease.case_id) is not None, "readers are not kept waiting"

    bench.ledger.store.write(hold_the_write_lock)
    impatient.renew(lease)
    impatient.close()


def test_a_full_disk_leaves_nothing_half_written(sqlite_bench: Bench) -> None:
    bench = sqlite_bench
    lease = bench.open_and_lease()
    before = bench.content()
    path = bench.ledger.store.path
    assert path is not None
    log = path.with_name(path.name + "-wal")
    with file_size_limit(log.stat().st_size + 2048), pytest.raises(LedgerError, match="ledger") as full:
        bench.do(lease, REGISTRATION, applied)
    assert isinstance(full.value, CommitUnknown | StoreUnavailable)
    assert bench.content() == before
    bench.do(lease, REGISTRATION, applied)
    assert bench.ledger.trail_problems(lease.case_id) == []


@contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    """No file of this process grows past ``limit`` bytes: as near to a full disk as a test comes without mounting one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# Clocks and views


def test_the_lease_clock_of_sqlite_is_this_boot_s(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'x.db'}")
    epoch, seconds = store.read(store.clock)
    assert epoch == boot_id() != ""
    assert seconds <= boot_seconds() < seconds + 60
    store.close()


@pytest.mark.postgres
def test_the_lease_clock_of_postgresql_is_the_server_s_and_runs_within_a_transaction(postgres_url: str) -> None:
    store = Store(postgres_url)
    (first, second) = store.read(lambda c: (store.clock(c), store.clock(c)))
    assert first[0] == second[0] == "postgresql"
    assert time.time() - 60 < first[1] < second[1] < time.time() + 60
    store.close()


def test_a_lease_by_the_database_s_own_clock_is_held_and_ends(bench: Bench) -> None:
    url = bench.ledger.store.url.render_as_string(hide_password=False)
    real = Bench(Ledger(Store(url), bench.ledger.key), HandClock())
    lease = real.lease(real.open(), seconds=0.001)
    while not isinstance(again := real.take(lease.case_id), type(lease)):
        pass
    assert again.fence == 2
    assert 0 < real.case(lease.case_id).lease_left_s <= again.seconds
    real.close()


@pytest.mark.postgres
def test_a_frozen_runner_does_not_keep_row_locks_for_ever(postgres_url: str) -> None:
    store = Store(postgres_url)
    for limit in ("lock_timeout", "idle_in_transaction_session_timeout"):
        assert store.read(lambda c, limit=limit: c.exec_driver_sql(f"SHOW {limit}").scalar_one()) == "30s"  # type: ignore[misc]
    store.close()


@pytest.mark.postgres
def test_a_row_that_a_frozen_runner_has_locked_is_unavailable_after_a_while(postgres_bench: Bench) -> None:
    bench = postgres_bench
    url = bench.ledger.store.url.render_as_string(hide_password=False)
    impatient = Ledger(Store(url, clock=bench.clock, busy_seconds=0.05), bench.ledger.key)
    lease = bench.open_and_lease()

    def hold(write: CaseWrite) -> None:
        with pytest.raises(StoreUnavailable, match="LockNotAvailable"):
            impatient.renew(lease)

    bench.ledger.fenced(lease, hold)
    impatient.renew(lease)
    impatient.close()


def test_one_read_is_one_consistent_view(bench: Bench) -> None:
    def look(connection: Connection) -> tuple[int, int]:
        count = text("SELECT count(*) FROM onboarding_case")
        first = connection.execute(count).scalar_one()
        bench.open(other_subject())
        return first, connection.execute(count).scalar_one()

    assert bench.ledger.store.read(look) == (0, 0)
