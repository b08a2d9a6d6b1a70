"""Update the registration in OpenSpecimen (read, intend, send once, read back in doubt)."""

from typing import Any

from prefect import task
from prefect.client.schemas.objects import State

from onboarding.ledger.states import StepName
from tasks.step_task import OPTIONS, run_step


@task(name="registration", task_run_name="registration {case_id}", **OPTIONS)
async def registration(case_id: str) -> State[Any]:
    """Update the registration in OpenSpecimen."""
    return await run_step(case_id, StepName.REGISTRATION)
