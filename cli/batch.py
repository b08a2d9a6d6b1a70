"""`onboard batch`: onboard many subjects from a file."""

import asyncio
import shlex
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Annotated, Any, Final

from cyclopts import Parameter, validators
from rich.console import Console

from cli import batch_said, doors, present
from cli.batch_plan import plan_file
from cli.batch_screen import showing
from cli.running import run, stop_once
from cli.subject import FileArgument
from cli.who import actor
from onboarding.batch.children import hands_for
from onboarding.batch.engine import Worked, due_cases, work_cases
from onboarding.batch.intake import Intake, take_in, take_in_file
from onboarding.batch.progress import look, watching
from onboarding.batch.reading import open_batch
from onboarding.batch.rounds import Left, Rest, work_rounds
from onboarding.batch.rows import RowProblem
from onboarding.batch.stopping import until_stopped
from onboarding.batch.template import template_csv, template_notes
from onboarding.endings import EXIT_FAULT, EXIT_ONBOARDED, Ending
from onboarding.errors import BadInput, BadSettings
from onboarding.ledger import batches
from onboarding.ledger.ledger import Ledger, open_ledger
from onboarding.ledger.opening import Addresses
from onboarding.ledger.states import CaseStatus
from onboarding.settings import Connections, Settings, load_settings
from onboarding.workbench import Workbench, missing_connections, open_workbench

Flag = Annotated[bool, Parameter(negative="")]
Lanes = Annotated[int | None, Parameter(validator=validators.Number(gte=1, lte=1000))]
SHOWN_PROBLEMS: Final = 50


def batch(
    file: FileArgument | None = None,
    /,
    *,
    dry_run: Flag = False,
    skip_bad: Flag = False,
    concurrency: Lanes = None,
    template: Flag = False,
    json: Flag = False,
) -> int:
    """Onboard many subjects from a file: CSV with a column for each field, or JSON Lines.

    The whole file is read and checked before anything is opened. The same file again goes on where it stopped: nothing is
    opened or sent twice. What became of each row is written beside the file, to FILE.results.csv, and the rows that need
    mending, as valid input again, to FILE.errors.csv.

    Args:
        file: the file, or - for standard input (its results go to batch-ID.results.csv in the current folder).
        dry_run: read only, and show what would be done; nothing is sent or stored. Results go to FILE.plan.csv.
        skip_bad: leave rows out that have problems, and onboard the others.
        concurrency: cases at a time, of each process; default is the setting ONBOARDING_CONCURRENCY.
        template: write an example file to standard output, and what its columns mean to standard error.
        json: print JSON lines.
    """
    if template:
        if file is not None or dry_run or skip_bad:
            raise BadInput(["--template: takes no file and no other option."])
        print(template_csv(), end="")
        print(template_notes(), end="", file=sys.stderr)
        return EXIT_ONBOARDED
    if file is None:
        raise BadInput(["give a FILE, or - for standard input; 'onboard batch --template' writes an example."])
    settings = load_settings()
    if concurrency is not None:
        settings = settings.model_copy(update={"concurrency": concurrency})
    job = Job(file, settings, skip_bad=skip_bad, json=json, named=concurrency is not None)
    if dry_run:
        return run(plan_file(job.source, settings, skip_bad=skip_bad, json=json))
    try:
        return job.onboard()
    except KeyboardInterrupt:
        batch_said.say(f"Stopped. What was read or begun is kept in the ledger; the same command goes on: {job.again}")
        return EXIT_FAULT


@dataclass
class Job:
    """One file on its way: where it comes from, and how it is worked."""

    file: str
    settings: Settings
    skip_bad: bool
    json: bool
    named: bool
    problems: int = 0
    faults: dict[str, int] = field(default_factory=dict)

    @property
    def source(self) -> Path | None:
        """The file; None for standard input."""
        return None if self.file == "-" else Path(self.file)

    @property
    def again(self) -> str:
        """The command that goes on."""
        options = ["--skip-bad"] if self.skip_bad else []
        options += ["--concurrency", str(self.settings.concurrency)] if self.named else []
        words = shlex.join(["onboard", "batch", self.file, *options])
        return f"{words} (with the same input, or: onboard resume --all)" if self.source is None else words

    def onboard(self) -> int:
        """Take the file in and work it; gives the exit status."""
        stop_once()  # while the file is read, a signal ends the reading
        api = doors.prefect_api()
        found = asyncio.run(doors.connections(self.settings, api))
        addresses = _addresses(found)
        ledger = open_ledger(self.settings)
        try:
            intake = self._take_in(ledger, addresses)
            if not intake.released:
                return batch_said.say_refused(ledger, intake, self.source, self.problems, json=self.json)
            batch_said.say_taken(intake, json=self.json)
            begun = monotonic()
            ended = asyncio.run(self._work(ledger, found, intake.batch_id, api))
            took_s = monotonic() - begun
        except BaseException:
            ledger.close()
            raise
        return self._say(intake, ended, took_s, observed=api is not None)

    def _say(self, intake: Intake, left: Left, took_s: float, *, observed: bool) -> int:
        ledger = open_ledger(self.settings)  # the workbench has closed the other one
        try:
            summary = batch_said.Summary(intake, left, took_s, self.faults, self.again, observed=observed)
            return batch_said.say_worked(ledger, summary, self.source, json=self.json)
        finally:
            ledger.close()

    def _take_in(self, ledger: Ledger, addresses: Addresses) -> Intake:
        how: dict[str, Any] = {"addresses": addresses, "actor": actor(), "settings": self.settings}
        how |= {"skip_bad": self.skip_bad, "report": self._report}
        with batch_said.reading(self.file, json=self.json):
            if self.source is not None:
                return take_in_file(ledger, self.source, **how)
            with open_batch(sys.stdin.buffer) as stream:
                return take_in(ledger, stream, **how)

    def _report(self, problem: RowProblem) -> None:
        self.problems += 1
        if self.json:
            present.print_json(batch_said.problem_json(problem))
        elif self.problems <= SHOWN_PROBLEMS:
            batch_said.say(str(problem))

    async def _work(self, ledger: Ledger, found: Connections, batch_id: str, api: str | None) -> Left:
        async with open_workbench(self.settings, found, actor=actor(), ledger=ledger) as bench:
            with showing(batch_id, json=self.json) as shown:
                async with watching(partial(look, ledger, batch_id), shown.show, every_s=shown.every_s):
                    if api is None:
                        return await self._work_here(bench, batch_id)
                    return await self._work_by_flow(batch_id, shown.console)

    async def _work_by_flow(self, batch_id: str, console: Console) -> Left:
        ending, _ = await doors.work_batch_by_flow(batch_id, self.settings.concurrency, console)
        return Left(Rest.STOPPED if ending is Ending.CANCELLED else Rest.LONG_WAITS)

    async def _work_here(self, bench: Workbench, batch_id: str) -> Left:
        stop = asyncio.Event()

        def told(worked: Worked) -> None:
            if worked.ending is None:
                self.faults[worked.code or ""] = self.faults.get(worked.code or "", 0) + 1

        waiting = (await bench.in_thread(batches.counts, bench.ledger, batch_id)).of(CaseStatus.READY)
        async with hands_for(bench, waiting) as hands:

            async def due_now() -> float:
                lanes = bench.settings.concurrency * hands.processes
                return await work_cases(hands, due_cases(bench, batch_id), lanes=lanes, told=told, stop=stop)

            rounds = work_rounds(bench, batch_id, due_now, stop, waiting=_say_waiting)
            return await until_stopped(rounds, stop, _say_stopping) or Left(Rest.STOPPED)


def _say_stopping() -> None:
    batch_said.say("Stopping: the cases under way are finished, for a few seconds at most (once more: at once).")


def _say_waiting(seconds: float) -> None:
    """Say why nothing seems to happen, if it is for longer than a moment."""
    if seconds >= 2:
        batch_said.say(f"Waiting {seconds:.0f} s for the next case that is due.")


def _addresses(found: Connections) -> Addresses:
    if found.openspecimen is None or found.clinical_one is None:
        raise BadSettings(missing_connections(found))
    return Addresses(found.openspecimen.url, found.clinical_one.url)
