"""Register the mHealth device in Clinical One (once)."""

from typing import Any

from prefect import task
from prefect.client.schemas.objects import State

from onboarding.ledger.states import StepName
from tasks.step_task import OPTIONS, run_step


@task(name="device", task_run_name="device {case_id}", **OPTIONS)
async def device(case_id: str) -> State[Any]:
    """Register the mHealth device in Clinical One."""
    return await run_step(case_id, StepName.DEVICE)
