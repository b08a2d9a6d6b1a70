"""Turns among the cases of one process."""

import asyncio

import pytest

from onboarding.steps.turns import Turns

LONG_S = 10.0


async def waiting(turns: Turns, count: int, at_most_s: float = LONG_S) -> list[asyncio.Task[bool]]:
    """So many who wait for the turn at "k", in order."""
    tasks = []
    for _ in range(count):
        tasks.append(asyncio.create_task(turns.wait("k", at_most_s)))
        await asyncio.sleep(0)
    return tasks


async def cancelled(task: asyncio.Task[bool]) -> None:
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()


async def test_the_turn_goes_on_in_the_order_of_asking() -> None:
    turns = Turns()
    assert turns.take("k")
    assert not turns.take("k")
    assert turns.take("another")
    first, second = await waiting(turns, 2)
    turns.hand_on("k")
    assert await first
    assert not second.done()
    assert not turns.take("k"), "it was handed on, not put down"
    turns.hand_on("k")
    assert await second
    turns.hand_on("k")
    assert turns.take("k")


async def test_when_waiting_is_needless_all_are_woken_without_the_turn() -> None:
    turns = Turns()
    turns.take("k")
    tasks = await waiting(turns, 5)
    turns.hand_on("k", needless=True)
    assert await asyncio.gather(*tasks) == [False] * 5
    assert await turns.wait("k", 0), "nobody has it"


async def test_who_waited_too_long_or_was_cancelled_is_passed_over() -> None:
    turns = Turns()
    turns.take("k")
    (late,) = await waiting(turns, 1, at_most_s=0.01)
    gone, next_one = await waiting(turns, 2)
    assert not await late
    await cancelled(gone)
    turns.hand_on("k")
    assert await next_one


async def test_a_turn_that_comes_to_one_who_is_cancelled_at_that_moment_is_handed_on() -> None:
    turns = Turns()
    turns.take("k")
    first, second = await waiting(turns, 2)
    turns.hand_on("k")  # first has it, and does not know yet
    await cancelled(first)
    async with asyncio.timeout(LONG_S):
        assert await second
    turns.hand_on("k")
    assert turns.take("k")


@pytest.mark.parametrize("needless", [True, False])
async def test_nothing_is_kept_of_a_turn_that_nobody_has(needless: bool) -> None:
    turns = Turns()
    for number in range(100):
        assert turns.take(str(number))
        turns.hand_on(str(number), needless=needless)
    assert all(turns.take(str(number)) for number in range(100))
