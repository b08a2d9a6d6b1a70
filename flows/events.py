"""An event for each ending, so that automations can follow: ids and codes alone, nothing personal and no free text."""

from typing import Final

from prefect.context import FlowRunContext
from prefect.events import emit_event

PREFIX: Final = "onboarding."
FAILED: Final = "Failed"


def event_name(ending: str) -> str:
    """The event of an ending, such as ``onboarding.NeedsAttention``."""
    return f"{PREFIX}{ending}"


def emit_ending(
    ending: str, *, case_id: str | None = None, batch_id: str | None = None, code: str | None = None
) -> None:
    """Tell Prefect how the work of this run on a case, on a batch or as a whole ended. Outside a flow run nothing is told.

    The flow run, its flow, its deployment and its tags are related to the event by Prefect itself.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    if case_id is not None:
        resource = {"prefect.resource.id": f"{PREFIX}case.{case_id}", "prefect.resource.name": f"case {case_id}"}
    elif batch_id is not None:
        resource = {"prefect.resource.id": f"{PREFIX}batch.{batch_id}", "prefect.resource.name": f"batch {batch_id}"}
    else:
        resource = {
            "prefect.resource.id": f"{PREFIX}run.{context.flow_run.id}",
            "prefect.resource.name": "onboarding run",
        }
    payload = {"ending": ending, "case": case_id, "batch": batch_id, "code": code}
    emit_event(event_name(ending), resource, payload=payload)
