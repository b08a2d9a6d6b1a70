"""A person's decision about a case, as a form. No free text enters Prefect: the reason is one of a list, with a reference."""

from dataclasses import replace
from typing import Annotated, Any

from prefect.client.schemas.objects import State
from prefect.runtime import flow_run

from flows.asked import ID_PATTERN, NotShown, asked_flow, shown
from flows.decision import (
    REFERENCE_PATTERN,
    DecisionWord,
    ReasonWord,
    name_of_decision,
    read_decision,
    storable_decision,
)
from flows.run import ended, ended_by, tag_run, workbench_of_this_run
from onboarding.endings import Ending
from onboarding.errors import BadInput
from onboarding.ledger.deciding import Decided
from onboarding.ledger.states import CaseStatus
from onboarding.ledger.views import CaseView
from onboarding.workbench import Workbench

CaseField = Annotated[
    str, shown(title="Case", description="The case to decide about. Example: 7K3Q9M2XW4TB", pattern=ID_PATTERN)
]
DecisionField = Annotated[
    DecisionWord,
    shown(
        title="Decision",
        description="applied: you looked, and it was applied. absent: you looked, and it was not; it is sent again. retry: what "
        "was refused was mended, try again. cancel: end the case; not while something is in doubt.",
    ),
]
ReasonField = Annotated[
    ReasonWord,
    shown(title="Reason", description="Why you decide so; it is kept in the case's trail with your decision."),
]
ReferenceField = Annotated[
    str | NotShown,
    shown(
        title="Reference",
        description="A ticket or document that says more: 1 to 40 letters, digits and . _ / - but nothing about people. "
        "Example: CHG-4711",
        pattern=f"^{REFERENCE_PATTERN}$",
    ),
]
AttemptField = Annotated[
    int | NotShown,
    shown(
        title="Attempt",
        description="Number of the attempt that you looked at; the decision is refused if there was another since. Example: 1",
        minimum=0,
    ),
]
ExceptionField = Annotated[
    str | NotShown,
    shown(
        title="Exception id",
        description="For a DND exception that was applied: its id in Clinical One. Example: 6AF54DB79B764662B685D68C52AB0B84",
    ),
]


def run_name() -> str:
    """The case and the decision, or what can be said of them."""
    return name_of_decision(flow_run.parameters)


@asked_flow(storable=storable_decision, name="decide-case", flow_run_name=run_name)
async def decide_case(
    case_id: CaseField,
    decision: DecisionField,
    reason_code: ReasonField,
    reference: ReferenceField = None,
    attempt: AttemptField = None,
    exception_id: ExceptionField = None,
) -> State[Any]:
    """Decide about a case that needs a person. Only what makes sense as the case stands is taken.

    The case then goes on with the next run of resume-cases, unless it is done or cancelled.
    """
    given = {
        "case_id": case_id,
        "decision": decision,
        "reason_code": reason_code,
        "reference": reference,
        "attempt": attempt,
        "exception_id": exception_id,
    }
    try:
        asked_for, decided = read_decision(given)
        async with workbench_of_this_run() as bench:
            case = await _decide(bench, asked_for, replace(decided, actor=bench.runner.actor))
    except Exception as error:  # noqa: BLE001 - Prefect would store the text of any, and pickle it
        return ended_by(error)
    goes_on = " It goes on with the next run of resume-cases." if case.status is CaseStatus.READY else ""
    return ended(Ending.DECIDED, case.id, what=f"decided {decided.decision}; it is {case.status} now.{goes_on}")


async def _decide(bench: Workbench, case_id: str, decided: Decided) -> CaseView:
    if await bench.in_thread(bench.ledger.case, case_id) is None:
        raise BadInput([f"case_id: there is no case {case_id} in this ledger; 'onboard status' lists them."])
    await tag_run(bench, case_id)
    await bench.decide(case_id, decided)
    case: CaseView = await bench.in_thread(bench.ledger.case, case_id)
    return case
