"""What Prefect is told of a fault in this program: where it was, never its text, which could hold a person's data.

Prefect stores the text of every exception that it meets, with the states, the log and the events.
"""

import traceback
from pathlib import Path
from typing import Final

from onboarding.errors import OnboardingError

_ROOT: Final = Path(__file__).resolve().parent.parent
_OURS: Final = ("flows", "tasks", "blocks", "onboarding")


class UnexpectedFault(OnboardingError):
    """A fault that no step foresees. Nothing is concluded from it: the ledger knows what was sent."""


def told(error: BaseException) -> str:
    """A sentence about an unexpected exception: its type, and the last of our lines that it came through."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        (error,) = error.exceptions
    places = [
        f"{path.relative_to(_ROOT)}, line {frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if (path := Path(frame.filename)).is_relative_to(_ROOT) and path.relative_to(_ROOT).parts[0] in _OURS
    ]
    where = f" in {places[-1]}" if places else ""
    return f"an unexpected {type(error).__name__}{where}. The case can be resumed; if this happens again, report these words."
