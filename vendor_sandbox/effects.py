"""The effect log: what really changed in the stand-ins, written before the answer is sent.

It is the evidence of every claim that an effect happened once. One line of JSON per effect, one `write` on a file
opened for appending, so a reader never sees half a line of a finished effect and several processes may share a file.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vendor_sandbox.requests import VendorRequest

EFFECTS = frozenset(
    {
        "registration_updated",
        "participants_merged",
        "registration_deleted",
        "device_registered",
        "access_code_issued",
        "device_deregistered",
        "dnd_exception_created",
        "dnd_exception_updated",
        "dnd_exception_deleted",
    }
)


class EffectLog:
    """Appends effects to a file and keeps them in memory for the control interface.

    Args:
        path: the JSON Lines file; None keeps effects in memory only.
        on_change: called after each effect, to wake those who wait for one.
    """

    def __init__(self, path: Path | None, on_change: Callable[[], None]) -> None:
        self._file = None if path is None else os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._on_change = on_change
        self._count = 0
        self.entries: list[dict[str, Any]] = []

    def record(self, request: VendorRequest, effect: str, key: Mapping[str, object], changed: Sequence[str]) -> None:
        """Log one effect of `request`.

        Args:
            request: the request that caused it.
            effect: one of `EFFECTS`.
            key: ids that tell what was changed; never personal data.
            changed: names of the fields that changed; never their values.
        """
        assert effect in EFFECTS, effect
        self._count += 1
        entry: dict[str, Any] = {
            "n": self._count,
            "at": datetime.now(UTC).isoformat(timespec="microseconds"),
            "monotonic": time.monotonic(),
            "system": request.system,
            "effect": effect,
            "key": dict(key),
            "request": request.number,
            "request_id": request.request_id,
            "changed": list(changed),
            "peer_port": request.peer_port,
            "body_sha256": hashlib.sha256(request.body).hexdigest(),
        }
        if self._file is not None:
            line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
            written = os.write(self._file, line)
            if written != len(line):
                raise OSError(f"effect {self._count} was written in part: {written} of {len(line)} bytes")
        self.entries.append(entry)
        request.effects.append(self._count)
        self._on_change()

    @property
    def count(self) -> int:
        """How many effects there have been, forgotten ones included."""
        return self._count

    def forget(self) -> None:
        """Empty the memory; the file and the numbering go on."""
        self.entries.clear()

    def close(self) -> None:
        """Close the file; no effect can be recorded afterwards."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
