"""On SQLite many cases' work is worked out without the one write lock, and written only if all it went by still stands."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event

from onboarding.errors import IdentityConflict, LeaseLost, LedgerError
from onboarding.ledger import together
from onboarding.ledger.claims import ClaimKey, ExceptionClaim, take_claims
from onboarding.ledger.leasing import Runner
from onboarding.ledger.states import StepStatus
from onboarding.ledger.together import ALONE, Fenced, Taking
from onboarding.ledger.views import Held
from onboarding.ledger.writes import CaseWrite, Lease
from tests.ledger.bench import ADDRESSES, LEASE_S, REGISTRATION, Bench, applied, other_subject, registration_claim

RUNNER = Runner("runner", LEASE_S)
WORKED_S = 30.0
Work = Taking | Fenced[Any]


@pytest.fixture(autouse=True)
def _always_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(together, "WORTH_PREPARING", 1)


def two_leases(bench: Bench) -> tuple[Lease, Lease]:
    return bench.open_and_lease(), bench.open_and_lease(other_subject())


def register(write: CaseWrite) -> None:
    applied(write.step(REGISTRATION))


def claims(key: ClaimKey) -> Callable[[CaseWrite], Held | None]:
    return lambda write: take_claims(write, [key])


@contextmanager
def meanwhile(bench: Bench, works: list[Any]) -> Iterator[Any]:
    """What is done here is committed after ``works`` were worked out, and before they are written.

    Gives a connection that has the write lock. ``works`` holds their results in the end.
    """
    lease = bench.open_and_lease(other_subject("D" * 32, device__inventory_id="D" * 32))
    worked_out = threading.Event()
    last = Fenced(lease, lambda _write: worked_out.set())
    held = sqlite3.connect(str(bench.ledger.store.path), isolation_level=None)
    try:
        with ThreadPoolExecutor(1) as thread:
            held.execute("BEGIN IMMEDIATE")
            try:
                written = thread.submit(bench.ledger.work_together, [*works, last])
                assert worked_out.wait(WORKED_S), "nothing is worked out while somebody else has the write lock"
                yield held
            finally:
                held.execute("COMMIT")
            *works[:], others = written.result(WORKED_S)
            assert others is None or works == [ALONE], "the others go on"
    finally:
        held.close()


def test_nothing_that_changed_meanwhile_is_nothing_done_anew(sqlite_bench: Bench) -> None:
    first, second = two_leases(sqlite_bench)
    runs: list[str] = []

    def counted(write: CaseWrite) -> None:
        runs.append(write.lease.case_id)
        register(write)

    works: list[Any] = [Fenced(first, counted), Fenced(second, counted)]
    with meanwhile(sqlite_bench, works):
        pass
    assert (works, runs) == ([None, None], [first.case_id, second.case_id])
    for lease in (first, second):
        assert sqlite_bench.step(lease.case_id, REGISTRATION).status is StepStatus.DONE
        assert sqlite_bench.ledger.trail_problems(lease.case_id) == []


def test_a_case_that_was_taken_over_meanwhile_is_lost_and_the_others_go_on(sqlite_bench: Bench) -> None:
    first, second = two_leases(sqlite_bench)
    works: list[Any] = [Fenced(first, register), Fenced(second, register)]
    with meanwhile(sqlite_bench, works) as held:
        held.execute("UPDATE onboarding_case SET fence = fence + 1, lease_owner = 'B' WHERE id = ?", (first.case_id,))
    assert isinstance(works[0], LeaseLost)
    assert works[1] is None
    assert sqlite_bench.step(first.case_id, REGISTRATION).status is StepStatus.PENDING
    assert sqlite_bench.step(second.case_id, REGISTRATION).status is StepStatus.DONE


def test_a_lease_that_was_over_and_was_renewed_meanwhile_is_not_taken(sqlite_bench: Bench) -> None:
    lease = sqlite_bench.open_and_lease()
    sqlite_bench.clock.advance(LEASE_S + 1)
    works: list[Any] = [Taking(lease.case_id, RUNNER, ADDRESSES)]
    with meanwhile(sqlite_bench, works) as held:
        until = sqlite_bench.clock.seconds + LEASE_S
        held.execute("UPDATE onboarding_case SET lease_until = ? WHERE id = ?", (until, lease.case_id))
    assert works == [Held(lease.case_id, LEASE_S)]


def test_a_case_that_is_gone_meanwhile_is_nobodys_to_write(sqlite_bench: Bench) -> None:
    lease = sqlite_bench.open_and_lease()
    works: list[Any] = [Fenced(lease, register)]
    with meanwhile(sqlite_bench, works) as held:
        for table, column in (("step", "case_id"), ("case", "id")):
            held.execute(f"DELETE FROM onboarding_{table} WHERE {column} = ?", (lease.case_id,))
    assert works == [ALONE]
    assert isinstance(sqlite_bench.ledger.work_together([Fenced(lease, register)], wait=True)[0], LeaseLost)


@pytest.mark.parametrize("claimed_before", [True, False])
def test_a_claim_that_another_took_meanwhile_is_not_taken_twice(sqlite_bench: Bench, *, claimed_before: bool) -> None:
    first, second = two_leases(sqlite_bench)
    if claimed_before:  # and given back
        sqlite_bench.ledger.fenced(second, claims(registration_claim("B")))
        sqlite_bench.ledger.fenced(second, lambda write: write.step(REGISTRATION).refuse("CPR_DUP_PPID"))
    works: list[Any] = [Fenced(first, claims(registration_claim("A")), [registration_claim("A")])]
    with meanwhile(sqlite_bench, works) as held:
        values = (second.case_id, second.fence)
        if claimed_before:
            held.execute("UPDATE onboarding_claim SET state = 'held', holder_case = ?, holder_fence = ?", values)
        else:
            held.execute(
                "INSERT INTO onboarding_claim (kind, key, bound_to, state, holder_case, holder_fence, attempts, probes, "
                "absences, in_doubt, updated_at) VALUES ('registration', 'registration 1', 'B', 'held', ?, ?, 0, 0, 0, 0, "
                "'2026-01-01 00:00:00.000000')",
                values,
            )
    assert isinstance(works[0], IdentityConflict)
    assert sqlite_bench.claim("registration 1")["holder_case"] == second.case_id


def test_an_exception_whose_holder_gave_it_back_meanwhile_is_taken(sqlite_bench: Bench) -> None:
    first, second = two_leases(sqlite_bench)

    def take(write: CaseWrite) -> bool:
        return isinstance(ExceptionClaim.take(write, "content"), ExceptionClaim)

    assert sqlite_bench.ledger.fenced(second, take)
    works: list[Any] = [Fenced(first, take)]
    with meanwhile(sqlite_bench, works) as held:
        held.execute(
            "UPDATE onboarding_case SET lease_owner = NULL, lease_until = NULL WHERE id = ?", (second.case_id,)
        )
    assert works == [True]


def test_a_ledger_that_was_migrated_meanwhile_gives_no_lease(sqlite_bench: Bench) -> None:
    case_id = sqlite_bench.open()
    works: list[Any] = [Taking(case_id, RUNNER, ADDRESSES)]
    with meanwhile(sqlite_bench, works) as held:
        held.execute("UPDATE onboarding_schema SET version_num = '9999'")
    assert works == [ALONE]
    assert isinstance(sqlite_bench.ledger.work_together([Taking(case_id, RUNNER, ADDRESSES)])[0], LedgerError)
    assert sqlite_bench.case(case_id).fence == 0


def test_what_needs_to_see_its_own_writes_is_done_under_the_lock(sqlite_bench: Bench) -> None:
    first, second = two_leases(sqlite_bench)
    sqlite_bench.ledger.fenced(first, claims(registration_claim("A")))
    # The second case's claim is not told before, and is read after the first case has settled it.
    works: list[Work] = [Fenced(first, register), Fenced(second, claims(registration_claim("A")))]
    assert sqlite_bench.ledger.work_together(works) == [None, None]
    row = sqlite_bench.claim("registration 1")
    assert (row["state"], row["holder_case"], row["effect_id"]) == ("done", second.case_id, first.case_id)


def test_nothing_is_written_before_the_lock_is_taken(sqlite_bench: Bench) -> None:
    first, second = two_leases(sqlite_bench)
    sqlite_bench.ledger.fenced(first, claims(registration_claim("A")))
    written: list[bool] = []

    def note(connection: Connection, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith(("INSERT", "UPDATE", "DELETE")):
            written.append(connection.get_execution_options().get("onboarding_writes", False))

    works: list[Work] = [Fenced(first, register), Fenced(second, claims(registration_claim("A")))]
    event.listen(Engine, "before_cursor_execute", note)
    try:
        sqlite_bench.ledger.work_together(works)
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    assert written
    assert all(written)
