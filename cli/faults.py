"""Where a fault of this program arose: a traceback helps no user, and an exception's text can hold personal data."""

import traceback
from pathlib import Path


def place_of(error: Exception) -> str:
    """Where in our own code an error arose."""
    frames = traceback.extract_tb(error.__traceback__)
    root = Path(__file__).parents[1]
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(root) and ".venv" not in frame.filename]
    last = (ours or list(frames))[-1]
    return f"{Path(last.filename).name}:{last.lineno}"
