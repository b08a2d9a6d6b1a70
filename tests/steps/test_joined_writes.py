"""Writes that join the next commit: fewer commits, and nothing that is lost with them costs more than another look."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection

from onboarding.endings import Ending
from onboarding.errors import BadInput, LeaseLost
from onboarding.ledger.async_ledger import AsyncLedger
from onboarding.ledger.states import CaseStatus, StepName, StepStatus
from onboarding.ledger.store import CommitUnknown
from onboarding.ledger.together import Taking
from onboarding.ledger.writes import CaseWrite, Lease
from onboarding.steps.attempt import attempt_step
from onboarding.steps.case import work_case
from onboarding.steps.claiming import device_claims, registration_claims
from onboarding.steps.dnd_exception import seen_already
from onboarding.steps.holding import hold
from onboarding.steps.report import StepReport
from onboarding.steps.session import Beside, CaseSession, FindBeside
from tasks.step_task import run_step, working_on
from tests.steps.lab import Lab, cloud_to_cloud, leased, only
from tests.support.commits import commits
from tests.support.requests import STUDY_ID, example
from vendor_sandbox import seed

D = StepName.DISPENSATION


async def see_dispensation(session: CaseSession) -> None:
    for step in (StepName.REGISTRATION, D):
        assert (await attempt_step(session, step)).goes_on


async def test_a_case_is_worked_with_five_commits(lab: Lab) -> None:
    second = await two_cases(lab)
    await list_exceptions(lab)
    with commits() as seen:
        assert (await lab.work(second)).ending is Ending.ONBOARDED
    # taken and registration claimed; intended; applied; dispensation seen and device intended; applied, exception seen, finished
    assert len(seen) == 5
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


# What is known already when the last effect is answered


async def two_cases(lab: Lab) -> str:
    """A case whose exception another one has made before."""
    first, second = [await lab.open(request) for request in (example(), cloud_to_cloud())]
    await lab.work(first)
    return second


async def list_exceptions(lab: Lab) -> None:
    """As others of a batch do."""
    await lab.bench.systems.clinical_one.exceptions_since(STUDY_ID, "test", 0.0, timeout_s=5)


async def test_an_exception_listed_a_moment_ago_is_seen_with_the_answer_of_the_device(lab: Lab) -> None:
    case_id = await two_cases(lab)
    await list_exceptions(lab)
    report = await lab.work(case_id)
    assert (report.steps[-1].step, report.steps[-1].ending) == (StepName.DND_EXCEPTION, Ending.ALREADY_DONE)
    assert report.steps[-1].code == "ALREADY_SO"
    *_, applied, found, finished = lab.trail(case_id)
    assert [(one.kind, one.step) for one in (applied, found, finished)] == [
        ("step_applied", StepName.DEVICE),
        ("step_found", StepName.DND_EXCEPTION),
        ("case_finished", None),
    ]
    assert applied.at == found.at == finished.at
    assert lab.step(case_id, StepName.DND_EXCEPTION).outcome["exception_id"]


async def test_an_exception_that_nobody_listed_lately_is_listed_in_its_turn(lab: Lab) -> None:
    case_id = await two_cases(lab)
    asked = len(lab.calls("list_exceptions"))
    assert (await lab.work(case_id)).ending is Ending.ONBOARDED
    assert len(lab.calls("list_exceptions")) == asked + 1
    *_, applied, found, _ = lab.trail(case_id)
    assert (applied.step, found.step) == (StepName.DEVICE, StepName.DND_EXCEPTION)
    assert applied.at < found.at


async def test_an_exception_that_no_case_knows_is_made_in_its_turn_whatever_was_listed(lab: Lab) -> None:
    case_id = await lab.open(example())
    await list_exceptions(lab)
    report = await lab.work(case_id)
    assert report.steps[-1].code == "CREATED"
    assert lab.effects()["dnd_exception_created"] == 1


async def test_an_exception_that_is_not_in_the_list_is_left_to_its_turn(lab: Lab) -> None:
    case_id = await two_cases(lab)
    lab.fault("list_exceptions", "stale_list", changes=1, nth="every")
    await list_exceptions(lab)
    async with leased(lab.bench, case_id) as session:
        session.beside_last_effect = seen_already
        for step in (StepName.REGISTRATION, D, StepName.DEVICE):
            assert (await attempt_step(session, step)).goes_on
        assert lab.step(case_id, StepName.DND_EXCEPTION).status is StepStatus.PENDING


async def test_work_that_shows_each_step_leaves_the_exception_to_its_own(lab: Lab) -> None:
    case_id = await two_cases(lab)
    await list_exceptions(lab)
    async with leased(lab.bench, case_id) as session:
        for step in (StepName.REGISTRATION, D, StepName.DEVICE):
            assert (await attempt_step(session, step)).goes_on
        assert lab.step(case_id, StepName.DND_EXCEPTION).status is StepStatus.PENDING
        assert (await attempt_step(session, StepName.DND_EXCEPTION)).code == "ALREADY_SO"


def cannot_be_found(_session: CaseSession) -> Beside | None:
    raise BadInput(["nonsense"])


def cannot_be_written(_session: CaseSession) -> Beside | None:
    def change(write: CaseWrite) -> None:
        write.step(StepName.DND_EXCEPTION).found({"half": "written"})
        raise ZeroDivisionError

    return Beside(change)


@pytest.mark.parametrize("beside", [cannot_be_found, cannot_be_written])
async def test_a_fault_in_what_goes_with_an_answer_costs_that_alone(lab: Lab, beside: FindBeside) -> None:
    case_id = await lab.open(example())
    async with leased(lab.bench, case_id) as session:
        session.beside_last_effect = beside
        await see_dispensation(session)
        assert (await attempt_step(session, StepName.DEVICE)).code == "REGISTERED"
        assert lab.step(case_id, StepName.DEVICE).status is StepStatus.DONE
        assert lab.step(case_id, StepName.DND_EXCEPTION).status is StepStatus.PENDING
        assert (await attempt_step(session, StepName.DND_EXCEPTION)).goes_on
    assert lab.effects() == {"registration_updated": 1, "device_registered": 1, "dnd_exception_created": 1}


async def test_an_answer_that_comes_too_late_brings_nothing_with_it(lab: Lab) -> None:
    case_id = await two_cases(lab)
    await list_exceptions(lab)
    async with leased(lab.bench, case_id) as session:
        for step in (StepName.REGISTRATION, D):
            await attempt_step(session, step)
        late = AsyncLedger.fenced

        async def lost(ledger: AsyncLedger, lease: Lease, change: Any, **more: Any) -> Any:
            if lab.effects()["device_registered"] == 2:
                raise LeaseLost("taken over")
            return await late(ledger, lease, change, **more)

        session.beside_last_effect = seen_already
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(AsyncLedger, "fenced", lost)
            with pytest.raises(LeaseLost):
                await attempt_step(session, StepName.DEVICE)
    assert [one.step for one in lab.trail(case_id, "late_answer")] == [StepName.DEVICE]
    assert lab.step(case_id, StepName.DND_EXCEPTION).status is StepStatus.PENDING


# What was claimed with the lease


async def test_what_was_claimed_with_the_lease_is_said_once(lab: Lab) -> None:
    case_id = await lab.open(example())
    async with leased(lab.bench, case_id) as session:
        claims = registration_claims(session)
        assert not session.holds_since_the_lease([*claims, *device_claims(session)])
        assert not session.holds_since_the_lease(claims)
        await session.abandon()
    async with leased(lab.bench, case_id) as session:
        with commits() as seen:
            assert not isinstance(await hold(session, StepName.REGISTRATION, claims), StepReport)
            assert not seen
            assert not isinstance(await hold(session, StepName.REGISTRATION, claims), StepReport)
            assert len(seen) == 1


async def test_a_case_without_a_registration_claims_nothing_with_its_lease(lab: Lab) -> None:
    case_id = await lab.open(only("device"))
    async with leased(lab.bench, case_id) as session:
        assert session.lease.first_claims == ()
        assert session.request.registration is None


# Commits of many


async def test_a_write_that_waits_in_the_ledgers_thread_keeps_no_commit_waiting(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = [await lab.open(example(device__inventory_id=seed.inventory_id(n))) for n in (1, 2, 3, 4, 5)]
    bench, begin, others = lab.bench, lab.bench.ledger.store.begin_write, list[asyncio.Future[None]]()

    def before_its_commit(change: Callable[[Connection], Any]) -> Any:
        commit = begin(change)
        if commit is not None:
            others.append(asyncio.ensure_future(bench.in_thread(bench.ledger.remember_not_before, "nobody", 0.0)))
        return commit

    monkeypatch.setattr(bench.ledger.store, "begin_write", before_its_commit)
    async with asyncio.timeout(20):  # less than such a write waits before it gives up
        taken = await asyncio.gather(
            *(bench.shared.take(Taking(case_id, bench.runner, bench.systems.addresses)) for case_id in cases)
        )
        await asyncio.gather(*others)
    assert all(isinstance(lease, Lease) for lease in taken)
    assert len(others) == 1
