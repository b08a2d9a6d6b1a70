"""`onboard decide`: a person's decision about a case."""

from typing import Annotated

from cyclopts import Parameter

from cli import doors, present
from cli.running import run
from cli.who import actor
from onboarding.endings import EXIT_ONBOARDED
from onboarding.errors import BadInput
from onboarding.identifiers import normalise_id
from onboarding.ledger.deciding import Decided, Decision, DecisionRefused
from onboarding.ledger.states import CaseStatus
from onboarding.settings import Settings, load_settings
from onboarding.workbench import open_workbench

Flag = Annotated[bool, Parameter(negative="")]


def decide(
    case: str,
    decision: Decision,
    /,
    *,
    reason: str,
    attempt: int | None = None,
    exception_id: str | None = None,
    json: Flag = False,
) -> int:
    """Decide about a case that needs a person: what became of an attempt, or whether to try again or to end it.

    retry: what was refused has been mended on the other side. applied, absent: an outcome that nobody here can know was looked
    up on the other side. cancel: the case is ended; refused while something is in doubt. Only what makes sense is taken.

    Args:
        case: the case's id, as `onboard status` prints it.
        decision: retry, applied, absent or cancel.
        reason: why, in your words; kept encrypted in the case's trail.
        attempt: number of the attempt that you looked at; the decision is refused if there has been another since.
        exception_id: for a DND exception that was applied: its id in Clinical One.
        json: print one JSON line.
    """
    try:
        found_id = None if exception_id is None else normalise_id(exception_id)
    except ValueError as error:
        raise BadInput([f"--exception-id {error}."]) from None
    decided = Decided(decision, actor(), reason, attempt, found_id)
    return run(_decide(load_settings(), case.upper(), decided, json))


async def _decide(settings: Settings, case_id: str, decided: Decided, json: bool) -> int:
    found = await doors.connections(settings, doors.prefect_api())
    async with open_workbench(settings, found, actor=decided.actor) as bench:
        if not case_id.isascii() or await bench.in_thread(bench.ledger.case, case_id) is None:
            raise BadInput([f"there is no case {case_id} in this ledger; 'onboard status' lists them."])
        try:
            await bench.decide(case_id, decided)
        except DecisionRefused as error:
            raise BadInput([str(error)]) from None
        case = await doors.case_of(bench, case_id)
    if json:
        present.print_json({"decided": decided.decision.value, **present.case_json(case)})
        return EXIT_ONBOARDED
    out = present.console()
    out.print(f"Case {case.id}: decided {decided.decision}; it is {case.status} now.")
    for line in present.case_lines(case):
        out.print(line)
    if case.status is CaseStatus.READY:
        out.print(f"  it goes on with: onboard resume {case.id}", soft_wrap=True)
    elif hint := present.how_to_go_on(case):  # something else wants to be decided
        out.print(f"  {hint}", soft_wrap=True)
    return EXIT_ONBOARDED
