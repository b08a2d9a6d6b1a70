"""A run logs in to the vendors while it does other things, and only where its case has something to do."""

import asyncio
from pathlib import Path

import pytest

from tests.flows.lab import FlowLab, flow_laboratory
from tests.steps.lab import only
from tests.support.prefect_server import PrefectServer
from tests.support.requests import request

pytestmark = pytest.mark.prefect


async def test_the_second_vendor_is_logged_in_to_while_the_first_has_not_answered_yet(lab: FlowLab) -> None:
    registration, token = lab.fault("read_registration", "hold"), lab.fault("token", "hold")
    run = asyncio.create_task(lab.flow(request=request()))
    await lab.control.wait_held(fault_id=registration)
    await lab.control.wait_held(fault_id=token)
    lab.control.remove_faults()
    assert (await run).how == ("COMPLETED", "Onboarded")
    assert len(lab.calls("login")) == len(lab.calls("token")) == 1


async def test_a_vendor_with_nothing_to_do_is_not_logged_in_to(lab: FlowLab) -> None:
    await lab.flow(request=only("registration"))
    assert {entry["system"] for entry in lab.calls()} == {"openspecimen"}


async def test_a_log_in_that_is_refused_is_not_tried_again_by_the_step(
    prefect_server: PrefectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with flow_laboratory(prefect_server, tmp_path, monkeypatch, openspecimen_password="wrong") as lab:
        ran = await lab.flow(request=only("registration"))
        assert ran.how == ("COMPLETED", "RetryScheduled")
        assert "AUTH_INVALID_CREDENTIALS" in ran.message
        assert len(lab.calls("login")) == 1
