"""Take what others have put into the inbox: the flow that a schedule starts."""

import logging
from collections import Counter
from typing import Any, Final

from prefect.client.schemas.objects import State

from flows.asked import asked_flow
from flows.onboard_batch import onboard_batch, work_file
from flows.run import ended, ended_by, workbench_of_this_run
from onboarding.batch.inbox import InboxBusy, InboxFault, inbox_of
from onboarding.endings import Ending
from onboarding.errors import BadInput, OnboardingError
from onboarding.settings import load_settings

_log: Final = logging.getLogger("onboarding.flows")


@asked_flow(storable=lambda _given: {}, name="take-inbox", flow_run_name="inbox")
async def take_inbox() -> State[Any]:
    """Onboard the subjects of every complete file in the inbox, the oldest first, each by a run of its own.

    Files move to the folders done or rejected, with what became of each row. No file's name enters Prefect.
    """
    endings: Counter[str] = Counter()
    faults: list[str] = []
    try:
        if load_settings().inbox is None:
            return ended(Ending.NOTHING_DUE, None, what="no inbox is set; ONBOARDING_INBOX names its folder.")
        async with workbench_of_this_run() as bench:
            for name in inbox_of(bench.settings).complete():
                try:
                    state: State[Any] = await work_file(bench, name, _by_a_run_of_its_own)
                except (InboxBusy, BadInput) as error:  # another run has it; or it is gone, or was rejected
                    _log.info("file_not_worked error=%s", type(error).__name__)
                    endings["left alone" if isinstance(error, InboxBusy) else "rejected"] += 1
                    continue
                except InboxFault as error:  # the file stays; the others have their turn
                    faults.append(str(error))
                    continue
                endings[state.name or state.type.value] += 1
                if state.name == Ending.CANCELLED:
                    break
    except Exception as error:  # noqa: BLE001 - Prefect would store the text of any, and pickle it
        return ended_by(error)
    if faults:
        return ended_by(InboxLeft(_counted(endings), len(faults), faults[0]))
    if not endings:
        return ended(Ending.NOTHING_DUE, None, what="no complete file was in the inbox.")
    return ended(Ending.INBOX_TAKEN, None, what=_counted(endings))


class InboxLeft(OnboardingError):
    """Files stay in the inbox, as the folder or the disk does not take what is written."""

    def __init__(self, worked: str, left: int, why: str) -> None:
        files = "1 file stays" if left == 1 else f"{left} files stay"
        super().__init__(f"{files} in the inbox; of the others: {worked} {why}")


def _counted(endings: Counter[str]) -> str:
    files = "1 file" if endings.total() == 1 else f"{endings.total()} files"
    counts = ", ".join(f"{count} {name}" for name, count in endings.most_common())
    return f"{files}: {counts}." if counts else "none."


async def _by_a_run_of_its_own(batch_id: str) -> State[Any]:
    state: State[Any] = await onboard_batch(batch_id=batch_id, return_state=True)
    return state
