"""How a run or a step can end: one table for the page, the exit status and the documentation."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal


class Ending(StrEnum):
    """Names as the page shows them. COMPLETED is not yet onboarded: read the name."""

    ONBOARDED = "Onboarded"
    DONE = "Done"
    ALREADY_DONE = "AlreadyDone"
    NOT_REQUESTED = "NotRequested"
    PLANNED = "Planned"
    AWAITING_DISPENSATION = "AwaitingDispensation"
    RETRY_SCHEDULED = "RetryScheduled"
    HELD_BY_ANOTHER_RUN = "HeldByAnotherRun"
    NEEDS_ATTENTION = "NeedsAttention"
    REQUEST_REFUSED = "RequestRefused"
    LEASE_LOST = "LeaseLost"
    RESUMED = "Resumed"
    NOTHING_DUE = "NothingDue"
    DECIDED = "Decided"
    BATCH_DONE = "BatchDone"
    BATCH_WAITS = "BatchWaits"
    BATCH_NEEDS_ATTENTION = "BatchNeedsAttention"
    CHUNK_WORKED = "ChunkWorked"
    INBOX_TAKEN = "InboxTaken"
    CANCELLED = "Cancelled"


@dataclass(frozen=True)
class EndingFacts:
    """What an ending means: its Prefect state type, the command line's exit status, and a sentence for people."""

    state: Literal["COMPLETED", "FAILED", "CANCELLED"]
    exit_status: int
    meaning: str


EXIT_ONBOARDED: Final = 0
EXIT_FAULT: Final = 1
EXIT_BAD_INPUT: Final = 2
EXIT_WAITING: Final = 3
EXIT_ATTENTION: Final = 4

ENDINGS: Final[dict[Ending, EndingFacts]] = {
    Ending.ONBOARDED: EndingFacts("COMPLETED", EXIT_ONBOARDED, "every requested step is done"),
    Ending.DONE: EndingFacts("COMPLETED", EXIT_ONBOARDED, "the step was done now"),
    Ending.ALREADY_DONE: EndingFacts("COMPLETED", EXIT_ONBOARDED, "it was done before; nothing was sent"),
    Ending.NOT_REQUESTED: EndingFacts("COMPLETED", EXIT_ONBOARDED, "the request does not ask for this step"),
    Ending.PLANNED: EndingFacts("COMPLETED", EXIT_ONBOARDED, "dry run: nothing was sent and nothing was stored"),
    Ending.AWAITING_DISPENSATION: EndingFacts(
        "COMPLETED", EXIT_WAITING, "the device is not dispensed yet; the case is looked at again when it is due"
    ),
    Ending.RETRY_SCHEDULED: EndingFacts(
        "COMPLETED", EXIT_WAITING, "it cannot go on now; it is tried again when it is due"
    ),
    Ending.HELD_BY_ANOTHER_RUN: EndingFacts(
        "COMPLETED", EXIT_WAITING, "another run works on this case; nothing was done here"
    ),
    Ending.NEEDS_ATTENTION: EndingFacts("FAILED", EXIT_ATTENTION, "a person must look: the code says why"),
    Ending.REQUEST_REFUSED: EndingFacts("FAILED", EXIT_BAD_INPUT, "the request cannot be taken; nothing was sent"),
    Ending.LEASE_LOST: EndingFacts("FAILED", EXIT_FAULT, "another run took the case over; this one stopped"),
    Ending.RESUMED: EndingFacts(
        "COMPLETED", EXIT_ONBOARDED, "the cases that were due were worked; up to 20 have a run each"
    ),
    Ending.NOTHING_DUE: EndingFacts("COMPLETED", EXIT_ONBOARDED, "no case was due"),
    Ending.DECIDED: EndingFacts("COMPLETED", EXIT_ONBOARDED, "the decision was carried out"),
    Ending.BATCH_DONE: EndingFacts("COMPLETED", EXIT_ONBOARDED, "every case of the batch is done"),
    Ending.BATCH_WAITS: EndingFacts(
        "COMPLETED", EXIT_WAITING, "cases of the batch wait; each goes on when it is due, by itself"
    ),
    Ending.BATCH_NEEDS_ATTENTION: EndingFacts(
        "FAILED", EXIT_ATTENTION, "cases or rows of the batch need a person: the summary says which"
    ),
    Ending.CHUNK_WORKED: EndingFacts(
        "COMPLETED", EXIT_ONBOARDED, "the cases of this chunk were worked, however each ended"
    ),
    Ending.INBOX_TAKEN: EndingFacts(
        "COMPLETED", EXIT_ONBOARDED, "the files that were there were taken; each has a run of its own"
    ),
    Ending.CANCELLED: EndingFacts(
        "CANCELLED", EXIT_FAULT, "the run was cancelled; the case was not, and can be resumed"
    ),
}
