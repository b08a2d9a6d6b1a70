"""How the work on a case is told, whichever command did it."""

from collections.abc import Iterable
from typing import Final

from cli import doors, present
from onboarding.endings import (
    ENDINGS,
    EXIT_ATTENTION,
    EXIT_BAD_INPUT,
    EXIT_FAULT,
    EXIT_ONBOARDED,
    EXIT_WAITING,
    Ending,
)

_GROWING_WORSE: Final = (EXIT_ONBOARDED, EXIT_WAITING, EXIT_ATTENTION, EXIT_FAULT, EXIT_BAD_INPUT)


def worst(statuses: Iterable[int]) -> int:
    """The exit status for several cases: the one that most wants to be looked at; 0 for none."""
    return max(statuses, key=_GROWING_WORSE.index, default=EXIT_ONBOARDED)


def say_worked(worked: doors.Worked, *, observed: bool, json: bool, notes: list[str]) -> int:
    """Say how the work on a case ended, and give the exit status."""
    facts = ENDINGS[worked.ending]
    if json:
        ending = {"ending": worked.ending.value, "observed": observed, "what": worked.what}
        present.print_json({**ending, **present.case_json(worked.case)})
        return facts.exit_status
    out = present.console()
    seen = "" if observed else f" ({doors.not_observed()})"
    out.print(f"Case {worked.case.id}: {worked.ending} - {facts.meaning}{seen}", soft_wrap=True)
    for note in notes:
        out.print(f"  note: {note}", soft_wrap=True)
    for line in present.case_lines(worked.case):
        out.print(line, soft_wrap=True)
    if worked.ending in (Ending.HELD_BY_ANOTHER_RUN, Ending.LEASE_LOST) and worked.what:
        out.print(f"  {worked.what}", soft_wrap=True)
    elif hint := present.how_to_go_on(worked.case):
        out.print(f"  {hint}", soft_wrap=True)
    return facts.exit_status
