"""Some hundred random kills each time; ``make crash KILLS=N`` for as many as one likes."""

from collections import Counter
from pathlib import Path

import pytest

from tests.crash.points import FIGURES
from tests.crash.result import Result, possible_pairs
from tests.crash.volume import accumulated, append, volume
from tests.support.postgres import PostgresServer

SEED = 1


async def test_random_kills_under_random_faults_lose_nothing_and_repeat_nothing() -> None:
    total = await volume(200, SEED)
    FIGURES.extend(f"random, seed {SEED}: {line}" for line in list(total.lines())[:6])
    assert total.problems == []


@pytest.mark.postgres
async def test_random_kills_lose_nothing_and_repeat_nothing_on_postgresql(postgres: PostgresServer) -> None:
    total = await volume(40, SEED, server=postgres)
    FIGURES.extend(f"random on PostgreSQL, seed {SEED}: {line}" for line in list(total.lines())[:6])
    assert total.problems == []


def test_what_was_violated_is_counted_by_what_it_means_and_no_bound_is_claimed_then() -> None:
    problems = [
        "seed 1: no_effect_twice: x",
        "seed 1: one_exception_per_content: x",
        "seed 2: none_lost: x",
        "seed 2: order_kept: x",
    ]
    lines = list(Result(kills=100, problems=problems).lines())
    assert "duplicates 2, losses 1, other violations 1" in lines
    assert lines[-4:] == problems
    assert not any("95 %" in line for line in lines)
    assert any("fewer than 3.00% of kills" in line for line in Result(kills=100).lines())


def test_what_never_met_is_said() -> None:
    met = Result(coverage=Counter(possible_pairs()[1:]))
    assert f"never met: {possible_pairs()[0]}" in list(met.lines())
    assert len(possible_pairs()) > 80
    assert not any("dispensation open" in pair for pair in possible_pairs())


def test_results_accumulate_by_seed_and_a_world_played_again_counts_once(tmp_path: Path) -> None:
    log = tmp_path / "results.jsonl"
    for seed, kills in ((1, 40), (2, 41), (4, 42), (2, 43)):
        append(log, seed, "sqlite", Result(worlds=1, kills=kills, decided=Counter("a"), problems=[f"seed {seed}"]))
    append(log, 1, "postgresql", Result(worlds=1, kills=7))
    seeds, total = accumulated(log)
    assert seeds == "postgresql 1, sqlite 1-2 4"
    assert (total.worlds, total.kills, total.decided) == (4, 40 + 43 + 42 + 7, Counter(a=3))
    assert total.problems == ["seed 1", "seed 2", "seed 4"]
    assert accumulated(tmp_path / "none") == ("", Result())
