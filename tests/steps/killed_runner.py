"""A runner in a process of its own, to be killed: works one case. Reads its settings from the environment."""

import asyncio
import sys

from onboarding.settings import load_connections, load_settings
from onboarding.steps.case import work_case
from onboarding.steps.session import CaseSession
from onboarding.workbench import open_workbench


async def main(case_id: str) -> None:
    """Work the case until the end, or until killed."""
    settings = load_settings()
    async with (
        open_workbench(settings, load_connections(settings), actor="killed") as bench,
        bench.session(case_id) as session,
    ):
        assert isinstance(session, CaseSession), session
        await work_case(session)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
