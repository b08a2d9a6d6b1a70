"""Watching a batch: whoever watches knows whether the end was seen."""

import asyncio
import threading

from onboarding.batch.progress import Progress, watching
from onboarding.ledger.store import StoreUnavailable


def seen(done: int) -> Progress:
    return Progress(done=done, untouched=10 - done, waiting=0, attention=0, cancelled=0, steps={})


async def test_what_was_seen_before_the_end_is_not_taken_for_the_end() -> None:
    looking, at_the_end = threading.Event(), threading.Event()
    looks = 0

    def see() -> Progress:
        nonlocal looks
        looks += 1
        if looks > 1:
            raise StoreUnavailable("the ledger does not answer.")
        looking.set()
        assert at_the_end.wait(30)
        return seen(1)

    shown: list[Progress] = []
    async with watching(see, shown.append, every_s=60) as watch:
        await asyncio.to_thread(looking.wait)
        asyncio.get_running_loop().call_soon(at_the_end.set)
    assert (shown, looks) == ([seen(1)], 2)
    assert not watch.saw_end


async def test_the_end_is_seen() -> None:
    async with watching(lambda: seen(10), lambda _seen: None, every_s=60) as watch:
        assert not watch.saw_end
    assert watch.saw_end
