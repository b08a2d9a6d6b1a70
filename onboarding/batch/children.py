"""Several processes that share the cases of a batch on this machine: each a runner like any other, fed from here.

One process works as fast as one processor. The ledger's leases and claims keep these apart, as they keep machines apart; all
that goes between them is which case is next, and how it ended. A process that dies is replaced, and its cases are worked by
whoever finds them due. This process is one of them, with a workbench of its own for that: it can begin at once.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from time import monotonic
from typing import Final

from onboarding.batch.child import Answer, Start, seldom_collecting
from onboarding.batch.engine import Hands, Here, Worked
from onboarding.errors import OnboardingError
from onboarding.ledger.store import StoreGone
from onboarding.settings import PREFIX, Settings
from onboarding.workbench import Workbench, open_workbench

WORTH_IT: Final = 500
"""Cases from which on other processes are started: each takes about a second to begin."""

PROCESS_ENDED: Final = "PROCESS_ENDED"
"""In place of a case's ending: the process that worked on it is gone."""

_ENDS_S: Final = 4.0  # whoever stops containers often waits for ten seconds, of which cases under way may have had five
_LONGEST_LINE: Final = 1 << 20
_log: Final = logging.getLogger("onboarding.batch")


class ProcessesEnd(OnboardingError):
    """The processes that share a batch end again and again."""


@asynccontextmanager
async def hands_for(bench: Workbench, cases: int) -> AsyncIterator[Hands]:
    """Who works so many cases: this process; or, of many, as many processes as the settings allow."""
    number = min(bench.settings.processes, bench.settings.requests_in_flight)
    if bench.ledger.store.is_sqlite:  # it has one writer, which two keep busy
        number = min(number, 2)
    if number == 1 or cases < WORTH_IT:
        yield Here(bench)
        return
    async with several(bench, number) as children:
        yield children


@asynccontextmanager
async def several(bench: Workbench, number: int) -> AsyncIterator["Crew"]:
    """So many processes, this one among them; the others have ended when the block has."""
    settings, runner = share(bench.settings, number), bench.runner
    async with (
        others(bench, settings, number - 1) as children,
        open_workbench(settings, bench.connections, actor=runner.actor, flow_run_id=runner.flow_run_id) as mine,
    ):
        with seldom_collecting():
            yield Crew(Here(mine), children)


@asynccontextmanager
async def others(bench: Workbench, settings: Settings, number: int) -> AsyncIterator["Children"]:
    """So many other processes, with this one's connections; they have ended when the block has."""
    start = Start(
        settings=settings,
        connections=bench.connections,
        actor=bench.runner.actor,
        flow_run_id=bench.runner.flow_run_id,
        level=_log.getEffectiveLevel(),
    )
    children = Children(start.line(), number)
    cut = True
    try:
        await children.begin()
        yield children
        cut = False
    finally:
        ending = asyncio.ensure_future(children.end(cut=cut))
        try:
            await asyncio.shield(ending)
        except asyncio.CancelledError:
            await asyncio.wait({ending})  # it takes some seconds at most, and then none of them is left
            raise


def share(settings: Settings, number: int) -> Settings:
    """What one of so many processes may do, so that all of them together keep within the limits of one."""
    per_second = settings.requests_per_second
    return settings.model_copy(
        update={
            "processes": 1,
            "requests_in_flight": max(1, settings.requests_in_flight // number),
            "requests_per_second": None if per_second is None else per_second / number,
        }
    )


class Crew:
    """This process and others; each case goes to whoever has the fewest in hand."""

    def __init__(self, here: Here, others: "Children") -> None:
        self.processes: Final = 1 + others.processes
        self.others: Final = others
        self._here = here
        self._in_hand = 0

    async def work(self, case_id: str) -> Worked:
        """Have a case worked to an ending. Raises ``StoreGone`` if the ledger cannot be used."""
        if self._in_hand > self.others.fewest_in_hand:
            return await self.others.work(case_id)
        self._in_hand += 1
        try:
            return await self._here.work(case_id)
        finally:
            self._in_hand -= 1

    def no_more(self) -> None:
        """No case will be given any more: the others begin to end."""
        self.others.no_more()

    def closed_for_s(self) -> float:
        """Seconds for which one of the vendors is to be left alone; 0 if both may be asked."""
        return max(self._here.closed_for_s(), self.others.closed_for_s())


class Children:
    """Other processes; each case goes to the one that has the fewest in hand. ``deaths``: so many are replaced."""

    def __init__(self, start: bytes, number: int, *, deaths: int = 10) -> None:
        self.processes: Final = number
        self._start = start
        self._deaths_left = deaths
        self._children: list[_Child] = []
        self._replacing = asyncio.Lock()

    async def begin(self) -> None:
        """Start them; they need a moment until they work."""
        for _ in range(self.processes):
            self._children.append(await _Child.begin(self._start))

    async def end(self, *, cut: bool = False) -> None:
        """Let them end once their cases have; ``cut``: at once, their leases are given back."""
        await asyncio.gather(*(child.end(cut=cut) for child in self._children), return_exceptions=True)

    async def work(self, case_id: str) -> Worked:
        """Have a case worked to an ending. Raises ``StoreGone`` if the ledger cannot be used."""
        await self._replace()
        child = min(self._children, key=lambda one: one.in_hand)
        return await child.work(case_id)

    def no_more(self) -> None:
        """No case will be given any more: they begin to end."""
        for child in self._children:
            child.no_more()

    @property
    def fewest_in_hand(self) -> int:
        """Cases that the least busy of them works on."""
        return min(child.in_hand for child in self._children)

    @property
    def pids(self) -> list[int]:
        """The processes' ids."""
        return [child.pid for child in self._children]

    def closed_for_s(self) -> float:
        """Seconds for which one of the vendors is to be left alone; 0 if both may be asked."""
        return max(0.0, max(child.closed_until for child in self._children) - monotonic())

    async def _replace(self) -> None:
        async with self._replacing:
            for index, child in enumerate(self._children):
                if not child.has_ended:
                    continue
                if child.gone is not None:
                    raise StoreGone(child.gone)
                _log.warning("batch_process_ended status=%s", child.status)
                self._deaths_left -= 1
                if self._deaths_left < 0:
                    raise ProcessesEnd(
                        f"the processes that share this batch end again and again (status {child.status}): look at what they "
                        "printed and at the machine's memory; ONBOARDING_PROCESSES=1 works without them. Nothing is lost: the "
                        "same again goes on."
                    )
                self._children[index] = await _Child.begin(self._start)


class _Child:
    """One process, and what it has in hand."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._working: dict[str, asyncio.Future[Worked]] = {}
        self._to_tell: list[bytes] = []
        self.closed_until = 0.0
        self.gone: str | None = None
        self.has_ended = False
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def begin(cls, start: bytes) -> "_Child":
        """Start it."""
        # It is told its settings and secrets on its standard input, and must find the modules that this process found.
        environment = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        environment["PYTHONPATH"] = os.pathsep.join(place for place in sys.path if place)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # no module of the folder where this happens to run, which may be anybody's
            "-m",
            "onboarding.batch.child",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment,
            limit=_LONGEST_LINE,
            process_group=0,  # what the terminal tells its foreground group, Ctrl-C say, this process passes on as it sees fit
        )
        child = cls(process)
        child._tell(start)
        return child

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def in_hand(self) -> int:
        """Cases that it works on, whether or not somebody still waits for them."""
        return len(self._working)

    @property
    def status(self) -> int | None:
        """Its exit status, once it has ended."""
        return self._process.returncode

    async def work(self, case_id: str) -> Worked:
        """Hand a case over and wait for its end."""
        if self.has_ended:
            return Worked(case_id, None, PROCESS_ENDED)
        assert case_id not in self._working, "a case is worked once at a time"
        ended: asyncio.Future[Worked] = asyncio.get_running_loop().create_future()
        self._working[case_id] = ended
        self._tell(f"{case_id}\n".encode())
        return await ended

    def no_more(self) -> None:
        """It ends once what it works on has."""
        assert self._process.stdin is not None
        self._tell_all()
        self._process.stdin.close()

    async def end(self, *, cut: bool) -> None:
        """End it; one that does not is killed, and its leases end by themselves."""
        self.no_more()
        if cut or self._working:  # then whoever waited for those was cut off
            self._send(signal.SIGTERM)
        try:
            await asyncio.wait({self._listening}, timeout=_ENDS_S)
        finally:
            self._send(signal.SIGKILL)
        await asyncio.wait({self._listening})

    def _send(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    def _tell(self, line: bytes) -> None:
        """Say it, with what else is said in this turn of the event loop: cases end, and so begin, several at a time."""
        if not self._to_tell:
            asyncio.get_running_loop().call_soon(self._tell_all)
        self._to_tell.append(line)

    def _tell_all(self) -> None:
        assert self._process.stdin is not None
        lines, self._to_tell = self._to_tell, []
        if lines:
            self._process.stdin.write(b"".join(lines))

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        try:
            while line := await self._process.stdout.readline():
                self._hear(Answer.model_validate_json(line))
        except Exception as error:  # noqa: BLE001 - no answer of ours, say; its text may hold anything
            _log.error("batch_process_not_understood pid=%d error=%s", self.pid, type(error).__name__)
        finally:
            self.has_ended = True
            self._send(signal.SIGKILL)  # it says nothing more, so it is of no use, should it live
            for case_id, ended in self._working.items():
                if not ended.done():
                    ended.set_result(Worked(case_id, None, PROCESS_ENDED))
            self._working.clear()
            await self._process.wait()

    def _hear(self, answer: Answer) -> None:
        if answer.log is not None:
            level, name, text = answer.log
            logging.getLogger(name).log(level, "%s", text)
        if answer.gone is not None:
            self.gone = answer.gone
            for ended in self._working.values():
                if not ended.done():
                    ended.set_exception(StoreGone(answer.gone))
            self._working.clear()
        if answer.worked is not None:
            self.closed_until = monotonic() + answer.closed_for_s if answer.closed_for_s > 0 else 0.0
            worked = self._working.pop(answer.worked.case_id, None)
            if worked is not None and not worked.done():
                worked.set_result(answer.worked)
