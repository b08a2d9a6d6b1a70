"""The sandbox's faults that go by: what the core must ride out, wherever it is killed meanwhile."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tests.steps.lab import SYSTEM_OF


@dataclass(frozen=True)
class Fault:
    """A fault of the sandbox at one call."""

    call: str
    kind: str
    rule: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return " ".join([self.call, self.kind, *(f"{name}={value}" for name, value in self.rule.items())])


SLOW_S: Final = 0.85
"""A delay just beyond the request's deadline (``points.SETTINGS``), with almost a second of its quiet time to spare."""
READS_AND_LOGINS: Final[list[tuple[str, dict[str, Any]]]] = [
    ("cut", {"when": "before"}),
    ("server_error", {"when": "before", "status": 500}),
    ("throttle", {"when": "before", "retry_after": 0.2}),
    ("proxy_page", {"when": "before", "status": 502}),
    ("truncate", {"when": "after"}),
    ("wrong_body", {"when": "after", "variant": "invalid_json"}),
    ("delay", {"when": "before", "seconds": SLOW_S}),
]
EFFECTS: Final[list[tuple[str, dict[str, Any]]]] = [
    *READS_AND_LOGINS,
    ("cut", {"when": "after"}),
    ("server_error", {"when": "after", "status": 500}),
    ("server_error", {"when": "before", "status": 503}),
    ("proxy_page", {"when": "after", "status": 502}),
    ("empty", {"when": "before"}),
    ("empty", {"when": "after"}),
    ("redirect", {"when": "before"}),
    ("delay", {"when": "after", "seconds": SLOW_S}),
    ("expire_token", {}),
]
EFFECT_CALLS: Final = ("update_registration", "register_device", "create_exception")
FAULTS: Final = [
    Fault(call, kind, rule)
    for call in SYSTEM_OF
    if call != "access_code"  # asked in doubt alone; the volume meets its faults
    for kind, rule in (EFFECTS if call in EFFECT_CALLS else READS_AND_LOGINS)
    # A success that was none is a true unknown where no id came with it.
    if (call, kind, rule.get("when")) != ("create_exception", "empty", "before")
]
"""What the core must ride out without a person."""
NEAR_MISSES: Final = [
    *(Fault(call, "delay", {"when": "before", "seconds": 1.2}) for call in EFFECT_CALLS),  # long after it was given up
    *(Fault("access_code", kind, rule) for kind, rule in EFFECTS),
    Fault("create_exception", "empty", {"when": "before"}),
]
"""What may leave something to a person, too: probes that fail, a success that was none."""
