"""``python -m onboarding.batch.child``: one of several processes that share a batch; started by ``onboarding.batch.children``.

It is told on standard input, a line of JSON (``Start``), then the ids of cases, a line each; it answers with lines of JSON
(``Answer``) on standard output. At the end of its input it begins no case any more, and ends when those that were begun have.
SIGTERM cuts them off: they give their leases back. Nobody sees the connections' secrets, which are in neither the arguments
nor the environment.
"""

import asyncio
import gc
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Self

from pydantic import BaseModel, ConfigDict, SecretStr

from onboarding.batch.engine import Here, Worked
from onboarding.errors import OnboardingError
from onboarding.settings import Connections, Settings
from onboarding.workbench import Workbench, open_workbench

_COLLECTED_AFTER: Final = 50_000  # objects; some ten megabytes


class Start(BaseModel):
    """What a process is to work with. ``level``: of the log lines that it hands over."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    settings: Settings
    connections: Connections
    actor: str
    flow_run_id: str | None
    level: int

    def line(self) -> bytes:
        """One line, secrets and all."""
        return json.dumps(self.model_dump(), default=_plain).encode() + b"\n"

    @classmethod
    def read(cls, line: bytes) -> Self:
        """What ``line`` wrote."""
        return cls.model_validate(json.loads(line))


class Answer(BaseModel):
    """How a case ended; or why none can be worked (``gone``); or a log line (level, name, text)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    worked: Worked | None = None
    closed_for_s: float = 0.0
    gone: str | None = None
    log: tuple[int, str, str] | None = None


@contextmanager
def seldom_collecting() -> Iterator[None]:
    """Look for garbage in cycles seldom: thousands of cases leave few, and to look as often as usual costs much of the work."""
    usual = gc.get_threshold()
    gc.set_threshold(_COLLECTED_AFTER, *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)


def _plain(value: object) -> Any:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    assert isinstance(value, Path), "settings and connections hold nothing else"
    return str(value)


class _Answers(logging.Handler):
    """The way back to whoever started this process, for log lines too. What is printed goes where errors go."""

    def __init__(self) -> None:
        super().__init__()
        self._turn = threading.Lock()
        self._soon: list[Answer] = []
        self._any = asyncio.Event()
        self._out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def say(self, answer: Answer) -> None:
        self._write([answer])

    def say_soon(self, answer: Answer) -> None:
        """Let ``say_as_they_come`` say it."""
        self._soon.append(answer)
        self._any.set()

    async def say_as_they_come(self) -> None:
        """Say what is to be said, all of one turn of the event loop together: a commit ends several cases at a time."""
        while True:
            await self._any.wait()
            self._any.clear()
            self.say_all()

    def say_all(self) -> None:
        """Say now what is to be said."""
        soon, self._soon = self._soon, []
        self._write(soon)

    def _write(self, answers: Sequence[Answer]) -> None:
        lines = "".join(answer.model_dump_json(exclude_defaults=True) + "\n" for answer in answers)
        with self._turn, suppress(BrokenPipeError):  # whoever asked is gone; what was begun is ended all the same
            self._out.write(lines)
            self._out.flush()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.say(Answer(log=(record.levelno, record.name, record.getMessage())))
        except Exception:  # noqa: BLE001 - a line that cannot be handed over stops no work
            self.handleError(record)


async def _serve() -> None:
    answers, lines = _Answers(), asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    told = await lines.readline()
    if not told:  # whoever started this process is gone already
        return
    start = Start.read(told)
    log = logging.getLogger("onboarding")
    log.addHandler(answers)
    log.setLevel(start.level)
    try:
        async with open_workbench(
            start.settings, start.connections, actor=start.actor, flow_run_id=start.flow_run_id
        ) as bench:
            await _work(bench, lines, answers)
    except OnboardingError as error:
        answers.say(Answer(gone=str(error)))


async def _work(bench: Workbench, lines: asyncio.StreamReader, answers: _Answers) -> None:
    hands = Here(bench)

    async def work(case_id: str) -> None:
        try:
            answers.say_soon(Answer(worked=await hands.work(case_id), closed_for_s=hands.closed_for_s()))
        except OnboardingError as error:
            answers.say_soon(Answer(gone=str(error)))

    try:
        # In one group with the cases: an answer that cannot be said must end this process, or it would be waited for for ever.
        async with asyncio.TaskGroup() as group:
            saying = group.create_task(answers.say_as_they_come())
            async with asyncio.TaskGroup() as cases:
                while line := await lines.readline():
                    cases.create_task(work(line.decode("ascii").strip()))
            saying.cancel()
    finally:
        answers.say_all()


async def _until_terminated() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started this process decides what it means
    serving = asyncio.ensure_future(_serve())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, serving.cancel)
    with suppress(asyncio.CancelledError):
        await serving


def _main() -> int:
    gc.freeze()
    try:
        with seldom_collecting():
            asyncio.run(_until_terminated())
    except Exception as error:  # noqa: BLE001 - its text may hold anything
        print(f"a process of a batch ended: {type(error).__name__}", file=sys.stderr)  # noqa: T201 - nobody else can say it
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main())
