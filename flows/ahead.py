"""What a run of one subject needs whatever it is asked for, got ready before Prefect sets it Running.

Prefect asks for a run's name at the last moment before that, in the process that will run it. Only in a process that Prefect
started for one run is anything done: elsewhere others may use the ledger too, and a run that is given up leaves it open.
"""

import gc
from contextlib import suppress
from typing import Final

from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.runtime import flow_run
from prefect.settings import PREFECT_LOGGING_TO_API_ENABLED

from onboarding.ledger.ledger import Ledger, open_ledger
from onboarding.ledger.warming import warm
from onboarding.settings import load_settings

OF_ONE_RUN: Final = flow_run.id is not None
"""Whether Prefect started this process for one run: outside of a run, the id comes from what a process is started with."""

_opened: list[Ledger] = []


def get_ready(*, here: bool = OF_ONE_RUN) -> None:
    """Open the ledger and compile what work on a case needs. Whatever keeps it from that, the flow meets again and says.

    What is in memory by now stays for as long as this process: the garbage collector need not look through it each time.
    """
    if not here or _opened:
        return
    with suppress(Exception):
        _start_senders()
    with suppress(Exception):
        ledger = open_ledger(load_settings())
        _opened.append(ledger)
        warm(ledger)
    gc.freeze()


def _start_senders() -> None:
    """Start what sends Prefect's log lines and events, each in the background with a client of its own, as their first does."""
    if PREFECT_LOGGING_TO_API_ENABLED:
        APILogWorker.instance()
    EventsWorker.instance()


def opened_ledger() -> Ledger | None:
    """The ledger that was opened ahead, which is the caller's from now on; None if there is none."""
    return _opened.pop() if _opened else None
