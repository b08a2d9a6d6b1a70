"""Every ending of the table is reached by the real flow, with its state's type, name and message."""

import asyncio

import pytest

from onboarding.advice import advice
from onboarding.clocks import boot_seconds
from onboarding.endings import ENDINGS, Ending
from onboarding.ledger.leasing import Runner
from onboarding.ledger.ledger import Ledger
from onboarding.ledger.states import CaseStatus
from onboarding.ledger.store import Store
from onboarding.ledger.writes import Lease
from tests.flows.lab import STEPS, FlowLab, unknown_registration
from tests.steps.lab import STUDY, cloud_to_cloud, leased, only
from tests.support.requests import INVENTORY_ID, example, request
from vendor_sandbox import seed

pytestmark = pytest.mark.prefect
LONG_S = 60


async def test_a_subject_is_onboarded_by_four_tasks(lab: FlowLab) -> None:
    ran = await lab.flow(request=request())
    assert ran.how == ("COMPLETED", "Onboarded")
    (case,) = lab.bench.ledger.cases()
    assert ran.message == f"case {case.id}: every requested step is done."
    assert await lab.steps(ran) == [(step, "COMPLETED", "Completed") for step in STEPS]
    assert lab.effects() == {"registration_updated": 1, "device_registered": 1, "dnd_exception_created": 1}
    assert case.flow_run_id == str(ran.run.id)
    assert lab.bench.ledger.trail_problems(case.id) == []


async def test_sections_that_are_absent_end_not_requested(lab: FlowLab) -> None:
    ran = await lab.flow(request=only("registration"))
    assert ran.how == ("COMPLETED", "Onboarded")
    others = [(step, "COMPLETED", "NotRequested") for step in STEPS[1:]]
    assert await lab.steps(ran) == [("registration", "COMPLETED", "Completed"), *others]


async def test_what_stands_already_ends_already_done(lab: FlowLab) -> None:
    await lab.flow(request=only("registration", "dnd_exception"))
    ran = await lab.flow(request=request())
    assert ran.how == ("COMPLETED", "Onboarded")
    names = [name for _, _, name in await lab.steps(ran)]
    assert names == ["AlreadyDone", "Completed", "Completed", "AlreadyDone"]


async def test_the_same_request_again_is_onboarded_and_sends_nothing(lab: FlowLab) -> None:
    await lab.flow(request=request())
    sent = lab.calls()
    ran = await lab.flow(request=request())
    assert ran.how == ("COMPLETED", "Onboarded")
    assert ran.message.endswith("it was onboarded before; nothing was sent.")
    assert lab.calls() == sent
    assert await lab.steps(ran, 0) == []


async def test_a_device_that_is_not_dispensed_makes_the_case_wait(lab: FlowLab) -> None:
    lab.control.undispense(STUDY, "test", INVENTORY_ID)
    ran = await lab.flow(request=only("device"))
    assert ran.how == ("COMPLETED", "AwaitingDispensation")
    (case,) = lab.bench.ledger.cases()
    assert ran.message == f"case {case.id}: NOT_DISPENSED: {advice('NOT_DISPENSED')}"
    assert await lab.steps(ran, 2) == [
        ("registration", "COMPLETED", "NotRequested"),
        ("dispensation", "COMPLETED", "AwaitingDispensation"),
    ]
    assert case.status is CaseStatus.READY
    lab.control.dispense(STUDY, "test", INVENTORY_ID, seed.subject_id(1))
    again = await lab.flow(case_id=case.id)
    assert again.how == ("COMPLETED", "Onboarded")


async def test_a_long_pause_of_the_vendor_schedules_a_retry(lab: FlowLab) -> None:
    lab.fault("update_registration", "throttle", when="before", retry_after=LONG_S)
    ran = await lab.flow(request=only("registration"))
    assert ran.how == ("COMPLETED", "RetryScheduled")
    (case,) = lab.bench.ledger.cases()
    assert ran.message == f"case {case.id}: THROTTLED: {advice('THROTTLED')}"
    assert await lab.steps(ran, 1) == [("registration", "COMPLETED", "RetryScheduled")]
    assert case.status is CaseStatus.READY
    assert case.due_at is not None
    assert LONG_S - 5 < (case.due_at - case.updated_at).total_seconds() <= LONG_S
    assert case.lease_left_s == 0


async def test_a_refusal_needs_attention_with_its_code_and_what_to_do(lab: FlowLab) -> None:
    lab.fault("update_registration", "refuse", code="CPR_DUP_PPID", when="before")
    ran = await lab.flow(request=request())
    assert ran.how == ("FAILED", "NeedsAttention")
    (case,) = lab.bench.ledger.cases()
    assert ran.message == f"case {case.id}: CPR_DUP_PPID: {advice('CPR_DUP_PPID')}"
    ((name, kind, state),) = await lab.steps(ran, 1)
    assert (name, kind, state) == ("registration", "FAILED", "NeedsAttention")
    assert lab.status(case.id) == (CaseStatus.ATTENTION, "CPR_DUP_PPID")


async def test_the_same_request_again_never_retries_a_refusal_by_itself(lab: FlowLab) -> None:
    lab.fault("update_registration", "refuse", code="CPR_DUP_PPID", when="before", nth="every")
    await lab.flow(request=request())
    sent = lab.calls()
    ran = await lab.flow(request=request())
    assert ran.how == ("FAILED", "NeedsAttention")
    assert "CPR_DUP_PPID" in ran.message
    assert lab.calls() == sent


async def test_a_refused_step_is_tried_again_when_the_flow_is_asked_to(lab: FlowLab) -> None:
    lab.fault("update_registration", "refuse", code="CPR_DUP_PPID", when="before")
    await lab.flow(request=request())
    (case,) = lab.bench.ledger.cases()
    ran = await lab.flow(case_id=case.id, retry_refused=True)
    assert ran.how == ("COMPLETED", "Onboarded")
    assert lab.trail(case.id, "case_resumed")


async def test_another_subject_of_the_same_registration_needs_attention(lab: FlowLab) -> None:
    await lab.flow(request=only("registration"))
    changes = {"registration__id": 1, "registration__participant": {"id": 2}}
    ran = await lab.flow(
        request={k: v for k, v in cloud_to_cloud(**changes).items() if k in ("registration", "subject")}
    )
    assert ran.how == ("FAILED", "NeedsAttention")
    assert "IDENTITY_CONFLICT" in ran.message


async def test_a_case_that_another_run_works_on_is_left_alone(lab: FlowLab) -> None:
    case_id = await lab.open(example())
    async with leased(lab.bench, case_id):
        ran = await lab.flow(case_id=case_id)
    assert ran.how == ("COMPLETED", "HeldByAnotherRun")
    assert ran.message.startswith(f"case {case_id}: another run works on it; its lease ends in ")
    assert lab.calls() == []


async def test_two_runs_of_one_case_at_once_send_each_effect_once(lab: FlowLab) -> None:
    held = lab.fault("update_registration", "hold", when="before")
    first = asyncio.create_task(lab.flow(request=request()))
    await lab.control.wait_held(fault_id=held)
    second = await lab.flow(request=request())
    assert second.how == ("COMPLETED", "HeldByAnotherRun")
    lab.control.remove_faults()
    assert (await first).how == ("COMPLETED", "Onboarded")
    assert lab.effects() == {"registration_updated": 1, "device_registered": 1, "dnd_exception_created": 1}


async def test_runs_of_several_subjects_at_once_in_one_process_do_not_mix(lab: FlowLab) -> None:
    both = await asyncio.gather(lab.flow(request=request()), lab.flow(request=cloud_to_cloud()))
    assert [ran.how for ran in both] == [("COMPLETED", "Onboarded")] * 2
    cases = {case.subject_id: case for case in lab.bench.ledger.cases()}
    for ran, number in zip(both, (1, 2), strict=True):
        case = cases[seed.subject_id(number)]
        assert case.flow_run_id == str(ran.run.id)
        assert {task.name.split()[1] for task in await lab.tasks(ran, 4)} == {case.id}
    assert lab.effects() == {"registration_updated": 2, "device_registered": 2, "dnd_exception_created": 1}


async def test_a_run_that_lost_its_case_stops_and_says_so(lab: FlowLab) -> None:
    """Another runner takes the case over while the first waits between two steps' sends."""
    case_id = await lab.open(example())
    held = lab.fault("dispensation", "hold")
    overtaken = asyncio.create_task(lab.flow(case_id=case_id))
    await lab.control.wait_held(fault_id=held)
    await take_over(lab, case_id)
    lab.control.remove_faults()
    ran = await overtaken
    assert ran.how == ("FAILED", "LeaseLost")
    assert case_id in ran.message
    assert lab.calls("register_device") == []
    assert [name for name, _, _ in await lab.steps(ran, 2)] == ["registration", "dispensation"]


async def test_a_run_that_lost_its_case_in_the_first_step_stops_too(lab: FlowLab) -> None:
    case_id = await lab.open(example())
    held = lab.fault("read_registration", "hold")
    overtaken = asyncio.create_task(lab.flow(case_id=case_id))
    await lab.control.wait_held(fault_id=held)
    await take_over(lab, case_id)
    lab.control.remove_faults()
    ran = await overtaken
    assert ran.how == ("FAILED", "LeaseLost")
    assert [name for name, _, _ in await lab.steps(ran, 1)] == ["registration"]
    assert lab.effects() == {}


async def take_over(lab: FlowLab, case_id: str) -> None:
    """Take a case as after a reboot, when no lease of before counts; the runner learns of it at its next write."""
    store = Store(lab.environment["ONBOARDING_LEDGER_URL"], clock=lambda _: ("another boot", boot_seconds()))
    try:
        bench = lab.bench
        taken = Ledger(store, bench.ledger.key).take(case_id, Runner("successor", 20), bench.systems.addresses)
        assert isinstance(taken, Lease)
    finally:
        store.close()


async def test_a_refused_log_in_is_scheduled_and_never_tried_again(
    lab: FlowLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONBOARDING_OPENSPECIMEN_PASSWORD", "wrong")
    ran = await lab.flow(request=only("registration"))
    assert ran.how == ("COMPLETED", "RetryScheduled")
    (case,) = lab.bench.ledger.cases()
    assert case.blocked
    again = await lab.flow(case_id=case.id)
    assert again.how == ("COMPLETED", "RetryScheduled")
    assert len(lab.calls("login")) == 1


async def test_an_unknown_outcome_needs_attention_and_is_never_sent_again(lab: FlowLab) -> None:
    await unknown_registration(lab)
    (case,) = lab.bench.ledger.cases()
    sent = lab.calls()
    for asked in ({"request": only("registration")}, {"case_id": case.id, "retry_refused": True}):
        ran = await lab.flow(**asked)
        assert ran.how == ("FAILED", "NeedsAttention")
        assert "then decide" in ran.message
    assert lab.calls() == sent


def test_the_names_of_the_endings_are_states_of_prefects_types() -> None:
    assert {facts.state for facts in ENDINGS.values()} == {"COMPLETED", "FAILED", "CANCELLED"}
    assert ENDINGS[Ending.CANCELLED].state == "CANCELLED"
