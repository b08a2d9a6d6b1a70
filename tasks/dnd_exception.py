"""Make sure that the DND exception exists (one for all subjects that need it)."""

from typing import Any

from prefect import task
from prefect.client.schemas.objects import State

from onboarding.ledger.states import StepName
from tasks.step_task import OPTIONS, run_step


@task(name="dnd_exception", task_run_name="dnd_exception {case_id}", **OPTIONS)
async def dnd_exception(case_id: str) -> State[Any]:
    """Make sure that the DND exception exists."""
    return await run_step(case_id, StepName.DND_EXCEPTION)
