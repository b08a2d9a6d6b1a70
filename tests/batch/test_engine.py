"""What ends the work on many cases as a whole: the ledger, not a case."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from onboarding.batch.engine import Here, work_cases
from onboarding.ledger.store import StoreBusy, StoreGone, StoreUnavailable
from tests.steps.lab import laboratory


class Unreadable:
    """Ids of cases, from a ledger that does not answer."""

    def __init__(self, error: StoreUnavailable) -> None:
        self._error = error

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        raise self._error


@pytest.mark.parametrize("error", [StoreGone, StoreBusy, StoreUnavailable])
async def test_a_ledger_that_cannot_say_which_case_is_next_ends_the_work_with_that_error(
    tmp_path: Path, error: type[StoreUnavailable]
) -> None:
    async with laboratory(tmp_path) as lab:
        cases = Unreadable(error("the ledger did not answer"))
        with pytest.raises(error, match="did not answer"):
            await work_cases(Here(lab.bench), cases, lanes=3, told=lambda _worked: None, stop=asyncio.Event())
