"""What a process of one run does before the run is Running: it opens the ledger, and hands it over once."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import ahead
from flows.ahead import get_ready, opened_ledger
from tests.flows.lab import FlowLab
from tests.support.requests import request


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    yield
    gc.unfreeze()
    if (ledger := opened_ledger()) is not None:
        ledger.close()


@pytest.mark.prefect
async def test_the_ledger_is_opened_once_and_handed_over_once(lab: FlowLab) -> None:
    get_ready(here=True)
    get_ready(here=True)
    assert gc.get_freeze_count() > 0
    ledger = opened_ledger()
    assert ledger is not None
    assert ledger.key.key_id == lab.bench.ledger.key.key_id
    assert opened_ledger() is None
    ledger.close()


@pytest.mark.prefect
async def test_a_run_works_with_the_ledger_that_was_opened_ahead(lab: FlowLab) -> None:
    get_ready(here=True)
    ran = await lab.flow(request=request())
    assert ran.how == ("COMPLETED", "Onboarded")
    assert opened_ledger() is None


@pytest.mark.prefect
async def test_a_process_that_was_not_started_for_one_run_opens_nothing(lab: FlowLab) -> None:
    assert not ahead.OF_ONE_RUN
    get_ready()
    assert opened_ledger() is None


@pytest.mark.prefect
@pytest.mark.usefixtures("lab")
def test_a_ledger_that_cannot_be_opened_is_left_to_the_flow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONBOARDING_LEDGER_URL", f"sqlite:///{tmp_path}/file/ledger.db")
    (tmp_path / "file").touch()
    get_ready(here=True)
    assert opened_ledger() is None
