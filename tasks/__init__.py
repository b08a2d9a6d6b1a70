"""The four steps as Prefect tasks, and chunks of a batch."""

from tasks.case_tasks import STEP_TASKS, work_by_tasks
from tasks.chunk import chunk
from tasks.device import device
from tasks.dispensation import dispensation
from tasks.dnd_exception import dnd_exception
from tasks.registration import registration

__all__ = ["STEP_TASKS", "chunk", "device", "dispensation", "dnd_exception", "registration", "work_by_tasks"]
