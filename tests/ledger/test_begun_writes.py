"""SQLite: many works are written at once if its lock is free, and only their commit is left to a thread."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import OperationalError

from onboarding.ledger.async_ledger import AsyncLedger
from onboarding.ledger.leasing import Runner
from onboarding.ledger.states import StepStatus
from onboarding.ledger.store import CommitUnknown, StoreGone
from onboarding.ledger.together import ALONE, WORTH_PREPARING, Fenced, Taking
from onboarding.ledger.writes import CaseWrite, Lease
from tests.ledger.bench import ADDRESSES, LEASE_S, REGISTRATION, Bench, applied, other_subject, registration_claim
from tests.support.commits import commits

MANY = WORTH_PREPARING


def leases(bench: Bench, count: int = MANY) -> list[Lease]:
    numbers = [f"{number:032X}" for number in range(count)]
    opened = [bench.open(other_subject(number, device__inventory_id=number)) for number in numbers]
    taken = bench.together([Taking(case_id, Runner("runner", LEASE_S), ADDRESSES) for case_id in opened])
    assert all(isinstance(lease, Lease) for lease in taken)
    return taken


def register(write: CaseWrite) -> None:
    applied(write.step(REGISTRATION))


def statuses(bench: Bench, held: list[Lease]) -> set[StepStatus]:
    return {bench.step(lease.case_id, REGISTRATION).status for lease in held}


@contextmanager
def writing(bench: Bench) -> Iterator[None]:
    """Somebody has SQLite's write lock meanwhile."""
    with bench.engine.connect() as somebody:
        somebody.exec_driver_sql("BEGIN IMMEDIATE")
        yield
        somebody.rollback()


def test_what_was_begun_stands_once_it_is_finished(sqlite_bench: Bench) -> None:
    held = leases(sqlite_bench)
    with commits() as seen:
        begun = sqlite_bench.ledger.begin_together([Fenced(lease, register) for lease in held])
        assert begun.only_commits
        assert (len(seen), statuses(sqlite_bench, held)) == (0, {StepStatus.PENDING})
        assert begun.finish() == [None] * MANY
    assert (len(seen), statuses(sqlite_bench, held)) == (1, {StepStatus.DONE})


def test_nobody_is_waited_for_who_writes(sqlite_bench: Bench) -> None:
    held = leases(sqlite_bench)
    with writing(sqlite_bench):
        begun = sqlite_bench.ledger.begin_together([Fenced(lease, register) for lease in held])
        assert not begun.only_commits
    assert begun.finish() == [None] * MANY
    assert statuses(sqlite_bench, held) == {StepStatus.DONE}


def test_few_works_are_written_in_the_thread(sqlite_bench: Bench) -> None:
    held = leases(sqlite_bench, MANY - 1)
    begun = sqlite_bench.ledger.begin_together([Fenced(lease, register) for lease in held])
    assert not begun.only_commits
    assert begun.finish() == [None] * len(held)


@pytest.mark.postgres
def test_postgresql_is_written_in_the_thread(postgres_bench: Bench) -> None:
    held = leases(postgres_bench)
    assert postgres_bench.ledger.store.begin_write(lambda _connection: None) is None
    begun = postgres_bench.ledger.begin_together([Fenced(lease, register) for lease in held])
    assert not begun.only_commits
    assert begun.finish() == [None] * MANY


def test_a_write_that_fails_gives_the_lock_back(sqlite_bench: Bench) -> None:
    held = leases(sqlite_bench)
    sqlite_bench.sql("CREATE TRIGGER full BEFORE UPDATE ON onboarding_step BEGIN SELECT RAISE(ABORT, 'full'); END")
    begun = sqlite_bench.ledger.begin_together([Fenced(lease, register) for lease in held])
    assert not begun.only_commits
    assert begun.finish() == [ALONE] * MANY
    with writing(sqlite_bench):
        pass
    sqlite_bench.sql("DROP TRIGGER full")
    assert sqlite_bench.together([Fenced(lease, register) for lease in held]) == [None] * MANY


def test_a_commit_that_fails_is_of_unknown_outcome_and_each_case_is_read_anew(sqlite_bench: Bench) -> None:
    held = leases(sqlite_bench)
    begun = sqlite_bench.ledger.begin_together([Fenced(lease, register) for lease in held])

    def fail(_connection: Connection) -> None:
        raise OperationalError("COMMIT", None, Exception("disk I/O error"))

    event.listen(Engine, "commit", fail)
    try:
        assert [type(one) for one in begun.finish()] == [CommitUnknown] * MANY
    finally:
        event.remove(Engine, "commit", fail)
    assert all(lease.known(REGISTRATION) is None for lease in held)
    assert statuses(sqlite_bench, held) == {StepStatus.PENDING}
    assert sqlite_bench.together([Fenced(lease, register) for lease in held]) == [None] * MANY


def test_a_database_that_cannot_be_opened_is_gone_for_each(
    sqlite_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = leases(sqlite_bench)

    def fail(*_: object, **__: object) -> bool:
        raise StoreGone("the ledger cannot be used")

    monkeypatch.setattr(sqlite_bench.ledger.store, "_begin", fail)
    begun = sqlite_bench.ledger.begin_together([Fenced(lease, register) for lease in held])
    assert [type(one) for one in begun.finish()] == [StoreGone] * MANY


def test_what_changed_since_it_was_looked_at_is_done_anew_under_the_lock(
    sqlite_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = leases(sqlite_bench)
    store, begin = sqlite_bench.ledger.store, sqlite_bench.ledger.store.begin_write

    def after_another(change: Callable[[Connection], Any]) -> Any:
        sqlite_bench.ledger.fenced(held[0], lambda write: write.claim("registration", "registration 1"))
        sqlite_bench.ledger.renew(held[1])
        sqlite_bench.ledger.fenced(held[2], lambda write: write.record("seen"))
        return begin(change)

    monkeypatch.setattr(store, "begin_write", after_another)
    begun = sqlite_bench.ledger.begin_together([Fenced(lease, register, [registration_claim("S1")]) for lease in held])
    assert begun.only_commits
    assert begun.finish() == [None] * MANY
    assert all(sqlite_bench.ledger.trail_problems(lease.case_id) == [] for lease in held)


async def test_a_commit_waits_for_nobody_who_waits_for_its_lock(
    sqlite_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = leases(sqlite_bench)
    store, begin = sqlite_bench.ledger.store, sqlite_bench.ledger.store.begin_write
    others: list[asyncio.Task[Any]] = []
    answer = {"step": "registration", "attempt": 1, "fence": 1, "says": "applied", "code": "UPDATED"}
    with ThreadPoolExecutor(1) as thread, ThreadPoolExecutor(1) as committer:

        async def in_thread(call: Callable[..., Any], *arguments: Any) -> Any:
            return await asyncio.get_running_loop().run_in_executor(thread, call, *arguments)

        async def committing(commit: Callable[[], Any]) -> Any:
            others.append(asyncio.create_task(shared.keep_late_answer(held[0].case_id, "runner", answer)))
            await asyncio.sleep(0)  # it has the other thread now, and waits for the lock there
            return await asyncio.get_running_loop().run_in_executor(committer, commit)

        def noting(change: Callable[[Connection], Any]) -> Any:
            commit = begin(change)
            assert commit is not None
            return commit

        monkeypatch.setattr(store, "begin_write", noting)
        shared = AsyncLedger(sqlite_bench.ledger, in_thread, committing)
        async with asyncio.timeout(20):
            await asyncio.gather(*(shared.fenced(lease, register) for lease in held))
            await asyncio.gather(*others)
    assert statuses(sqlite_bench, held) == {StepStatus.DONE}
    assert len(others) == 1


async def test_what_cannot_be_handed_over_any_more_is_committed_all_the_same(sqlite_bench: Bench) -> None:
    held = leases(sqlite_bench)
    closed = ThreadPoolExecutor(1)
    closed.shutdown()

    async def committing(commit: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(closed, commit)

    shared = AsyncLedger(sqlite_bench.ledger, asyncio.to_thread, committing)
    assert await asyncio.gather(*(shared.fenced(lease, register) for lease in held)) == [None] * MANY
    assert statuses(sqlite_bench, held) == {StepStatus.DONE}
    with writing(sqlite_bench):
        pass
