"""What a command did to a thing that it sets up."""

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """Whether a thing was made, changed, or stood as it should."""

    CREATED = "created"
    CHANGED = "changed"
    LEFT = "left"
    MISSING = "missing"


@dataclass(frozen=True)
class Told:
    """One thing, what was done about it, and what else there is to say."""

    thing: str
    outcome: Outcome
    what: str = ""
