"""The tag of its case on a task run, without the request to the server that a tag costs when Prefect begins the task.

Before a task begins, Prefect asks its server for a slot of a concurrency limit for each of its tags, with a client of its own
each time: longer than a whole step takes, for limits that nobody sets on a case. No setting switches that off. So the tag
is given by the task itself, once it runs, and stands on the server with the state that the task enters next: when it ends,
waits, or is cancelled. Until then, and if its process is killed, a task run is found by its name, which holds the case's id.

That the task run of the context is the one whose states are told is not documented: ``tests/flows/test_what_prefect_keeps.py``
looks at what the server has.
"""

from prefect.context import TaskRunContext

PREFIX = "case:"


def tag_with_case(case_id: str) -> None:
    """Tag the task run that is under way with its case. Outside of one nothing is done."""
    context = TaskRunContext.get()
    if context is not None and (tag := f"{PREFIX}{case_id}") not in context.task_run.tags:
        context.task_run.tags = [*context.task_run.tags, tag]
