"""The transition tables, written out once more: every row that is here is allowed, and no other."""

import re
from itertools import product
from typing import Any

import pytest
from sqlalchemy import create_engine, inspect
from sqlalchemy.exc import IntegrityError

from onboarding.ledger.states import (
    CASE_TRANSITIONS,
    FINAL_STEP_STATUSES,
    STEP_TRANSITIONS,
    CaseEvent,
    CaseStatus,
    ForbiddenTransition,
    StepEvent,
    StepName,
    StepStatus,
    next_case_status,
    next_step_status,
)
from tests.ledger.bench import Bench

STEP_ROWS = """
    found           pending -> done
    found           open -> done
    intent          pending -> open
    intent          open -> open
    applied         open -> done
    not_applied     open -> pending
    in_doubt        open -> open
    probed_absent   open -> pending
    inconclusive    open -> unknown
    inconclusive    pending -> unknown
    refused         pending -> refused
    refused         open -> refused
    waiting         pending -> pending
    waiting         open -> open
    rolled_back     done -> pending
    rolled_back     pending -> pending
    retried         refused -> pending
    decided_applied unknown -> done
    decided_applied refused -> done
    decided_applied pending -> done
    decided_applied done -> done
    decided_absent  unknown -> pending
    decided_absent  refused -> pending
    decided_absent  done -> pending
    decided_absent  pending -> pending
    requested       not_requested -> pending
    requested       pending -> pending
    requested       refused -> pending
    requested       done -> pending
    withdrawn       pending -> not_requested
    withdrawn       refused -> not_requested
    withdrawn       done -> not_requested
"""
CASE_ROWS = """
    waiting      ready -> ready
    finished     ready -> done
    attention    ready -> attention
    resumed      attention -> ready
    replaced     ready -> ready
    replaced     attention -> ready
    replaced     done -> ready
    contradicted ready -> attention
    contradicted done -> attention
    contradicted attention -> attention
    cancelled    ready -> cancelled
    cancelled    attention -> cancelled
"""


def rows(text: str) -> dict[tuple[str, str], str]:
    return {(event, before): after for event, before, after in re.findall(r"(\w+) +(\w+) -> (\w+)", text)}


STEPS, CASES = rows(STEP_ROWS), rows(CASE_ROWS)


@pytest.mark.parametrize(("event", "status"), list(product(StepEvent, StepStatus)))
def test_a_step_moves_by_the_table_and_not_otherwise(event: StepEvent, status: StepStatus) -> None:
    if (event, status) in STEPS:
        assert next_step_status(status, event) == STEPS[event, status]
    else:
        with pytest.raises(ForbiddenTransition, match=f"a step that is {status} cannot be {event}"):
            next_step_status(status, event)


@pytest.mark.parametrize(("event", "status"), list(product(CaseEvent, CaseStatus)))
def test_a_case_moves_by_the_table_and_not_otherwise(event: CaseEvent, status: CaseStatus) -> None:
    if (event, status) in CASES:
        assert next_case_status(status, event) == CASES[event, status]
    else:
        with pytest.raises(ForbiddenTransition, match=f"a case that is {status} cannot be {event}"):
            next_case_status(status, event)


def test_every_event_is_in_its_table() -> None:
    assert set(STEP_TRANSITIONS) == set(StepEvent)
    assert set(CASE_TRANSITIONS) == set(CaseEvent)


def test_nothing_leaves_cancelled_and_only_a_person_ends_unknown() -> None:
    assert not [row for row in CASES if row[1] == "cancelled"]
    assert {event for event, before in STEPS if before == "unknown"} == {"decided_applied", "decided_absent"}


def test_no_effect_follows_from_a_final_status_by_itself() -> None:
    leaving = {event for event, before in STEPS if before in FINAL_STEP_STATUSES}
    assert leaving == {"rolled_back", "requested", "withdrawn", "decided_applied", "decided_absent"}


@pytest.mark.parametrize(
    ("table", "constraint", "words"),
    [
        ("case", "status_is_known", ("draft", *CaseStatus)),
        ("step", "status_is_known", StepStatus),
        ("step", "name_is_known", StepName),
        ("claim", "state_is_known", ("held", "done", "unknown", "free")),
    ],
)
def test_the_database_knows_the_same_words(bench: Bench, table: str, constraint: str, words: Any) -> None:
    engine = create_engine(bench.ledger.store.url)
    (found,) = [
        c["sqltext"] for c in inspect(engine).get_check_constraints(f"onboarding_{table}") if c["name"] == constraint
    ]
    engine.dispose()
    assert set(re.findall(r"'(\w+)'", found)) == {str(word) for word in words}


@pytest.mark.parametrize("table", ["case", "step"])
def test_the_database_refuses_a_status_it_does_not_know(bench: Bench, table: str) -> None:
    bench.open()
    with pytest.raises(IntegrityError):
        bench.sql(f"UPDATE onboarding_{table} SET status = 'lost'")
