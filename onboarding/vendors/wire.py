"""What one request on the wire is made of: its deadline, the watch over its first byte, its answer or its lack."""

import contextlib
import json
import socket
import struct
from asyncio import Transport
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from aiohttp.connector import Connection

from onboarding.clocks import boot_seconds

ANSWER_LIMIT: Final = 4 * 1024 * 1024
"""Most bytes that an answer may have, unless its call says otherwise."""

LIST_LIMIT: Final = 32 * 1024 * 1024
"""Most bytes that an answer holding a list may have."""

_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)  # struct linger: on, zero seconds


class Deadline:
    """One absolute end for everything a call does; counts time that the machine sleeps, where the system can.

    Args:
        seconds: from now on.

    Attributes:
        begun_at: when it began, in seconds since boot.
    """

    __slots__ = ("_end", "begun_at")

    def __init__(self, seconds: float) -> None:
        self.begun_at = boot_seconds()
        self._end = self.begun_at + seconds

    def remaining(self) -> float:
        """Seconds that are left; 0 once the deadline has passed."""
        return max(0.0, self._end - boot_seconds())

    def postpone(self, seconds: float) -> None:
        """Begin later: what was waited for was not the request's doing. Never for an effect whose intent is committed."""
        self.begun_at += seconds
        self._end += seconds

    def passed(self) -> bool:
        """Whether nothing is left."""
        return self.remaining() <= 0.0


class Unreadable(ValueError):
    """A body that is not what the vendor documents."""


@dataclass(frozen=True)
class Answer:
    """An answer whose head arrived.

    Attributes:
        status: HTTP status.
        headers: by lower-case name; never shown, since vendors put tokens there.
        body: as it came; empty if it has a flaw; never shown.
        flaw: why the body cannot be used (``truncated``, ``oversized``, ``compressed``, ``deadline_passed``), or None.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)
    flaw: str | None = None

    @cached_property
    def content(self) -> object:
        """The body as JSON, or None if it is empty. Not to be changed.

        Raises:
            Unreadable: it is no JSON, or nested too deep, or holds numbers that JSON does not have.
        """
        if not self.body.strip():
            return None
        try:
            return json.loads(self.body, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            raise Unreadable("the body is not JSON") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


class NoAnswer(Exception):
    """No head of an answer arrived.

    Attributes:
        may_have_left: whether a byte of the request can have reached the other side. This alone decides the class.
        reason_code: a machine word for people: ``connect_refused``, ``dns_failed``, ``cut``, ...
        detail: a safe word more, such as why a certificate was not accepted; empty if there is none.
    """

    def __init__(self, *, may_have_left: bool, reason_code: str, detail: str = "") -> None:
        self.may_have_left = may_have_left
        self.reason_code = reason_code
        self.detail = detail
        super().__init__(reason_code)


class SecondSend(RuntimeError):
    """The HTTP library was about to send one request twice; nothing went out the second time."""


class Wire:
    """Watches one request on its way out, so that it is known whether a byte of it can have left.

    The transport holds it from the moment it has a connection. Just before the first byte it calls ``clear_to_send``;
    whatever that raises goes to the caller unchanged, and nothing is sent. A request has a wire of its own.

    Args:
        deadline: nothing is sent once it has passed.
        check: the caller's last word before the first byte, such as "is the lease still mine?"; it raises to forbid.
        max_bytes: limit on the answer's body.

    Attributes:
        may_have_left: whether a byte of the request can have left.
        refusal: why nothing was sent, if that was decided on this side.
        head: status and headers of the answer, once they arrived.
    """

    def __init__(
        self, deadline: Deadline, check: Callable[[], None] | None = None, max_bytes: int = ANSWER_LIMIT
    ) -> None:
        self.deadline = deadline
        self.max_bytes = max_bytes
        self.may_have_left = False
        self.refusal: Exception | None = None
        self.head: Answer | None = None
        self._check = check
        self._started = False
        self._connection: Connection | None = None
        self._transport: Transport | None = None
        self._socket: socket.socket | None = None

    def hold(self, connection: Connection) -> None:
        """Take note of the connection that the request is about to use."""
        self._connection = connection
        self._transport = connection.transport
        self._socket = None if self._transport is None else self._transport.get_extra_info("socket")

    def start(self) -> None:
        """Note that the request is being put on its connection; a second time is refused, whoever tries."""
        if self._started:
            raise SecondSend("a request was about to be sent a second time")
        self._started = True

    def clear_to_send(self) -> None:
        """The last thing before the first byte: time left, and the caller's check; then a byte may have left."""
        try:
            if self._check is not None:
                self._check()
        except Exception as refusal:
            self.refusal = refusal
            raise
        if self.deadline.passed():
            self.refusal = NoAnswer(may_have_left=False, reason_code="deadline_passed")
            raise self.refusal
        self.may_have_left = True

    def abandon(self) -> None:
        """Throw the connection away so that nothing more of the request can leave, not even from the kernel's buffer.

        A plain close would go on delivering what is buffered, long after the deadline if the network was interrupted.
        """
        transport, self._transport = self._transport, None
        if transport is None or self._connection is None:
            return  # none was acquired
        if self._connection.protocol is None and not transport.is_closing():
            return  # it went back to the pool in order, and may serve another request by now
        if self._socket is not None:
            with contextlib.suppress(OSError):  # closed already
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        transport.abort()
