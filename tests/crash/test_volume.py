"""Some hundred random kills each time; ``make crash KILLS=N`` for as many as one likes."""

import pytest

from tests.crash.points import FIGURES
from tests.crash.volume import volume
from tests.support.postgres import PostgresServer

SEED = 1


async def test_random_kills_under_random_faults_lose_nothing_and_repeat_nothing() -> None:
    total = await volume(120, SEED)
    FIGURES.extend(f"random, seed {SEED}: {line}" for line in list(total.lines())[:4])
    assert total.problems == []


@pytest.mark.postgres
async def test_random_kills_lose_nothing_and_repeat_nothing_on_postgresql(postgres: PostgresServer) -> None:
    total = await volume(30, SEED, server=postgres)
    FIGURES.extend(f"random on PostgreSQL, seed {SEED}: {line}" for line in list(total.lines())[:4])
    assert total.problems == []
