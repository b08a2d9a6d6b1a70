"""The trail: append-only in the database, and every change to it by somebody without the key is noticed."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from onboarding.errors import LedgerError
from onboarding.keys import LedgerKey
from onboarding.ledger.states import StepStatus
from onboarding.ledger.trail import Entry, sealed, trail_problems
from tests.ledger.bench import EXCEPTION, REGISTRATION, Bench, other_subject


def a_trail(bench: Bench) -> str:
    """A case with six entries, one of them with a reason."""
    lease = bench.open_and_lease()
    bench.bring(lease, REGISTRATION, StepStatus.DONE)
    bench.ledger.fenced(lease, lambda w: w.record("note", step=EXCEPTION, code="C", reason="Frau Müller rief an"))
    bench.park(lease)
    assert bench.ledger.trail_problems(lease.case_id) == []
    bench.let_the_trail_be_changed()
    return lease.case_id


def test_entries_are_read_in_order_with_their_reasons(bench: Bench) -> None:
    case_id = a_trail(bench)
    events = bench.ledger.events(case_id)
    assert [event.sequence for event in events] == [1, 2, 3, 4, 5, 6]
    assert [event.kind for event in events] == [
        "case_opened",
        "lease_taken",
        "step_intent",
        "step_applied",
        "note",
        "case_waiting",
    ]
    assert [event.reason for event in events] == [None, None, None, None, "Frau Müller rief an", None]
    assert [event.at for event in events] == sorted(event.at for event in events)
    assert bench.ledger.events("NOBODY") == []


@pytest.mark.parametrize("statement", ["UPDATE onboarding_event SET actor = 'x'", "DELETE FROM onboarding_event"])
def test_the_database_refuses_to_change_or_drop_entries(bench: Bench, statement: str) -> None:
    bench.open()
    with pytest.raises(DBAPIError, match="append-only"):
        bench.sql(statement)


def test_postgresql_refuses_to_empty_the_trail(bench: Bench) -> None:
    bench.open()
    if bench.is_sqlite:
        return  # it knows no TRUNCATE
    with pytest.raises(DBAPIError, match="append-only"):
        bench.sql("TRUNCATE onboarding_event")


@pytest.mark.parametrize(
    "change",
    [
        "at = '2020-01-01 00:00:00'",
        "actor = 'somebody else'",
        "kind = 'case_opened'",
        "step = 'device'",
        "step = NULL",
        "code = 'D'",
        "code = NULL",
        "detail = '{\"fence\": 9}'",
        "reason_sealed = NULL",
        "key_id = '0123456789abcdef'",
        "seal = '00'",
        "seal = (SELECT seal FROM onboarding_event WHERE sequence = 4)",
    ],
)
def test_a_change_of_any_field_of_an_entry_is_noticed(bench: Bench, change: str) -> None:
    case_id = a_trail(bench)
    bench.sql(f"UPDATE onboarding_event SET {change} WHERE sequence = 5")
    assert bench.ledger.trail_problems(case_id) == ["entry 5 was changed, or sealed with another key"]


FIELDS = "at, actor, kind, step, code, detail, reason_sealed, key_id, seal"
REPEATED = (
    f"INSERT INTO onboarding_event (case_id, sequence, {FIELDS}) "
    f"SELECT case_id, 7, {FIELDS} FROM onboarding_event WHERE sequence = 6"
)


def moved(before: int, after: int) -> str:
    return f"UPDATE onboarding_event SET sequence = {after} WHERE sequence = {before}"


def last_is(number: int) -> str:
    """Set the case's row to another last entry, as well as the database alone allows."""
    seal = f"(SELECT seal FROM onboarding_event WHERE sequence = {number})"
    return f"UPDATE onboarding_case SET trail_sequence = {number}, trail_seal = {seal}"


TAMPERING: dict[str, tuple[str, str]] = {
    "the first entry dropped": ("DELETE FROM onboarding_event WHERE sequence = 1", "entry 1 is missing"),
    "an entry dropped": ("DELETE FROM onboarding_event WHERE sequence = 3", "entry 3 is missing"),
    "the last entry dropped": ("DELETE FROM onboarding_event WHERE sequence = 6", "the trail ends at entry 5, but"),
    "everything dropped": ("DELETE FROM onboarding_event", "the trail ends at entry 0, but"),
    "two entries exchanged": (f"{moved(3, 100)}; {moved(4, 3)}; {moved(100, 4)}", "entry 3 was changed"),
    "a gap closed": (
        f"DELETE FROM onboarding_event WHERE sequence = 3; {moved(4, 3)}; {moved(5, 4)}; {moved(6, 5)}; {last_is(5)}",
        "entry 3 was changed",
    ),
    "the end cut and the case's row set back": (
        f"DELETE FROM onboarding_event WHERE sequence = 6; {last_is(5)}",
        "the case's row was changed: it does not end with entry 5",
    ),
    "an entry repeated at the end": (f"{REPEATED}; {last_is(7)}", "entry 7 was changed"),
}


@pytest.mark.parametrize("name", TAMPERING)
def test_dropped_exchanged_and_added_entries_are_noticed(bench: Bench, name: str) -> None:
    case_id = a_trail(bench)
    statements, problem = TAMPERING[name]
    for statement in statements.split("; "):
        bench.sql(statement)
    (found,) = bench.ledger.trail_problems(case_id)
    assert found.startswith(problem)


def test_an_entry_of_another_case_does_not_fit(bench: Bench) -> None:
    case_id = a_trail(bench)
    other = bench.open(other_subject())
    bench.sql("DELETE FROM onboarding_event WHERE case_id = :id", id=case_id)
    bench.sql("UPDATE onboarding_event SET case_id = :id WHERE case_id = :other", id=case_id, other=other)
    assert bench.ledger.trail_problems(case_id) == ["entry 1 was changed, or sealed with another key"]


def test_an_entry_from_before_the_ledger_was_set_back_does_not_fit_into_what_came_after(bench: Bench) -> None:
    """It was sealed as this number of this case, by this key: only what follows it tells."""
    lease = bench.open_and_lease()
    bench.let_the_trail_be_changed()
    (before,) = bench.sql("SELECT trail_sequence, trail_seal FROM onboarding_case")
    bench.ledger.fenced(lease, lambda w: w.record("note", code="A"))
    (kept,) = bench.sql("SELECT at, code, seal FROM onboarding_event WHERE sequence = 3")
    bench.sql("DELETE FROM onboarding_event WHERE sequence = 3")
    bench.sql("UPDATE onboarding_case SET trail_sequence = :trail_sequence, trail_seal = :trail_seal", **before)
    for code in ("B", "C"):
        bench.ledger.fenced(lease, lambda w, code=code: w.record("note", code=code))  # type: ignore[misc]
    assert bench.ledger.trail_problems(lease.case_id) == []
    bench.sql("UPDATE onboarding_event SET at = :at, code = :code, seal = :seal WHERE sequence = 3", **kept)
    assert bench.ledger.trail_problems(lease.case_id) == ["entry 4 was changed, or sealed with another key"]


def test_an_entry_is_sealed_as_ledgers_hold_it_already() -> None:
    """Else every trail that was ever written would look changed."""
    key = LedgerKey(bytes(range(32)))
    at = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    row, link = sealed(key, "CASE", 3, "before", Entry(at, "runner", "note", "exception", "C", {"b": 1}, "why"))
    content = (
        '{"actor": "runner", "at": "2026-01-02T03:04:05.000006+00:00", "code": "C", "detail": {"b": 1}, '
        f'"kind": "note", "reason": "{row["reason_sealed"].hex()}", "step": "exception"}}'
    )
    assert link == key.seal("CASE", "3", "960d1a6184b3415f", content, "before")
    assert row["seal"] == key.seal("shown", link)


def test_a_trail_sealed_with_another_key_does_not_pass(bench: Bench, another_bench: Callable[..., Bench]) -> None:
    case_id = a_trail(bench)
    forger = another_bench(LedgerKey.new_text())
    assert forger.ledger.trail_problems(case_id) == ["entry 1 was changed, or sealed with another key"]
    with pytest.raises(LedgerError, match="cannot be decrypted"):
        forger.ledger.events(case_id)


def test_the_trail_of_a_case_that_is_not_there_is_a_problem(bench: Bench) -> None:
    assert bench.ledger.trail_problems("NOBODY") == ["there is no case NOBODY in this ledger"]


def test_a_trail_that_grows_while_it_is_checked_is_whole(bench: Bench) -> None:
    """One check reads the case's row first and the entries then; what is appended in between belongs to the next."""
    lease = bench.open_and_lease()

    def look_while_it_grows(connection: Connection) -> list[str]:
        connection.execute(text("SELECT trail_sequence FROM onboarding_case"))
        bench.do(lease, REGISTRATION, lambda s: s.wait("UNREACHABLE"))
        assert connection.execute(text("SELECT count(*) FROM onboarding_event")).scalar_one() == 2
        return trail_problems(connection, bench.ledger.key, lease.case_id)

    assert bench.ledger.store.read(look_while_it_grows) == []
    assert bench.ledger.trail_problems(lease.case_id) == []
