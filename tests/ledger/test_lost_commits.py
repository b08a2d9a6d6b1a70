"""What is known after a connection was lost before, in and after a commit; by real cuts, on a wire or by the server."""

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest
from sqlalchemy import Connection, text

from onboarding.keys import LedgerKey
from onboarding.ledger.ledger import Ledger
from onboarding.ledger.store import CommitUnknown, Store, StoreUnavailable
from onboarding.ledger.writes import CaseWrite
from tests.ledger.bench import REGISTRATION, Bench, applied
from tests.ledger.conftest import KEY_TEXT


@pytest.mark.postgres
def test_a_connection_lost_before_the_commit_wrote_nothing(postgres_bench: Bench) -> None:
    bench = postgres_bench
    lease = bench.open_and_lease()
    before = bench.content()

    def change(write: CaseWrite) -> None:
        applied(write.step(REGISTRATION))
        pid = write.rows.connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        bench.sql("SELECT pg_terminate_backend(:pid, 10000)", pid=pid)
        write.step(REGISTRATION).view()

    with pytest.raises(StoreUnavailable):
        bench.ledger.fenced(lease, change)
    assert bench.content() == before
    bench.ledger.renew(lease)


# Commits whose outcome is not known


@pytest.mark.postgres
def test_a_connection_lost_in_the_commit_leaves_it_unknown_and_the_state_is_read_anew(
    postgres_bench: Bench,
) -> None:
    bench = postgres_bench
    lease = bench.open_and_lease()
    before = bench.content()
    bench.sql(
        "CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$"
    )
    bench.sql(
        "CREATE CONSTRAINT TRIGGER cut AFTER INSERT ON onboarding_event DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION cut()"
    )
    with pytest.raises(CommitUnknown, match="nothing is sent until its state is read again") as unknown:
        bench.do(lease, REGISTRATION, applied)
    assert unknown.value.__cause__ is None
    bench.sql("DROP TRIGGER cut ON onboarding_event")
    assert bench.content() == before
    bench.do(lease, REGISTRATION, applied)


@pytest.mark.postgres
def test_a_commit_whose_answer_is_lost_is_unknown_though_it_was_stored(postgres_bench: Bench) -> None:
    bench = postgres_bench
    lease = bench.open_and_lease()
    with cutting_proxy(bench.ledger.store.url.port or 0) as (port, cut_next_commit):
        url = bench.ledger.store.url.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)
        ledger = Ledger(Store(url, clock=bench.clock), LedgerKey.from_text(KEY_TEXT))
        ledger.renew(lease)
        cut_next_commit.set()
        with pytest.raises(CommitUnknown):
            ledger.fenced(lease, lambda w: applied(w.step(REGISTRATION)))
        view = ledger.case(lease.case_id)
        assert view is not None
        assert view.steps[REGISTRATION].status == "done"
        ledger.close()
    assert bench.ledger.trail_problems(lease.case_id) == []


def test_a_commit_that_breaks_a_deferred_rule_is_unknown_and_kept_nothing(sqlite_bench: Bench) -> None:
    bench = sqlite_bench
    before = bench.content()

    def change(connection: Connection) -> None:
        connection.exec_driver_sql("PRAGMA defer_foreign_keys = ON")
        connection.execute(text("UPDATE onboarding_ledger SET id = 1"))
        connection.execute(
            text(
                "INSERT INTO onboarding_event VALUES ('NOBODY', 1, '2026-01-01', 'a', 'k', NULL, NULL, NULL, NULL, 'x', 'y')"
            )
        )

    with pytest.raises(CommitUnknown):
        bench.ledger.store.write(change)
    assert bench.content() == before


# A wire that is cut after a commit went through


@contextmanager
def cutting_proxy(server_port: int) -> Iterator[tuple[int, threading.Event]]:
    """A way to the server that, once told to, lets the next COMMIT pass and cuts the wire instead of its answer."""
    cut_next_commit = threading.Event()
    stopped = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.05)

    def serve(client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", server_port)) as server:
            committed = threading.Event()
            answers = threading.Thread(target=pump, args=(server, client, lambda _: not committed.is_set()))

            def forward(data: bytes) -> bool:
                if cut_next_commit.is_set() and b"COMMIT\x00" in data:
                    committed.set()
                    cut_next_commit.clear()
                return True

            answers.start()
            pump(client, server, forward)
            answers.join(30)

    def pump(source: socket.socket, sink: socket.socket, passes: Callable[[bytes], bool]) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if not passes(data):
                    break
                sink.sendall(data)
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        with ThreadPoolExecutor() as threads:
            while not stopped.is_set():
                with suppress(TimeoutError):
                    threads.submit(serve, listener.accept()[0])

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield listener.getsockname()[1], cut_next_commit
    finally:
        stopped.set()
        acceptor.join(30)
        listener.close()
