"""How a batch is shown while it is worked: bars on a terminal, a line every few seconds elsewhere, or JSON lines."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from cli import present
from onboarding.batch.progress import Pace, Progress
from onboarding.ledger.states import StepName

Show = Callable[[Progress], None]
SCREEN_EVERY_S: Final = 0.5
LINE_EVERY_S: Final = 5.0


class _Rate(ProgressColumn):
    """How many of a step are done a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s", style="dim")


class _Screen:
    """A bar for each step that is asked for, and a line with the cases."""

    def __init__(self) -> None:
        self.bars = Bars(
            TextColumn("{task.description:<14}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn()
        )
        self.line = Text()
        self._tasks: dict[StepName, TaskID] = {}
        self._pace = Pace()

    def show(self, progress: Progress) -> None:
        for step, found in progress.steps.items():
            if not found.asked:
                continue
            if step not in self._tasks:
                self._tasks[step] = self.bars.add_task(present.STEP_TITLES[step], total=found.asked)
            self.bars.update(self._tasks[step], completed=found.done, total=found.asked)
        self._pace.add(progress)
        self.line.plain = f"{progress}; {_pace_words(self._pace, progress)}"


class _Lines:
    """A plain line when something has changed, and not too often."""

    def __init__(self, *, json: bool, batch_id: str) -> None:
        self._json = json
        self._batch_id = batch_id
        self._pace = Pace()
        self._last: Progress | None = None
        self._said_at = monotonic()

    def show(self, progress: Progress) -> None:
        self._pace.add(progress)
        if progress == self._last or monotonic() - self._said_at < LINE_EVERY_S:
            return
        self._last, self._said_at = progress, monotonic()
        if self._json:
            present.print_json({"progress": progress_json(progress), "batch": self._batch_id})
            sys.stdout.flush()
        else:
            print(f"onboard: {progress}; {_pace_words(self._pace, progress)}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Showing:
    """How progress is shown.

    Attributes:
        show: shows how far the batch is by now.
        every_s: how often it is worth looking.
        console: what else is to be said goes here.
    """

    show: Show
    every_s: float
    console: Console


@contextmanager
def showing(batch_id: str, *, json: bool) -> Iterator[Showing]:
    """How progress is to be shown during the block."""
    console = Console(stderr=True, highlight=False, markup=False)
    if json or not console.is_terminal:
        yield Showing(_Lines(json=json, batch_id=batch_id).show, LINE_EVERY_S / 5, console)
        return
    screen = _Screen()
    with Live(Group(screen.bars, screen.line), console=console, refresh_per_second=4, transient=True):
        yield Showing(screen.show, SCREEN_EVERY_S, console)


def progress_json(progress: Progress) -> dict[str, Any]:
    """Progress as programs read it."""
    return {
        "cases": progress.cases,
        "done": progress.done,
        "untouched": progress.untouched,
        "waiting": progress.waiting,
        "attention": progress.attention,
        "cancelled": progress.cancelled,
        "steps": {step.value: {"asked": found.asked, "done": found.done} for step, found in progress.steps.items()},
    }


def _pace_words(pace: Pace, progress: Progress) -> str:
    left_s = pace.left_s(progress)
    about = "" if left_s is None or not progress.untouched else f", about {_span(left_s)} left"
    return f"{pace.per_second:.1f} a second{about}"


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
