"""What Prefect logs of a run that a command of ours starts, as far as it helps whoever looks at that command's screen."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import prefect
from prefect.logging.configuration import setup_logging
from prefect.logging.handlers import PrefectConsoleHandler
from rich.console import Console

_PREFECT: Final = str(Path(prefect.__file__).parent)
_RUNS: Final = ("prefect.flow_runs", "prefect.task_runs")
_SENDING: Final = "EventsWorker"  # at the end it warns that it still sends, and goes on to send


@contextmanager
def prefect_lines_above(console: Console) -> Iterator[None]:
    """During the block, Prefect's lines go through ``console``, which puts them above a display that it shows.

    In what state each run ends Prefect tells its server, and the command tells its user in its own words; so that is left out
    here, and after the block too, when its last events are sent.
    """
    setup_logging()
    loggers = (logging.getLogger(), logging.getLogger("prefect"))
    handlers = {one for log in loggers for one in log.handlers if isinstance(one, PrefectConsoleHandler)}
    before = {handler: handler.console for handler in handlers}
    for handler in handlers:
        handler.addFilter(_helps)
        handler.console = console
    try:
        yield
    finally:
        for handler, own in before.items():
            handler.console = own


def _helps(record: logging.LogRecord) -> bool:
    is_state = record.name in _RUNS and record.pathname.startswith(_PREFECT)
    return not is_state and record.name != _SENDING
