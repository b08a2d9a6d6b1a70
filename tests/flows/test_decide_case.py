"""`decide_case`: a form for decisions, into which no free text enters."""

import asyncio
from typing import Any, get_args

import pytest
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools import validate
from prefect.utilities.schema_tools.validation import ValidationError

from flows.asked import NOT_STORED
from flows.decide_case import decide_case
from flows.decision import DecisionWord, name_of_decision, read_decision, storable_decision
from flows.resume_cases import resume_cases
from onboarding.errors import BadInput
from onboarding.ledger.deciding import Decision
from onboarding.ledger.states import CaseStatus, StepName, StepStatus
from tests.flows.lab import FlowLab, Ran, unknown_registration
from tests.steps.lab import STUDY, only
from tests.support.requests import MARKER

CASE = "7K3Q9M2XW4TB"
GOOD: dict[str, Any] = {"case_id": CASE, "decision": "applied", "reason_code": "checked_on_the_other_side"}
SCHEMA: dict[str, Any] = parameter_schema(decide_case).model_dump()


async def decide(lab: FlowLab, **parameters: Any) -> Ran:
    given = {"reason_code": "checked_on_the_other_side", **parameters}
    return await lab.ended(await decide_case(**given, return_state=True))


@pytest.mark.prefect
async def test_an_unknown_outcome_is_decided_and_the_schedule_goes_on_with_the_case(lab: FlowLab) -> None:
    await unknown_registration(lab)
    (case,) = lab.bench.ledger.cases()
    await asyncio.sleep(case.steps[StepName.REGISTRATION].intent.quiet_left_s)  # nobody signals its end
    ran = await decide(lab, case_id=case.id, decision="absent")
    assert ran.how == ("COMPLETED", "Decided")
    said = "decided absent; it is ready now. It goes on with the next run of resume-cases."
    assert ran.message == f"case {case.id}: {said}"
    await resume_cases(return_state=True)
    assert lab.case(case.id).status is CaseStatus.DONE
    assert lab.effects() == {"registration_updated": 1}


@pytest.mark.prefect
async def test_a_decision_is_tagged_and_in_the_trail_with_its_run_code_and_reference(lab: FlowLab) -> None:
    await unknown_registration(lab)
    (case,) = lab.bench.ledger.cases()
    ran = await decide(lab, case_id=f" {case.id.lower()} ", decision="applied", reference="CHG-4711", attempt=1)
    assert (ran.how, ran.run.name) == (("COMPLETED", "Decided"), f"case {case.id}: applied")
    assert {f"case:{case.id}", f"study:{STUDY}"} <= set(ran.run.tags)
    (event,) = lab.trail(case.id, "decided")
    assert (event.actor, event.reason) == (f"prefect run {ran.run.id}", "checked_on_the_other_side (CHG-4711)")
    assert lab.case(case.id).status is CaseStatus.DONE


@pytest.mark.prefect
async def test_what_makes_no_sense_is_refused_and_a_retry_of_the_run_decides_nothing_twice(lab: FlowLab) -> None:
    lab.fault("update_registration", "refuse", code="CPR_DUP_PPID", when="before")
    await lab.flow(request=only("registration"))
    (case,) = lab.bench.ledger.cases()
    ran = await decide(lab, case_id=case.id, decision="applied")
    assert ran.how == ("FAILED", "RequestRefused")
    assert "what makes sense is: retry, cancel" in ran.message
    for expected in (("COMPLETED", "Decided"), ("FAILED", "RequestRefused")):
        ran = await decide(lab, case_id=case.id, decision="cancel", reason_code="not_needed_any_more")
        assert ran.how == expected
    assert lab.case(case.id).status is CaseStatus.CANCELLED
    assert lab.step(case.id, StepName.REGISTRATION).status is StepStatus.REFUSED


@pytest.mark.prefect
async def test_wrong_input_is_refused_with_a_line_for_each_problem_and_not_stored(lab: FlowLab) -> None:
    wrong = {
        "case_id": f"the case of {MARKER}",
        "decision": f"{MARKER} it",
        "reason_code": f"called {MARKER}",
        "reference": f"see {MARKER}",
        "attempt": MARKER,
        "exception_id": MARKER,
    }
    ran = await decide(lab, **wrong)
    assert ran.how == ("FAILED", "RequestRefused")
    assert [line.split(":")[0] for line in ran.message.splitlines()] == list(wrong)
    assert MARKER not in ran.message
    assert (ran.run.name, ran.run.parameters) == ("no decision", {"case_id": NOT_STORED})
    unknown = await decide(lab, case_id=CASE, decision="retry")
    assert unknown.how == ("FAILED", "RequestRefused")
    assert f"there is no case {CASE}" in unknown.message


# What the form takes


def test_the_form_has_titles_descriptions_and_choices() -> None:
    assert SCHEMA["required"] == ["case_id", "decision", "reason_code"]
    for name, facts in SCHEMA["properties"].items():
        assert facts.get("title"), name
        assert facts.get("description"), name
    assert SCHEMA["properties"]["decision"]["enum"] == ["applied", "absent", "retry", "cancel"]
    assert set(get_args(DecisionWord)) == {one.value for one in Decision}


@pytest.mark.parametrize(
    "change",
    [
        {"decision": "maybe"},
        {"reason_code": f"called {MARKER}"},
        {"reference": "two words"},
        {"reference": "x" * 41},
        {"attempt": "1"},
        {"attempt": -1},
    ],
)
def test_what_the_schema_refuses_the_flow_refuses_too(change: dict[str, Any]) -> None:
    validate(GOOD, SCHEMA, raise_on_error=True)
    with pytest.raises(ValidationError):
        validate({**GOOD, **change}, SCHEMA, raise_on_error=True)
    with pytest.raises(BadInput):
        read_decision({**GOOD, **change})


@pytest.mark.parametrize("reference", ["CHG-4711", "a/b_c.d", "x" * 40])
def test_a_reference_is_a_ticket_s_name(reference: str) -> None:
    validate({**GOOD, "reference": reference}, SCHEMA, raise_on_error=True)
    _, decided = read_decision({**GOOD, "reference": reference})
    assert decided.reason == f"checked_on_the_other_side ({reference})"


@pytest.mark.parametrize("reference", ["", "two words", "x" * 41, "line\n", 7, ["a"]])
def test_no_free_text_gets_in_as_a_reference(reference: Any) -> None:
    given = {**GOOD, "reference": reference}
    with pytest.raises(BadInput, match="reference: must be"):
        read_decision(given)
    assert storable_decision(given) == {"case_id": NOT_STORED}
    assert name_of_decision(given) == "no decision"


def test_a_copy_with_other_options_stores_no_free_text_either() -> None:
    copy = decide_case.with_options(name="copy")
    assert copy.serialize_parameters({"case_id": MARKER}) == {"case_id": NOT_STORED}
