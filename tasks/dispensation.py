"""See that the device is dispensed to the subject (it only reads)."""

from typing import Any

from prefect import task
from prefect.client.schemas.objects import State

from onboarding.ledger.states import StepName
from tasks.step_task import OPTIONS, run_step


@task(name="dispensation", task_run_name="dispensation {case_id}", **OPTIONS)
async def dispensation(case_id: str) -> State[Any]:
    """See that the device is dispensed to the subject."""
    return await run_step(case_id, StepName.DISPENSATION)
