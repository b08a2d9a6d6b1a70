"""Serves every deployment of ``deployments.yaml`` until SIGTERM: `onboard up` runs it as ``python -m cli.serving``.

Each run is a process of its own. What was under way is finished before this ends.
"""

import asyncio
from typing import Final

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.runner import Runner
from prefect.states import Crashed

from cli.automations import set_up_automations
from cli.deployments import served, wanted_deployments
from cli.pool_and_blocks import register_types
from cli.up_folder import SERVED

_RUNS_AT_A_TIME: Final = 8
_LOOK_S: Final = 2.0


class _DrainingRunner(Runner):
    """A runner that, on SIGTERM, starts no further run and ends when those under way have ended.

    Prefect's own (3.8) cancels itself then, and leaves the processes of its runs to whoever stops it.
    """

    def handle_sigterm(self, *_: object, **__: object) -> None:
        """Stop looking for runs; leaving the runner waits for those that were begun."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._loops_task_group.cancel_scope.cancel)


async def serve() -> None:
    """Apply the deployments, say so, and start each run that is due."""
    runner = _DrainingRunner(name="onboard-up", query_seconds=_LOOK_S, limit=_RUNS_AT_A_TIME, pause_on_shutdown=False)
    wanted = wanted_deployments()
    async with get_client() as client:
        await register_types(client)
        ids = [await runner.aadd_deployment(served(one)) for one in wanted]
        await set_up_automations(client, [one.flow.name for one in wanted])
        await _say_crashed(client, FlowRunFilterDeploymentId(any_=ids))
    print(SERVED, flush=True)
    await runner.start()


async def _say_crashed(client: PrefectClient, ours: FlowRunFilterDeploymentId) -> None:
    """Runs that an earlier start left under way have no process any more, since each start has one only."""
    under_way = FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING, StateType.CANCELLING])
    chosen = FlowRunFilter(deployment_id=ours, state=FlowRunFilterState(type=under_way))
    while runs := await client.read_flow_runs(flow_run_filter=chosen):
        for run in runs:
            message = "It was under way when 'onboard up' was ended. Its cases go on by resume-cases."
            await client.set_flow_run_state(run.id, Crashed(message=message), force=True)


def main() -> None:
    """Serve until SIGTERM."""
    asyncio.run(serve())


if __name__ == "__main__":
    main()
