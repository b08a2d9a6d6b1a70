"""The four steps as Prefect tasks."""

from tasks.device import device
from tasks.dispensation import dispensation
from tasks.dnd_exception import dnd_exception
from tasks.registration import registration

STEP_TASKS = (registration, dispensation, device, dnd_exception)

__all__ = ["STEP_TASKS", "device", "dispensation", "dnd_exception", "registration"]
