"""Several processes share a batch: each effect once, within one's limits, whoever of them dies, stops or meets a dead vendor."""

import asyncio
import gc
import logging
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from onboarding.batch import children
from onboarding.batch.child import Answer, Start
from onboarding.batch.children import PROCESS_ENDED, Children, Crew, ProcessesEnd, hands_for, others, several
from onboarding.batch.engine import Hands, Here, Worked, one_by_one, work_cases
from onboarding.batch.intake import take_in_file
from onboarding.endings import Ending
from onboarding.ledger.states import CaseStatus, StepName
from onboarding.ledger.store import StoreGone
from onboarding.settings import Settings
from onboarding.vendors.dispensation import ConnectionType
from tests.steps.lab import Lab, laboratory
from tests.support.batch_files import csv_text, subject_row
from vendor_sandbox import seed

CASES = 12


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    async with laboratory(tmp_path, world=seed.many(CASES), lease_seconds=3) as running:
        yield running


@pytest.fixture
async def patient(tmp_path: Path) -> AsyncIterator[Lab]:
    """Its requests wait for as long as it takes until all are held, however busy the machine is."""
    world = seed.many(CASES)
    async with laboratory(tmp_path, world=world, lease_seconds=3, request_timeout_seconds=8) as running:
        yield running


async def opened(lab: Lab) -> list[str]:
    path = Path(lab.effect_log).with_name("subjects.csv")
    path.write_text(csv_text(subject_row(number) for number in range(1, CASES + 1)))
    bench = lab.bench
    intake = await bench.in_thread(
        lambda: take_in_file(bench.ledger, path, addresses=bench.systems.addresses, actor="t", settings=bench.settings)
    )
    return await bench.find_due(CASES, intake.batch_id)


async def worked(hands: Hands, cases: Iterable[str], *, lanes: int = CASES) -> list[Worked]:
    found: list[Worked] = []
    await work_cases(hands, one_by_one(cases), lanes=lanes, told=found.append, stop=asyncio.Event())
    return found


@asynccontextmanager
async def one_other(lab: Lab) -> AsyncIterator[Children]:
    """One process that does all, so that it is the one that is looked at."""
    async with others(lab.bench, lab.bench.settings, 1) as hands:
        yield hands


def start_of(lab: Lab) -> Start:
    found = lab.bench
    return Start(
        settings=found.settings, connections=found.connections, actor="t", flow_run_id="f", level=logging.WARNING
    )


def connection(lab: Lab, case_id: str) -> ConnectionType:
    return ConnectionType(lab.step(case_id, StepName.DEVICE).intent.facts["connection"])


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_processes_share_the_cases_and_each_effect_happens_once(lab: Lab) -> None:
    cases = await opened(lab)
    async with several(lab.bench, 2) as hands:
        pids = hands.others.pids
        found = await worked(hands, cases)
    assert len(pids) == 1, "this process is one of the two"
    assert Counter(one.ending for one in found) == {Ending.ONBOARDED: CASES}
    assert lab.effects() == {"registration_updated": CASES, "device_registered": CASES, "dnd_exception_created": 1}
    assert len(lab.calls("token")) == 2, "both of them worked"
    assert not any(map(is_running, pids))
    actors = {event.actor for case_id in cases for event in lab.trail(case_id, "lease_taken")}
    assert actors == {lab.bench.runner.actor}


async def test_a_process_that_is_killed_is_replaced_and_its_cases_are_worked_after_their_leases(patient: Lab) -> None:
    lab = patient
    cases = await opened(lab)
    lab.fault("register_device", "hold", nth="every")
    async with several(lab.bench, 2) as hands:
        working = asyncio.ensure_future(worked(hands, cases))
        await lab.control.wait_held(CASES)
        (killed,) = hands.others.pids
        os.kill(killed, signal.SIGKILL)
        lab.control.remove_faults()
        lab.control.release()
        found = await working
        assert Counter(one.code for one in found if one.ending is None) == {PROCESS_ENDED: CASES // 2}
        assert sum(one.ending is Ending.ONBOARDED for one in found) == CASES // 2
        left = {one.case_id for one in found if one.ending is None}
        by_device = sum(connection(lab, case_id) is ConnectionType.DEVICE_TO_CLOUD for case_id in left)
        async with asyncio.timeout(30):
            while left:
                due = [case_id for case_id in await lab.bench.find_due(CASES) if case_id in left]
                again = await worked(hands, due)
                left -= {one.case_id for one in again if one.ending is Ending.ONBOARDED}
                await asyncio.sleep(0.05)
        assert killed not in hands.others.pids
        assert len(hands.others.pids) == 1
    changes = lab.changes()
    # They settle the doubts about device-to-cloud devices, of which by chance the killed one may have had none. Ours are in
    # doubt too if it took longer until all were held than a request may last.
    probes = changes.pop("access_code_issued", 0)
    assert by_device <= probes <= CASES // 2
    assert changes == {"registration_updated": CASES, "device_registered": CASES, "dnd_exception_created": 1}


async def test_work_that_is_cut_off_gives_every_lease_back_and_leaves_no_process(lab: Lab) -> None:
    cases = await opened(lab)
    lab.fault("read_registration", "hold", nth="every")
    pids: list[int] = []

    async def work() -> None:
        async with several(lab.bench, 2) as hands:
            pids.extend(hands.others.pids)
            await worked(hands, cases)

    working = asyncio.ensure_future(work())
    await lab.control.wait_held(CASES)
    working.cancel()
    await asyncio.wait({working})
    assert working.cancelled()
    assert not any(map(is_running, pids))
    assert sorted(await lab.bench.find_due(CASES)) == sorted(cases), "no case is leased"
    assert {lab.case(case_id).reason for case_id in cases} == {"INTERRUPTED"}


async def test_whoever_loses_interest_in_its_cases_has_them_cut_off_too(lab: Lab) -> None:
    cases = await opened(lab)
    lab.fault("read_registration", "hold", nth="every")
    async with several(lab.bench, 2) as hands:
        working = asyncio.ensure_future(worked(hands, cases))
        await lab.control.wait_held(CASES)
        working.cancel()
        await asyncio.wait({working})
    assert sorted(await lab.bench.find_due(CASES)) == sorted(cases), "no case is leased"


async def test_a_process_whose_parent_is_gone_ends_what_it_began_and_itself(lab: Lab) -> None:
    cases = await opened(lab)
    lab.fault("register_device", "hold", nth="every")
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "onboarding.batch.child", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(start_of(lab).line() + f"{cases[0]}\n{cases[1]}\n".encode())
    await lab.control.wait_held(2)
    child.stdin.close()  # as the system does it when a process is killed
    lab.control.remove_faults()
    lab.control.release()
    said = [Answer.model_validate_json(line) async for line in child.stdout]
    assert await child.wait() == 0
    assert [one.worked.ending for one in said if one.worked is not None] == [Ending.ONBOARDED] * 2
    assert lab.changes()["device_registered"] == 2


async def test_a_vendor_that_one_process_is_to_leave_alone_gets_no_case_from_any(lab: Lab) -> None:
    cases = await opened(lab)
    lab.fault("read_registration", "throttle", retry_after=60)
    async with several(lab.bench, 2) as hands:
        found: list[Worked] = []
        closed_s = await work_cases(hands, one_by_one(cases), lanes=2, told=found.append, stop=asyncio.Event())
        assert 50 < closed_s < 70
        assert {(one.ending, one.code) for one in found} == {(Ending.RETRY_SCHEDULED, "THROTTLED")}
    assert len(found) < CASES


async def test_a_ledger_that_is_gone_ends_the_work(lab: Lab, tmp_path: Path) -> None:
    cases = await opened(lab)
    lost = tmp_path / "not" / "there.db"
    lab.bench.settings = lab.bench.settings.model_copy(update={"ledger_url": f"sqlite:///{lost}"})
    lost.parent.write_text("in its way")
    with pytest.raises(StoreGone, match="ledger"):
        async with one_other(lab) as hands:
            await worked(hands, cases)


async def test_processes_that_end_again_and_again_are_given_up_with_a_way_out(
    lab: Lab, capfd: pytest.CaptureFixture[str]
) -> None:
    cases = await opened(lab)
    secret = lab.bench.connections.clinical_one
    assert secret is not None
    hands = Children(start_of(lab).line().replace(b'"actor"', b'"who"'), 1, deaths=1)
    await hands.begin()
    found = [await hands.work(case_id) for case_id in cases[:2]]
    assert [(one.ending, one.code) for one in found] == [(None, PROCESS_ENDED)] * 2
    with pytest.raises(ProcessesEnd, match="ONBOARDING_PROCESSES=1"):
        await hands.work(cases[0])
    await hands.end()
    printed = capfd.readouterr().err
    assert "ValidationError" in printed
    assert secret.client_secret.get_secret_value() not in printed


async def test_a_process_that_is_not_understood_is_ended_and_replaced(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cases = await opened(lab)
    babbles = tmp_path / "babbles"
    babbles.write_text("#!/bin/sh\nread start\nread case\necho no answer of ours\nexec cat\n")
    babbles.chmod(0o700)
    hands = Children(start_of(lab).line(), 1)
    with monkeypatch.context() as there:
        there.setattr(sys, "executable", str(babbles))
        await hands.begin()
    found = await asyncio.wait_for(hands.work(cases[0]), 30)
    assert (found.ending, found.code) == (None, PROCESS_ENDED)
    assert (await hands.work(cases[0])).ending is Ending.ONBOARDED
    await hands.end()


async def test_a_process_whose_answers_cannot_be_said_ends_so_that_nobody_waits_for_them(lab: Lab) -> None:
    cases = await opened(lab)
    full = os.open("/dev/full", os.O_WRONLY)
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "onboarding.batch.child", stdin=asyncio.subprocess.PIPE, stdout=full
    )
    os.close(full)
    assert child.stdin is not None
    child.stdin.write(start_of(lab).line() + f"{cases[0]}\n".encode())
    assert await asyncio.wait_for(child.wait(), 60) == 1
    child.stdin.close()
    assert lab.case(cases[0]).status is CaseStatus.DONE


async def test_a_process_that_is_told_nothing_ends(lab: Lab) -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "onboarding.batch.child", stdin=asyncio.subprocess.PIPE
    )
    assert child.stdin is not None
    child.stdin.close()
    assert await asyncio.wait_for(child.wait(), 30) == 0
    assert lab.calls() == []


async def test_modules_of_the_folder_where_it_runs_are_not_imported(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cases = await opened(lab)
    foreign = tmp_path / "foreign"
    (foreign / "onboarding" / "batch").mkdir(parents=True)
    for place in (foreign / "logging.py", foreign / "onboarding" / "batch" / "child.py"):
        place.write_text("import sys\nsys.exit(3)\n")
    monkeypatch.chdir(foreign)
    async with one_other(lab) as hands:
        (found,) = await worked(hands, cases[:1])
    assert found.ending is Ending.ONBOARDED


async def test_ctrl_c_in_the_terminal_reaches_this_process_alone(lab: Lab) -> None:
    cases = await opened(lab)
    async with one_other(lab) as hands:
        assert all(os.getpgid(pid) == pid != os.getpgrp() for pid in hands.pids)
        await worked(hands, cases[:1])


async def test_secrets_stand_in_neither_arguments_nor_environment(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in lab.environment.items():  # where this process has them from
        monkeypatch.setenv(name, value)
    cases = await opened(lab)
    found = lab.bench.connections
    assert found.clinical_one is not None
    assert found.openspecimen is not None
    secrets = [found.clinical_one.client_secret, found.openspecimen.password]
    async with one_other(lab) as hands:
        await worked(hands, cases[:1])  # so it knows them
        for name in ("cmdline", "environ"):
            shown = await asyncio.to_thread(Path(f"/proc/{hands.pids[0]}/{name}").read_text, "utf-8")
            assert not any(secret.get_secret_value() in shown for secret in secrets)


async def test_log_lines_of_the_processes_are_this_ones(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="onboarding")
    cases = await opened(lab)
    lab.fault("read_registration", "throttle", retry_after=1)
    async with one_other(lab) as hands:
        await worked(hands, cases[:1])
    (line,) = [record for record in caplog.records if "status=429" in record.getMessage()]
    assert (line.name, line.process) == ("onboarding.vendors", os.getpid())


def test_together_they_keep_within_the_limits_of_one() -> None:
    settings = Settings(ledger_url="sqlite:////l.db", requests_in_flight=32, requests_per_second=100, processes=4)
    share = children.share(settings, 4)
    assert (share.requests_in_flight, share.requests_per_second, share.processes) == (8, 25, 1)
    few = children.share(Settings(ledger_url="sqlite:////l.db", requests_in_flight=5), 4)
    assert (few.requests_in_flight, few.requests_per_second) == (1, None)


async def test_what_is_told_is_read_as_it_was(lab: Lab) -> None:
    start = start_of(lab)
    assert Start.read(start.line()) == start
    assert start.line().count(b"\n") == 1


async def test_garbage_is_looked_for_as_often_as_before_once_the_work_is_done(lab: Lab) -> None:
    usual = gc.get_threshold()
    async with several(lab.bench, 2):
        assert gc.get_threshold()[0] > usual[0]
    assert gc.get_threshold() == usual


async def test_each_case_goes_to_whoever_has_the_fewest_in_hand(lab: Lab) -> None:
    cases = await opened(lab)
    lab.fault("read_registration", "hold", nth="every")
    async with several(lab.bench, 2) as hands:
        working = asyncio.ensure_future(worked(hands, cases))
        await lab.control.wait_held(CASES)
        assert hands.others.fewest_in_hand == CASES // 2
        lab.control.remove_faults()
        lab.control.release()
        assert {one.ending for one in await working} == {Ending.ONBOARDED}


async def test_few_cases_are_worked_by_this_process(lab: Lab) -> None:
    lab.bench.settings = lab.bench.settings.model_copy(update={"processes": 9})
    async with hands_for(lab.bench, children.WORTH_IT - 1) as hands:
        assert isinstance(hands, Here)
    lab.bench.settings = lab.bench.settings.model_copy(update={"requests_in_flight": 1})
    async with hands_for(lab.bench, children.WORTH_IT) as hands:
        assert isinstance(hands, Here), "more processes than requests at a time"
    lab.bench.settings = lab.bench.settings.model_copy(update={"requests_in_flight": 32})
    async with hands_for(lab.bench, children.WORTH_IT) as hands:
        assert isinstance(hands, Crew)
        assert hands.processes == 2
    lab.bench.settings = lab.bench.settings.model_copy(update={"processes": 1})
    async with hands_for(lab.bench, children.WORTH_IT) as hands:
        assert isinstance(hands, Here)
