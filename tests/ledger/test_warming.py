"""What work on a case needs is compiled before there is work."""

import pytest

from onboarding.ledger import fixed, preparing, rows
from onboarding.ledger.warming import fixed_writes, warm
from tests.ledger.bench import Bench


def test_after_that_opening_and_taking_a_case_and_writing_to_it_compile_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = bench.ledger.store.url.get_backend_name()
    for write in [*fixed_writes(preparing, database), *fixed_writes(rows, database)]:
        monkeypatch.setattr(write, "_compiled", {})
    warm(bench.ledger)
    monkeypatch.setattr(fixed, "_Compiled", None)
    lease = bench.open_and_lease()
    bench.ledger.fenced(lease, lambda write: write.record("looked_at"))
    assert [event.kind for event in bench.ledger.events(lease.case_id)][-1] == "looked_at"


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_the_statements_of_tables_are_found_too_and_only_those_of_the_database(database: str) -> None:
    assert len(list(fixed_writes(preparing, database))) == 3
    assert len(list(fixed_writes(rows, database))) > 6
