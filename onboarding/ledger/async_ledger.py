"""The ledger for asyncio: its calls run in threads, and writes that wait at the same time go into one transaction.

Whatever arrives while one transaction commits goes into the next, and so does what the event loop has still in hand then: a few
turns of it, while each brings more. Nothing waits for time to pass. A case whose row another
transaction holds waits for it by itself, and so do the case's later writes, in their order; no other case waits with it.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

from onboarding.keys import LedgerKey
from onboarding.ledger.claims import ClaimKey
from onboarding.ledger.leasing import Closed
from onboarding.ledger.ledger import Ledger
from onboarding.ledger.together import ALONE, Begun, Fenced, Taking
from onboarding.ledger.views import Held
from onboarding.ledger.writes import CaseWrite, Lease

T = TypeVar("T")
InThread = Callable[..., Awaitable[Any]]
MOST_AT_ONCE: Final = 128
"""Cases in one transaction: enough to make a commit cheap, few enough that nobody waits long for it."""

ALONE_AT_ONCE: Final = 2
"""Cases that wait for their rows at a time: each keeps a thread busy, and renewals need one too."""

_QUIET_TURNS: Final = 6  # an answer that is read in one turn of the loop is worked on in the next, or a few later
_MOST_TURNS: Final = 64

_Waiting = tuple[Taking | Fenced[Any], "asyncio.Future[Any]"]


class AsyncLedger:
    """What a runner's cases share of the ledger. Belongs to one event loop.

    Args:
        ledger: the ledger.
        in_thread: runs a call in a thread and gives its result.
        committing: the same for what has SQLite's write lock and only commits: in a thread that nothing else keeps waiting,
            and to its end, whoever waits for it.
    """

    def __init__(self, ledger: Ledger, in_thread: InThread, committing: InThread) -> None:
        self._ledger = ledger
        self._in_thread = in_thread
        self._committing = committing
        self._loop = asyncio.get_running_loop()
        self._first: deque[_Waiting] = deque()
        self._waiting: deque[_Waiting] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._alone: dict[str, deque[_Waiting]] = {}
        self._alone_tasks: set[asyncio.Task[None]] = set()
        self._alone_turns = asyncio.Semaphore(ALONE_AT_ONCE)

    @property
    def key(self) -> LedgerKey:
        """The ledger's key."""
        return self._ledger.key

    def take(self, wish: Taking) -> "asyncio.Future[Lease | Held | Closed]":
        """Take a case's lease, or say who has it or why it cannot be worked; whether or not somebody still waits then."""
        return self._put(wish, first=False)

    async def fenced(self, lease: Lease, change: Callable[[CaseWrite], T], *, claims: Sequence[ClaimKey] = ()) -> T:
        """Run ``change`` over the leased case, and commit it; see ``Ledger.fenced``. It may be run more than once."""
        result: T = await self._do(Fenced(lease, change, claims))
        return result

    async def renew(self, lease: Lease) -> None:
        """Let the lease last its full time again; this goes ahead of all other writes."""
        await self._do(Fenced(lease, lambda _write: None), first=True)

    async def keep_late_answer(self, case_id: str, actor: str, answer: dict[str, Any]) -> None:
        """Append an answer that came after the lease was lost."""
        await self._in_thread(self._ledger.keep_late_answer, case_id, actor, answer)

    async def other_claims_with(self, keys: Sequence[str]) -> set[str]:
        """Which of these exception contents cases have claimed."""
        found: set[str] = await self._in_thread(self._ledger.other_claims_with, keys)
        return found

    async def _do(self, work: Fenced[Any], *, first: bool = False) -> Any:
        return await self._put(work, first=first)

    def _put(self, work: Taking | Fenced[Any], *, first: bool) -> "asyncio.Future[Any]":
        done: asyncio.Future[Any] = self._loop.create_future()
        (self._first if first else self._waiting).append((work, done))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all())
        return done

    async def _write_all(self) -> None:
        try:
            while self._first or self._waiting:
                await self._gather()
                some = [
                    queue.popleft()
                    for queue in (self._first, self._waiting)
                    for _ in range(min(len(queue), MOST_AT_ONCE))
                ]
                self._set_apart(one for one in some if one[0].case_id in self._alone)
                if together := [one for one in some if one[0].case_id not in self._alone]:
                    self._set_apart(await self._write(together))
        finally:
            self._writing = None

    async def _gather(self) -> None:
        """Let those come along whose turn in the event loop is next; a renewal waits for nobody."""
        quiet = 0
        for _ in range(_MOST_TURNS):
            before = len(self._waiting)
            await asyncio.sleep(0)
            quiet = 0 if len(self._waiting) > before else quiet + 1
            if self._first or quiet == _QUIET_TURNS:
                return

    async def _write(self, some: Sequence[_Waiting], *, wait: bool = False) -> list[_Waiting]:
        """One transaction. Gives back what is to be done alone."""
        works = [work for work, _ in some]
        try:
            # What takes only this processor's time is done here: in two threads the same would take longer.
            begun = self._ledger.begin_together(works, wait=wait)
            results = await (self._committed(begun) if begun.only_commits else self._in_thread(begun.finish))
        except Exception as error:  # noqa: BLE001 - whatever it was, nobody is to wait for ever
            results = [error] * len(some)
        for (_, done), result in zip(some, results, strict=True):
            if result is not ALONE:
                _settle(done, result)
        return [one for one, result in zip(some, results, strict=True) if result is ALONE]

    async def _committed(self, begun: Begun) -> list[Any]:
        """It has the lock that all others wait for, so it is committed here if it cannot be handed over any more."""
        try:
            results: list[Any] = await self._committing(begun.finish)
        except Exception:  # noqa: BLE001 - of the hand-over: finishing raises nothing
            return begun.finish()
        return results

    def _set_apart(self, some: Iterable[_Waiting]) -> None:
        """Do these one by one, those of one case in their order: two at a time would mix up what its lease remembers."""
        for one in some:
            case_id = one[0].case_id
            if case_id not in self._alone:
                self._alone[case_id] = deque()
                task = asyncio.create_task(self._write_alone(case_id))
                self._alone_tasks.add(task)
                task.add_done_callback(self._alone_tasks.discard)
            self._alone[case_id].append(one)

    async def _write_alone(self, case_id: str) -> None:
        queue = self._alone[case_id]
        try:
            while queue:
                async with self._alone_turns:
                    await self._write([queue.popleft()], wait=True)
        finally:
            del self._alone[case_id]


def _settle(done: "asyncio.Future[Any]", result: Any) -> None:
    if done.done():  # whoever waited for it is gone; it is written all the same
        return
    if isinstance(result, BaseException):
        done.set_exception(result)
    else:
        done.set_result(result)
