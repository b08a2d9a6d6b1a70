"""One request as the stand-ins see it, and the journal of all of them."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

System = Literal["openspecimen", "clinical_one", "token"]
SYSTEMS: tuple[System, ...] = ("openspecimen", "clinical_one", "token")

JOURNAL_LIMIT = 200_000


@dataclass(frozen=True, slots=True)
class Route:
    """What a request asks for: the call's name (None: no such call) and the ids of its path."""

    call: str | None
    ids: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Staleness:
    """A list is answered as it was so many changes, or seconds, ago."""

    changes: int | None = None
    seconds: float | None = None


@dataclass(slots=True)
class VendorRequest:
    """A request that has arrived completely.

    Attributes:
        number: position in the journal, from 1.
        path: the decoded path, without the query.
        query, headers: as received; header names without regard to case.
        peer_port: the client's port, which tells connections apart.
        effects: numbers of the effects it had, filled while it is handled.
        stale: set by a fault, see `Staleness`.
    """

    number: int
    system: System
    method: str
    path: str
    route: Route
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    peer_port: int
    request_id: str = ""
    effects: list[int] = field(default_factory=list)
    stale: Staleness | None = None


@dataclass(slots=True)
class JournalEntry:
    """What the journal keeps of a request: no body, no credentials.

    `nth` counts the requests of the same call; `effects_before` is the number of effects there were when it was
    handled (-1: it never was), which gives the order of reads relative to effects; `status` is None where no answer
    was sent; `finished` tells that nothing more will come of it.
    """

    n: int
    at: str
    monotonic: float
    system: System
    method: str
    path: str
    query: dict[str, str]
    call: str | None
    nth: int
    peer_port: int
    user_agent: str
    request_id: str
    body_bytes: int
    effects_before: int = -1
    effects: list[int] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    status: int | None = None
    finished: bool = False

    def as_json(self) -> dict[str, Any]:
        """The entry as plain values."""
        return asdict(self)


class Journal:
    """Every request that arrived, in order; the oldest are forgotten beyond `JOURNAL_LIMIT`."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._count = 0
        self._per_call: Counter[tuple[str, str | None]] = Counter()
        self.entries: deque[JournalEntry] = deque(maxlen=JOURNAL_LIMIT)
        self.in_progress = 0

    def next_number(self) -> int:
        """The number the next request gets."""
        self._count += 1
        return self._count

    def opened(self, request: VendorRequest) -> JournalEntry:
        """Enter a request that has arrived."""
        key = (request.system, request.route.call)
        self._per_call[key] += 1
        entry = JournalEntry(
            n=request.number,
            at=datetime.now(UTC).isoformat(timespec="microseconds"),
            monotonic=time.monotonic(),
            system=request.system,
            method=request.method,
            path=request.path,
            query=dict(request.query),
            call=request.route.call,
            nth=self._per_call[key],
            peer_port=request.peer_port,
            user_agent=request.headers.get("User-Agent", ""),
            request_id=request.request_id,
            body_bytes=len(request.body),
            effects=request.effects,
        )
        self.entries.append(entry)
        self.in_progress += 1
        self._on_change()
        return entry

    def closed(self, entry: JournalEntry) -> None:
        """Note that nothing more will come of a request."""
        entry.finished = True
        self.in_progress -= 1
        self._on_change()

    def counts(self) -> dict[str, int]:
        """How many requests of each call there were since the journal was emptied, those that it forgot included."""
        return {call or f"{system}: no such call": count for (system, call), count in self._per_call.items()}

    def forget(self) -> None:
        """Empty the journal and start counting calls anew; request numbers go on."""
        self.entries.clear()
        self._per_call.clear()
