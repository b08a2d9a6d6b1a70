"""Reading what a batch's run is asked for, as it came from a form or the API: a line for each problem, no value repeated."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from flows.asked import NOT_STORED, read_case_id
from onboarding.batch.inbox import inbox_name
from onboarding.errors import BadInput
from onboarding.json_input import kind_of

MOST_LANES: Final = 1000
_FLAGS: Final = ("dry_run", "skip_bad")


@dataclass(frozen=True)
class AskedBatch:
    """The id of a batch or the name of a file in the inbox, exactly one of them, and how it is worked."""

    batch_id: str | None
    file: str | None
    dry_run: bool
    skip_bad: bool
    concurrency: int | None


def read_batch_asked(given: Mapping[str, Any]) -> AskedBatch:
    """Read the parameters of a run. Raises ``BadInput``."""
    problems = [
        f"{name}: must be true or false, not {kind_of(given.get(name))}."
        for name in _FLAGS
        if not isinstance(given.get(name, False), bool)
    ]
    batch_id, file, lanes = given.get("batch_id"), given.get("file"), given.get("concurrency")
    if (batch_id is None) == (file is None):
        problems.append("give either a batch_id or a file.")
    try:
        batch_id = None if batch_id is None else read_batch_id(batch_id)
    except BadInput as error:
        problems += error.problems
    try:
        file = None if file is None else inbox_name(file)
    except BadInput as error:
        problems += error.problems
    if lanes is not None and (isinstance(lanes, bool) or not isinstance(lanes, int) or not 1 <= lanes <= MOST_LANES):
        problems.append(f"concurrency: must be a whole number from 1 to {MOST_LANES}.")
    if problems:
        raise BadInput(problems)
    return AskedBatch(batch_id, file, given.get("dry_run", False), given.get("skip_bad", False), lanes)


def read_batch_id(given: object) -> str:
    """A batch's id, which is written as a case's is."""
    try:
        return read_case_id(given)
    except BadInput:
        what = "batch_id: must be the letters and digits of a batch; 'onboard status' lists those that are open."
    raise BadInput([what])


def storable_batch(given: Mapping[str, Any]) -> dict[str, Any]:
    """What the server may store of a run's parameters: all of them, or the flags alone of those that cannot be used."""
    try:
        asked = read_batch_asked(given)
    except BadInput:
        flags = {name: given[name] for name in _FLAGS if isinstance(given.get(name), bool)}
        return {"batch_id": NOT_STORED, **flags}
    return {**given, "batch_id": asked.batch_id, "file": asked.file}


def name_of_batch_run(given: Mapping[str, Any]) -> str:
    """A run's name: the batch, not the file, whose name somebody else has chosen."""
    try:
        asked = read_batch_asked(given)
    except BadInput:
        return "no batch"
    return "file from the inbox" if asked.batch_id is None else f"batch {asked.batch_id}"
