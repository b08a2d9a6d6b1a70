"""Watching a batch: whoever watches knows whether the end was seen."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from onboarding.batch import progress
from onboarding.batch.progress import Progress, watching
from onboarding.ledger.ledger import Ledger, open_ledger
from onboarding.ledger.store import StoreUnavailable
from onboarding.settings import Settings

BATCH = "7K3Q9M2XW4TB"


def seen(done: int) -> Progress:
    return Progress(done=done, untouched=10 - done, waiting=0, attention=0, cancelled=0, steps={})


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = open_ledger(Settings(ledger_url=f"sqlite:///{tmp_path / 'ledger.db'}"))
    yield made
    made.close()


async def test_what_was_seen_before_the_end_is_not_taken_for_the_end(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking, at_the_end = threading.Event(), threading.Event()
    looks = 0

    def look(_ledger: Ledger, _batch_id: str, *, steps: bool) -> Progress:
        nonlocal looks
        looks += 1
        if looks > 1:
            raise StoreUnavailable("the ledger does not answer.")
        looking.set()
        assert at_the_end.wait(30)
        return seen(1)

    monkeypatch.setattr(progress, "look", look)
    shown: list[Progress] = []
    async with watching(ledger, BATCH, shown.append, every_s=60) as watch:
        await asyncio.to_thread(looking.wait)
        asyncio.get_running_loop().call_soon(at_the_end.set)
    assert (shown, looks) == ([seen(1)], 2)
    assert not watch.saw_end


async def test_the_end_is_seen(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "look", lambda *_given, **_named: seen(10))
    async with watching(ledger, BATCH, lambda _seen: None, every_s=60) as watch:
        assert not watch.saw_end
    assert watch.saw_end
