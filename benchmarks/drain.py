"""Waiting until a Prefect server has stored what its clients told it: task runs reach its database late."""

import asyncio
import os
import time
from dataclasses import dataclass
from typing import Final, Self

import httpx

_EVERY_S: Final = 0.2
_LONGEST_S: Final = 300.0


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

    async def stored(self) -> int:
        """Task runs of the flow that the server shows as completed."""
        body = {
            "flows": {"name": {"any_": [self.flow_name]}},
            "task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
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
