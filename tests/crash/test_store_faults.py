"""A ledger that fails at any commit neither loses an effect nor lets one be repeated: the runner stops, another goes on."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from tests.crash.auditor import audit
from tests.crash.boundaries import Trouble
from tests.crash.points import FIGURES, SETTINGS, judged, quick_folder
from tests.crash.runners import Runners
from tests.crash.volume import ledger_settings, request
from tests.steps.lab import laboratory
from tests.support.postgres import PostgresServer
from vendor_sandbox import seed as seeds


async def fails_at_every_commit(
    runners: Runners, ledger: Mapping[str, Any], trouble: Trouble
) -> tuple[Counter[str], list[str]]:
    """Each of many cases is worked by a runner whose ledger fails at another commit; their last words, and violations."""
    with quick_folder() as folder:
        async with laboratory(folder, world=seeds.many(100), **SETTINGS, **ledger) as lab:
            whole = (await runners.run(lab, await lab.open(request(1)))).boundaries
            places = [number for number, name in enumerate(whole, start=1) if name == "before commit"]
            words: Counter[str] = Counter()
            lanes = asyncio.Semaphore(4)

            async def one(number: int, at: int) -> None:
                case_id = await lab.open(request(number))
                async with lanes:
                    outcome = await runners.start(lab, case_id, at=at, trouble=trouble).outcome
                words[str(outcome.said)] += 1

            await asyncio.gather(*(one(number, at) for number, at in enumerate(places, start=2)))
            return words, audit(await judged(lab))


async def test_a_disk_that_is_full_from_any_commit_on_loses_nothing_and_repeats_nothing(runners: Runners) -> None:
    began = time.monotonic()
    words, problems = await fails_at_every_commit(runners, {}, Trouble.FULL)
    FIGURES.append(f"disk full: {words.total()} commits, {dict(words)}, {time.monotonic() - began:.0f} s")
    assert problems == []
    assert words["StoreGone"] >= 2, "the others needed no further page"


@pytest.mark.postgres
async def test_a_connection_that_breaks_in_any_commit_loses_nothing_and_repeats_nothing(
    runners: Runners, postgres: PostgresServer
) -> None:
    began = time.monotonic()
    with ledger_settings(postgres) as ledger:
        words, problems = await fails_at_every_commit(runners, ledger, Trouble.CUT)
    FIGURES.append(f"commits cut: {words.total()}, {dict(words)}, {time.monotonic() - began:.0f} s")
    assert problems == []
    assert words["CommitUnknown"] >= words.total() / 3
