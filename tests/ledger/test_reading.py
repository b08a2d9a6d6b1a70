"""Reading the ledger for people: in which order, and all of it."""

from tests.ledger.bench import Bench
from tests.support.requests import INVENTORY_ID, STUDY_ID, SUBJECT_ID

MORE_THAN_ONE_STATEMENT = 1100


def copies(bench: Bench, table: str, count: int, changed: dict[str, str]) -> None:
    """Add copies of every row of a table; ``changed``: columns that tell them apart, as SQL over the number ``n``."""
    columns = [f'"{name}"' for name in bench.sql(f"SELECT * FROM onboarding_{table}")[0]]
    values = [changed.get(name.strip('"'), name) for name in columns]
    bench.sql(
        f"WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < {count}) "
        f"INSERT INTO onboarding_{table} ({', '.join(columns)}) SELECT {', '.join(values)} FROM onboarding_{table}, number"
    )


def test_cases_come_newest_first_and_those_of_one_moment_by_their_ids(bench: Bench) -> None:
    first = bench.open()
    copies(bench, "case", 4, {"id": "'copy ' || (5 - n)", "business_key": "'copy ' || n"})
    copies(bench, "step", 4, {"case_id": "'copy ' || n"})
    for day, case_id in ((2, "copy 4"), (2, "copy 3"), (2, "copy 2"), (3, "copy 1"), (1, first)):
        bench.sql(
            "UPDATE onboarding_case SET created_at = :at WHERE id = :id", at=f"2026-01-0{day} 00:00:00", id=case_id
        )
    assert [case.id for case in bench.ledger.cases()] == ["copy 1", "copy 2", "copy 3", "copy 4", first]


def test_more_cases_than_one_statement_takes_are_all_read_with_their_steps(bench: Bench) -> None:
    bench.open()
    copies(bench, "case", MORE_THAN_ONE_STATEMENT, {"id": "'copy ' || n", "business_key": "'copy ' || n"})
    copies(bench, "step", MORE_THAN_ONE_STATEMENT, {"case_id": "'copy ' || n"})
    found = bench.ledger.cases()
    assert len({case.id for case in found}) == len(found) == MORE_THAN_ONE_STATEMENT + 1
    assert all(len(case.steps) == 4 for case in found)


def test_a_case_shows_what_it_is_about_and_when_it_was_changed_last(bench: Bench) -> None:
    case_id = bench.open(batch_id="b1")
    opened = bench.case(case_id)
    assert (opened.study_id, opened.mode, opened.subject_id) == (STUDY_ID, "test", SUBJECT_ID)
    assert (opened.inventory_id, opened.batch_id) == (INVENTORY_ID, "b1")
    bench.lease(case_id)
    case, taken_at = bench.case(case_id), bench.last_event(case_id).at
    assert (case.created_at, case.updated_at) == (opened.created_at, taken_at)
