"""The Prefect server of the tests is real, its own, and its scheduler works."""

import pytest
from prefect import flow, get_client
from prefect.settings import get_current_settings

from tests.support.prefect_server import PrefectServer


@pytest.mark.prefect
async def test_a_flow_run_reaches_the_server_of_the_tests(prefect_server: PrefectServer) -> None:
    @flow
    async def say_done() -> str:
        return "done"

    state = await say_done(return_state=True)

    run_id = state.state_details.flow_run_id
    assert run_id is not None
    async with get_client() as client:
        assert str(client.api_url).rstrip("/") == prefect_server.api_url
        run = await client.read_flow_run(run_id)
    assert run.state is not None
    assert run.state.is_completed()


def test_prefect_is_told_to_report_nothing() -> None:
    assert get_current_settings().server.analytics_enabled is False
