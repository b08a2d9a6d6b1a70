"""Waiting until a Prefect server has stored what its clients told it: task runs reach its database late."""

import asyncio
import os
import time
from dataclasses import dataclass
from typing import Final, Self

import httpx

_EVERY_S: Final = 0.2
_LONGEST_S: Final = 300.0
_CALM: Final = 2


@dataclass
class Drain:
    """The completed task runs of one flow, and how many there must be before all are stored."""

    flow_name: str
    wanted: int

    @classmethod
    async def before(cls, flow_name: str, more: int) -> Self:
        """To be made before the measured part: ``more`` task runs are about to come."""
        drain = cls(flow_name, 0)
        drain.wanted = await drain.stored() + more
        return drain

    async def stored(self, *, unfinished: bool = False) -> int:
        """Task runs of the flow that the server shows as completed, or as not yet."""
        states = ["PENDING", "RUNNING", "SCHEDULED"] if unfinished else ["COMPLETED"]
        body = {
            "flows": {"name": {"any_": [self.flow_name]}},
            "task_runs": {"state": {"type": {"any_": states}}},
        }
        async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
            answer = await client.post(f"{os.environ['PREFECT_API_URL']}/task_runs/count", json=body)
            return int(answer.raise_for_status().json())

    async def wait(self) -> None:
        """Until all are stored; raises ``TimeoutError`` if that takes minutes."""
        end = time.monotonic() + _LONGEST_S
        while (stored := await self.stored()) < self.wanted:
            if time.monotonic() > end:
                raise TimeoutError(f"the server stored {stored} of {self.wanted} task runs")
            await asyncio.sleep(_EVERY_S)

    async def settle(self) -> None:
        """For a flow whose number of task runs is its own business: until none is shown as unfinished, twice in a row."""
        calm, end = 0, time.monotonic() + _LONGEST_S
        while calm < _CALM:
            if time.monotonic() > end:
                raise TimeoutError("the server still shows unfinished task runs")
            calm = calm + 1 if await self.stored(unfinished=True) == 0 and await self.stored() > 0 else 0
            await asyncio.sleep(_EVERY_S)
