"""Writes that join the next commit: fewer commits, and nothing that is lost with them costs more than another look."""

import pytest

from onboarding.endings import Ending
from onboarding.errors import LeaseLost
from onboarding.ledger.states import CaseStatus, StepName, StepStatus
from onboarding.ledger.store import CommitUnknown
from onboarding.steps.attempt import attempt_step
from onboarding.steps.case import work_case
from onboarding.steps.session import CaseSession
from tasks.step_task import run_step, working_on
from tests.steps.lab import Lab, cloud_to_cloud, leased
from tests.support.commits import commits
from tests.support.requests import STUDY_ID, example

D = StepName.DISPENSATION


async def see_dispensation(session: CaseSession) -> None:
    for step in (StepName.REGISTRATION, D):
        assert (await attempt_step(session, step)).goes_on


async def test_a_case_is_worked_with_seven_commits(lab: Lab) -> None:
    first, second = [await lab.open(request) for request in (example(), cloud_to_cloud())]
    await lab.work(first)
    await lab.bench.systems.clinical_one.exceptions_since(
        STUDY_ID, "test", 0.0, timeout_s=5
    )  # as others of its batch do
    with commits() as seen:
        assert (await lab.work(second)).ending is Ending.ONBOARDED
    # taken; registration claimed, intended, applied; dispensation and device intended; applied; exception seen and finished
    assert len(seen) == 7
    assert lab.effects() == {"registration_updated": 2, "device_registered": 2, "dnd_exception_created": 1}


async def test_a_case_is_finished_with_the_commit_of_its_last_step(lab: Lab) -> None:
    case_id = await lab.open(example())
    async with leased(lab.bench, case_id) as session:
        for step in StepName:
            assert lab.case(case_id).status is CaseStatus.READY
            await attempt_step(session, step)
        assert lab.case(case_id).status is CaseStatus.DONE
        with commits() as seen:
            await session.finish()
        assert not seen
    assert [event.kind for event in lab.trail(case_id)][-2:] == ["step_applied", "case_finished"]


async def test_a_case_whose_first_step_is_done_last_is_finished_with_it(lab: Lab) -> None:
    case_id = await lab.open(example())
    async with leased(lab.bench, case_id) as session:
        for step in (D, StepName.DEVICE, StepName.DND_EXCEPTION):
            assert (await attempt_step(session, step)).goes_on
        assert lab.case(case_id).status is CaseStatus.READY
        report = await work_case(session)
    endings = [step.ending for step in report.steps]
    assert (report.ending, endings) == (Ending.ONBOARDED, [Ending.DONE, *[Ending.ALREADY_DONE] * 3])
    assert lab.case(case_id).status is CaseStatus.DONE


async def test_work_that_is_interrupted_after_its_end_has_no_lease_to_give_back(lab: Lab) -> None:
    case_id = await lab.open(example())

    async def interrupted() -> None:
        async with leased(lab.bench, case_id) as session:
            await work_case(session)
            with commits() as seen:
                await session.abandon()
            assert not seen
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await interrupted()
    assert lab.trail(case_id)[-1].kind == "case_finished"


async def test_what_was_seen_stands_before_anything_is_sent_by_it(lab: Lab) -> None:
    case_id = await lab.open(example())
    lab.fault("register_device", "cut", when="after")
    await lab.attempt(case_id)
    kinds = [(event.kind, event.step) for event in lab.trail(case_id)]
    assert kinds.index(("step_found", D)) < kinds.index(("step_intent", StepName.DEVICE))


async def test_a_task_leaves_in_the_ledger_what_it_says_is_done(lab: Lab) -> None:
    case_id = await lab.open(example())
    async with leased(lab.bench, case_id) as session:
        await attempt_step(session, StepName.REGISTRATION)
        with working_on(session):
            state = await run_step(case_id, D)
        assert state.is_completed()
        assert lab.step(case_id, D).status is StepStatus.DONE


async def test_work_that_is_interrupted_keeps_what_was_seen(lab: Lab) -> None:
    case_id = await lab.open(example())

    async def interrupted() -> None:
        async with leased(lab.bench, case_id) as session:
            await see_dispensation(session)
            assert lab.step(case_id, D).status is StepStatus.PENDING
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await interrupted()
    assert lab.step(case_id, D).status is StepStatus.DONE


async def test_a_write_that_fails_does_not_take_what_was_seen_with_it(lab: Lab) -> None:
    case_id = await lab.open(example())

    def fails(_write: object) -> None:
        raise ZeroDivisionError

    async with leased(lab.bench, case_id) as session:
        await see_dispensation(session)
        with pytest.raises(ZeroDivisionError):
            await session.commit(fails)
        assert lab.step(case_id, D).status is StepStatus.PENDING
        await session.flush()
        assert lab.step(case_id, D).status is StepStatus.DONE
        assert (await work_case(session)).ending is Ending.ONBOARDED


@pytest.mark.parametrize("error", [LeaseLost("lost"), CommitUnknown("unknown")], ids=["lost lease", "commit unknown"])
async def test_what_was_seen_is_not_written_again_when_nobody_knows_what_stands(lab: Lab, error: Exception) -> None:
    case_id = await lab.open(example())

    def fails(_write: object) -> None:
        raise error

    async with leased(lab.bench, case_id) as session:
        await see_dispensation(session)
        with pytest.raises(type(error)):
            await session.commit(fails)
        with commits() as seen:
            await session.flush()
        assert not seen
        session.lease.lost = True
