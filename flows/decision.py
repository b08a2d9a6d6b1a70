"""Reading a decision as it came from a form or the API: a line for each problem, and no value is repeated."""

import re
from collections.abc import Mapping
from typing import Any, Final, Literal, get_args

from flows.asked import NOT_STORED, read_case_id
from onboarding.errors import BadInput
from onboarding.identifiers import normalise_id
from onboarding.json_input import kind_of
from onboarding.ledger.deciding import Decided, Decision

# Literals, which a form shows as a choice in place.
DecisionWord = Literal["applied", "absent", "retry", "cancel"]
ReasonWord = Literal[
    "checked_on_the_other_side",
    "vendor_confirmed",
    "mended_on_the_other_side",
    "request_was_wrong",
    "duplicate_removed",
    "not_needed_any_more",
]
DECISIONS: Final[tuple[str, ...]] = get_args(DecisionWord)
REASONS: Final[tuple[str, ...]] = get_args(ReasonWord)
REFERENCE_PATTERN: Final = r"[A-Za-z0-9._/-]{1,40}"


def read_decision(given: Mapping[str, Any]) -> tuple[str, Decided]:
    """The case's id and the decision, of nobody yet. Raises ``BadInput``."""
    problems: list[str] = []
    case_id = exception_id = ""
    try:
        case_id = read_case_id(given.get("case_id"))
    except BadInput as error:
        problems += error.problems
    for name, allowed in (("decision", DECISIONS), ("reason_code", REASONS)):
        if given.get(name) not in allowed:
            problems.append(f"{name}: must be one of {', '.join(allowed)}.")
    reference, attempt = given.get("reference"), given.get("attempt")
    if reference is not None and not _is_reference(reference):
        problems.append("reference: must be 1 to 40 letters, digits, dots, dashes, slashes or underscores.")
    if attempt is not None and (not isinstance(attempt, int) or isinstance(attempt, bool) or attempt < 0):
        problems.append(f"attempt: must be a whole number from 0, not {kind_of(attempt)}.")
    if given.get("exception_id") is not None:
        try:
            exception_id = normalise_id(str(given["exception_id"]))
        except ValueError as error:
            problems.append(f"exception_id: {error}.")
    if problems:
        raise BadInput(problems)
    reason = given["reason_code"] if reference is None else f"{given['reason_code']} ({reference})"
    return case_id, Decided(Decision(given["decision"]), "", reason, attempt, exception_id or None)


def storable_decision(given: Mapping[str, Any]) -> dict[str, Any]:
    """What the server may store of a run's parameters: all of them, or none of those that cannot be used."""
    try:
        read_decision(given)
    except BadInput:
        return {"case_id": NOT_STORED}
    return dict(given)


def name_of_decision(given: Mapping[str, Any]) -> str:
    """A run's name."""
    try:
        case_id, decided = read_decision(given)
    except BadInput:
        return "no decision"
    return f"case {case_id}: {decided.decision}"


def _is_reference(given: object) -> bool:
    return isinstance(given, str) and re.fullmatch(REFERENCE_PATTERN, given) is not None
