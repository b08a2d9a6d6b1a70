"""A request that the ledger's key does not open: nobody keeps the case, and a person is asked."""

import asyncio

import pytest
from sqlalchemy import select, update

from onboarding.advice import advice
from onboarding.endings import Ending
from onboarding.errors import BadInput, LedgerError
from onboarding.ledger.columns import CASES
from onboarding.ledger.leasing import REQUEST_UNREADABLE, Closed
from onboarding.ledger.opening import request_place
from onboarding.ledger.states import CaseStatus
from tests.steps.lab import Lab
from tests.support.requests import example


def damage(lab: Lab, case_id: str) -> bytes:
    """Overwrite a case's sealed request; gives what was there."""
    return seal(lab, case_id, b"\1" + bytes(40))


def seal(lab: Lab, case_id: str, sealed: bytes) -> bytes:
    store, chosen = lab.bench.ledger.store, CASES.c.id == case_id
    before = store.read(
        lambda connection: connection.execute(select(CASES.c.request_sealed).where(chosen)).scalar_one()
    )
    store.write(lambda connection: connection.execute(update(CASES).where(chosen).values(request_sealed=sealed)))
    return bytes(before)


async def test_a_case_whose_request_cannot_be_decrypted_asks_for_a_person_and_is_held_by_nobody(lab: Lab) -> None:
    case_id = await lab.open(example())
    right = damage(lab, case_id)
    with pytest.raises(LedgerError, match="cannot be decrypted"):
        await lab.work(case_id)
    async with lab.another_bench() as another, another.session(case_id) as session:
        assert session == Closed(CaseStatus.ATTENTION, REQUEST_UNREADABLE)
    assert "same backup" in str(advice(REQUEST_UNREADABLE))
    assert await lab.bench.find_due(10) == [], "or it would be tried again and again"
    seal(lab, case_id, right)
    assert (await lab.work(case_id, retry=True)).ending is Ending.ONBOARDED


async def test_a_case_whose_request_this_version_does_not_take_asks_for_a_person_and_is_held_by_nobody(
    lab: Lab,
) -> None:
    case_id = await lab.open(example())
    sealed = lab.bench.ledger.key.encrypt(b'{"subject": {"study": "of another version"}}', request_place(case_id))
    seal(lab, case_id, sealed)
    with pytest.raises(BadInput):
        await lab.work(case_id)
    async with lab.another_bench() as another, another.session(case_id) as session:
        assert session == Closed(CaseStatus.ATTENTION, REQUEST_UNREADABLE)
    assert "install the version" in str(advice(REQUEST_UNREADABLE))


async def test_a_runner_that_is_cancelled_while_it_takes_such_a_case_stays_cancelled_and_leaves_it(lab: Lab) -> None:
    case_id = await lab.open(example())
    damage(lab, case_id)
    taking = asyncio.create_task(lab.work(case_id))
    await asyncio.sleep(0)
    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking
    async with lab.bench.session(case_id) as session:
        assert session == Closed(CaseStatus.ATTENTION, REQUEST_UNREADABLE)
