"""Runs that cannot begin: what they were asked for, the settings or the ledger cannot be used, and nothing is sent."""

from pathlib import Path

import pytest

from onboarding.ledger.deciding import Decided, Decision
from tests.flows.lab import FlowLab
from tests.steps.lab import only
from tests.support.requests import example, request

pytestmark = pytest.mark.prefect


@pytest.mark.parametrize("given", [{}, {"request": example(), "case_id": "7K3Q9M2XW4TB"}])
async def test_a_run_needs_a_request_or_a_case_and_not_both(lab: FlowLab, given: dict[str, object]) -> None:
    for dry_run in (False, True):
        ran = await lab.flow(**given, dry_run=dry_run)
        assert ran.how == ("FAILED", "RequestRefused")
        assert "give either a request or a case_id" in ran.message
    assert lab.calls() == []
    assert lab.bench.ledger.cases() == []


async def test_a_request_that_asks_for_nothing_is_refused(lab: FlowLab) -> None:
    ran = await lab.flow(request=only())
    assert ran.how == ("FAILED", "RequestRefused")
    assert "asks for nothing" in ran.message
    assert lab.bench.ledger.cases() == []


async def test_a_mode_that_is_not_allowed_is_refused(lab: FlowLab) -> None:
    for dry_run in (False, True):
        ran = await lab.flow(request=request(subject__mode="active"), dry_run=dry_run)
        assert ran.how == ("FAILED", "RequestRefused")
        assert "subject.mode: 'active' is not allowed here; allowed: test, training (ONBOARDING_MODES)" in ran.message
    assert lab.calls() == []
    assert lab.bench.ledger.cases() == []


async def test_a_changed_request_whose_sections_were_sent_is_refused_and_names_the_case(lab: FlowLab) -> None:
    await lab.flow(request=request())
    (case,) = lab.bench.ledger.cases()
    sent = lab.calls()
    ran = await lab.flow(request=request(registration__external_subject_id="TEST_999"))
    assert ran.how == ("FAILED", "RequestRefused")
    assert case.id in ran.message
    assert "registration" in ran.message
    assert lab.calls() == sent


async def test_a_case_that_is_not_there_fails_and_names_it(lab: FlowLab) -> None:
    for dry_run in (False, True):
        ran = await lab.flow(case_id="7K3Q9M2XW4TB", dry_run=dry_run)
        assert ran.how[0] == "FAILED"
        assert "there is no case 7K3Q9M2XW4TB" in ran.message


async def test_settings_that_cannot_be_used_fail_and_are_named(lab: FlowLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONBOARDING_LEASE_SECONDS", "many")
    ran = await lab.flow(request=request())
    assert ran.how == ("FAILED", "Failed")
    assert ran.message.startswith("ONBOARDING_LEASE_SECONDS: ")
    assert lab.calls() == []


async def test_a_ledger_without_its_key_fails_before_anything_is_sent(
    lab: FlowLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ONBOARDING_LEDGER_KEY")
    ran = await lab.flow(request=request())
    assert ran.how == ("FAILED", "Failed")
    assert "ONBOARDING_LEDGER_KEY" in ran.message
    assert lab.calls() == []


async def test_a_ledger_that_cannot_be_opened_fails_and_says_where(
    lab: FlowLab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place = tmp_path / "a folder"
    place.mkdir()
    monkeypatch.setenv("ONBOARDING_LEDGER_URL", f"sqlite:///{place}")
    ran = await lab.flow(request=request())
    assert ran.how == ("FAILED", "Failed")
    assert "ledger" in ran.message
    assert lab.calls() == []


async def test_a_case_that_a_person_cancelled_is_not_worked(lab: FlowLab) -> None:
    case_id = await lab.open(example())
    await lab.bench.decide(case_id, Decided(Decision.CANCEL, "a person", "asked for by mistake"))
    ran = await lab.flow(case_id=case_id)
    assert ran.how == ("FAILED", "RequestRefused")
    assert ran.message == f"case {case_id}: it is cancelled and cannot be worked."
    assert lab.calls() == []


async def test_a_case_of_a_mode_that_is_not_allowed_any_more_is_not_worked(
    lab: FlowLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    case_id = await lab.open(example())
    monkeypatch.setenv("ONBOARDING_MODES", "training")
    for dry_run in (False, True):
        ran = await lab.flow(case_id=case_id, dry_run=dry_run)
        assert ran.how == ("FAILED", "RequestRefused")
        assert "subject.mode: 'test' is not allowed here" in ran.message
    assert lab.calls() == []
