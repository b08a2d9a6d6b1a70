"""So many at a time."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


async def in_lanes(items: Iterable[T], at_once: int, work: Callable[[T], Awaitable[object]]) -> None:
    """Do ``work`` for every item, ``at_once`` at a time; the first error ends it."""
    waiting = iter(items)

    async def lane() -> None:
        for item in waiting:
            await work(item)

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(lane())
