"""What all processes must know before one of them speaks to a vendor: pauses that it asked for, log-ins it refused.

The ledger implements ``VendorGate`` for work that is shared; ``InMemoryGate`` serves a single process.
"""

import hashlib
import hmac
import secrets
from typing import Protocol

from onboarding.clocks import boot_seconds


class VendorGate(Protocol):
    """The shared memory of pauses and refused log-ins; ``system`` is a name of ``onboarding.errors``."""

    def credentials_digest(self, system: str, *parts: str) -> str:
        """A keyed digest of a connection's address, name and secret; it changes when one of them does."""

    async def login_refused(self, system: str, digest: str) -> str | None:
        """The code with which a log-in with these credentials was refused, or None."""

    async def remember_login_refused(self, system: str, digest: str, code: str) -> None:
        """Keep every process from logging in with these credentials again."""

    async def not_before(self, system: str) -> float:
        """Seconds that nobody may send anything to the system; 0 if it may be used."""

    def known_not_before(self, system: str) -> float | None:
        """The same, if it is known without asking anybody; else None."""

    async def remember_not_before(self, system: str, seconds: float) -> None:
        """Keep every process from sending anything to the system for so many seconds."""


class InMemoryGate:
    """A gate for one process: it forgets everything when the process ends."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._refused: dict[tuple[str, str], str] = {}
        self._open_at: dict[str, float] = {}

    def credentials_digest(self, system: str, *parts: str) -> str:
        """A digest under a key that no other gate has."""
        text = "".join(f"{len(part)}:{part}" for part in (system, *parts))  # lengths keep parts from running together
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()

    async def login_refused(self, system: str, digest: str) -> str | None:
        """The code that was remembered for these credentials, or None."""
        return self._refused.get((system, digest))

    async def remember_login_refused(self, system: str, digest: str, code: str) -> None:
        """Remember a refused log-in."""
        self._refused[system, digest] = code

    async def not_before(self, system: str) -> float:
        """Seconds left of the system's pause."""
        return self.known_not_before(system)

    def known_not_before(self, system: str) -> float:
        """The same: nobody else knows more."""
        return max(0.0, self._open_at.get(system, 0.0) - boot_seconds())

    async def remember_not_before(self, system: str, seconds: float) -> None:
        """Begin a pause, unless a longer one is under way."""
        self._open_at[system] = max(self._open_at.get(system, 0.0), boot_seconds() + seconds)
