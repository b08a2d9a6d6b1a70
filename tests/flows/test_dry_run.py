"""A dry run reads, shows its plan as a table and as an artifact, and changes nothing anywhere."""

import json
from typing import Any

import pytest
from prefect import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import Artifact

from tests.flows.lab import FlowLab, Ran
from tests.steps.lab import STUDY, only
from tests.support.requests import INVENTORY_ID, KIT_TYPE_ID, MARKER, PARTICIPANT, SITE_ID, VISIT_ID, example, request
from vendor_sandbox import seed

pytestmark = pytest.mark.prefect


async def artifacts(ran: Ran) -> list[Artifact]:
    chosen = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[ran.run.id]))
    async with get_client() as client:
        return await client.read_artifacts(artifact_filter=chosen)


async def plan_of(ran: Ran) -> dict[str, dict[str, str]]:
    """The rows of the run's plan, by step."""
    (artifact,) = await artifacts(ran)
    assert (artifact.type, artifact.key) == ("table", "onboarding-plan")
    assert artifact.description == "What this onboarding would do. Nothing was sent."
    rows = json.loads(str(artifact.data))
    return {row["step"]: row for row in rows}


def nothing_was_sent(lab: FlowLab) -> None:
    assert lab.effects() == {}
    assert {entry["call"] for entry in lab.calls()} <= {
        "login",
        "token",
        "read_registration",
        "dispensation",
        "dispensation_history",
        "list_exceptions",
    }


async def test_the_plan_of_a_new_subject_says_what_each_step_would_do(lab: FlowLab) -> None:
    ran = await lab.flow(request=request(), dry_run=True)
    assert ran.how == ("COMPLETED", "Planned")
    assert ran.message == "dry run: nothing was sent and nothing was stored."
    plan = await plan_of(ran)
    assert list(plan) == ["registration", "dispensation", "device", "dnd_exception"]
    assert {step: row["what would happen"] for step, row in plan.items()} == {
        "registration": "would change",
        "dispensation": "already so",
        "device": "would register",
        "dnd_exception": "would change",
    }
    assert plan["registration"]["differences"] == (
        "ppid: ASCI000 -> ASCI123; registrationDate: 2014-01-15 -> 2014-04-21; externalSubjectId: nothing -> TEST_001"
    )
    assert plan["device"]["note"].startswith("not observable")
    nothing_was_sent(lab)
    assert lab.bench.ledger.cases() == []


async def test_the_table_is_readable_and_the_log_says_the_same(lab: FlowLab) -> None:
    ran = await lab.flow(request=request(), dry_run=True)
    (artifact,) = await artifacts(ran)
    rows: list[dict[str, Any]] = json.loads(str(artifact.data))
    assert [list(row) for row in rows] == [["step", "what would happen", "differences", "code", "note"]] * 4
    assert all(isinstance(value, str) for row in rows for value in row.values())
    lines = [line for line in await lab.messages(ran, "step: dnd_exception") if line.startswith("plan ")]
    assert len(lines) == 4
    assert (
        "plan step: registration | what would happen: would change | differences: ppid: ASCI000 -> ASCI123;" in lines[0]
    )


async def test_a_person_is_named_by_nothing_but_fields(lab: FlowLab) -> None:
    case_id = await lab.open(
        example(registration__participant=PARTICIPANT, registration__op_comments=f"Comment {MARKER}")
    )
    sent = lab.calls()
    ran = await lab.flow(case_id=case_id, dry_run=True)
    assert ran.how == ("COMPLETED", "Planned")
    assert ran.message.startswith(f"case {case_id}: dry run")
    row = (await plan_of(ran))["registration"]
    assert "participant.birthDate: differs (personal data, not shown)" in row["differences"]
    assert "participant.pmis: differs (personal data, not shown)" in row["differences"]
    assert row["note"] == "this may merge two people, which cannot be undone"
    stands = json.dumps(seed.default()["openspecimen"]["participants"][0])
    assert "First1" in stands
    for text in (MARKER, "First1", "Last1", "MRN-0001", "UID-0001", "EMPI-0001", "1971", "1961"):
        assert text not in str(await plan_of(ran))
        assert text not in "".join(await lab.messages(ran, "step: dnd_exception"))
    assert sent == []
    nothing_was_sent(lab)
    assert lab.case(case_id).takings == 0, "a plan takes no lease"


async def test_what_stands_already_is_shown_as_already_so(lab: FlowLab) -> None:
    await lab.flow(request=request())
    effects = lab.effects()
    ran = await lab.flow(request=request(), dry_run=True)
    plan = await plan_of(ran)
    assert plan["registration"]["what would happen"] == "already so"
    assert plan["dnd_exception"]["what would happen"] == "already so"
    assert plan["device"]["note"].startswith("not observable")
    assert lab.effects() == effects


async def test_absent_sections_are_shown_as_not_requested(lab: FlowLab) -> None:
    plan = await plan_of(await lab.flow(request=only("registration"), dry_run=True))
    assert [row["what would happen"] for row in plan.values()] == ["would change", *["not requested"] * 3]
    assert {entry["system"] for entry in lab.calls()} == {"openspecimen"}


async def test_waits_refusals_and_unreadable_systems_are_lines_of_the_plan(lab: FlowLab) -> None:
    lab.control.undispense(STUDY, "test", INVENTORY_ID)
    lab.fault("list_exceptions", "server_error", status=503, when="before")
    ran = await lab.flow(request=request(registration__participant={"id": 4}), dry_run=True)
    assert ran.how == ("COMPLETED", "Planned")
    plan = await plan_of(ran)
    assert (plan["registration"]["what would happen"], plan["registration"]["code"]) == (
        "would be refused",
        "PARTICIPANT_DIFFERS",
    )
    assert (plan["dispensation"]["what would happen"], plan["dispensation"]["code"]) == ("would wait", "NOT_DISPENSED")
    assert plan["device"]["what would happen"] == "would wait"
    assert plan["dnd_exception"]["what would happen"] == "cannot be read now"
    nothing_was_sent(lab)


async def test_no_vendor_text_gets_into_the_plan(lab: FlowLab) -> None:
    lab.fault("read_registration", "refuse", code="CPR_NOT_FOUND", phrase=f"no {MARKER}", when="before")
    plan = await plan_of(await lab.flow(request=only("registration"), dry_run=True))
    assert plan["registration"]["what would happen"] == "would be refused"
    assert MARKER not in str(plan)


async def test_ids_in_the_plan_are_the_vendors_own(lab: FlowLab) -> None:
    await lab.flow(request=only("dnd_exception"))
    (created,) = lab.control.effects(effect="dnd_exception_created")
    plan = await plan_of(await lab.flow(request=only("dnd_exception"), dry_run=True))
    assert plan["dnd_exception"]["note"] == f"exists as {created['key']['dnd_exception_id']}"
    for content in (SITE_ID, KIT_TYPE_ID, VISIT_ID):
        assert content not in str(plan)
