"""Requests of many subjects that share nothing, so that none waits for another."""

import copy
from typing import Any

from tests.crash.volume import request


def alone(number: int) -> dict[str, Any]:
    """What the n-th subject asks for, with an exception of its own."""
    content = copy.deepcopy(request(number))
    content["dnd_exception"]["visit_dnd"][0]["dnd"] = number
    return content
