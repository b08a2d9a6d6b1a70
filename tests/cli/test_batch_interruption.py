"""Batches that are stopped: what is said, what is given back, and that the same command goes on without a repetition."""

import os
import signal

import pytest

from tests.cli.batch_lab import effects, many, outcomes
from tests.support.batch_files import csv_text, exception_row, subject_row
from tests.support.installation import Installation, variables
from tests.support.terminal import on_terminal


def assert_all_is_given_back(installation: Installation) -> None:
    assert [case["case"] for case in installation.cases() if case["being_worked"]] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_what_is_under_way_end_and_says_the_command_that_goes_on(
    installation: Installation, number: signal.Signals
) -> None:
    path = many(installation, 6)
    rule = installation.fault("clinical_one", "hold", call="register_device", when="after")
    with installation.started("batch", str(path), "--concurrency", "1") as process:
        installation.control.held(timeout_s=60)
        process.send_signal(number)
        assert process.stderr is not None
        while "Stopping: the cases under way are finished" not in process.stderr.readline():
            assert process.poll() is None
        installation.control.remove_faults(rule)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in err
    assert f"stopped; it goes on with: onboard batch {path} --concurrency 1" in out
    assert "the schedule of resume-cases runs, its cases go on by themselves" in out
    assert outcomes(path) == {"done": 1, "open": 5}, "the case under way was finished, and none was begun"
    assert_all_is_given_back(installation)
    assert installation.run("batch", str(path)).status == 0
    assert effects(installation) == {"registration_updated": 6, "device_registered": 6, "dnd_exception_created": 1}


def test_a_second_signal_stops_at_once_and_leaves_the_doubt_to_the_next_run(installation: Installation) -> None:
    path = many(installation, 4)
    installation.fault("clinical_one", "hold", call="register_device", when="after")
    with installation.started("batch", str(path)) as process:
        installation.control.held(timeout_s=60)
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        while "Stopping: the cases under way" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "Traceback" not in err
    assert_all_is_given_back(installation)
    installation.control.remove_faults()
    again = installation.run("batch", str(path))
    assert again.status == 0, again.out
    found = effects(installation)
    found.pop("access_code_issued", None)  # the question that ended the doubt
    assert found == {"registration_updated": 4, "device_registered": 4, "dnd_exception_created": 1}


def test_work_that_does_not_end_is_cut_off_after_a_few_seconds(installation: Installation) -> None:
    path = many(installation, 1)
    installation.fault("openspecimen", "hold", call="read_registration")
    slow = variables(request_timeout_seconds=60, lease_seconds=90)
    with installation.started("batch", str(path), variables=slow) as process:
        installation.control.held(timeout_s=60)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 1
    assert_all_is_given_back(installation)
    assert outcomes(path) == {"waiting": 1}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_file_is_read_opens_nothing(installation: Installation, number: signal.Signals) -> None:
    installation.run("migrate")
    path = installation.folder / "pipe.csv"
    os.mkfifo(path)
    with installation.started("batch", str(path)) as process:
        with path.open("w") as pipe:
            pipe.write(csv_text([subject_row(1)]))
            pipe.flush()
            while not (batches := _filling(installation)):
                assert process.poll() is None
            process.send_signal(number)
            out, err = process.communicate(timeout=60)
        assert batches
    assert (process.returncode, out) == (1, "")
    assert err.startswith("onboard: Stopped. ")
    assert f"onboard batch {path}" in err
    assert installation.cases() == []


def _filling(installation: Installation) -> int:
    from onboarding.ledger.columns import BATCHES
    from onboarding.ledger.ledger import open_ledger
    from onboarding.settings import load_settings

    ledger = open_ledger(load_settings(installation.environment))
    try:
        return len(ledger.store.read(lambda c: c.execute(BATCHES.select()).all()))
    finally:
        ledger.close()


def test_a_dry_run_that_is_stopped_leaves_no_half_of_a_file(installation: Installation) -> None:
    path = many(installation, 2)
    installation.fault("openspecimen", "hold", call="read_registration", nth="every")
    with installation.started("batch", str(path), "--dry-run") as process:
        installation.control.held(timeout_s=60)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Nothing was sent" in err
    assert [entry.name for entry in installation.folder.glob("*subjects*")] == ["subjects.csv"]


def test_on_a_terminal_each_step_has_a_bar(installation: Installation) -> None:
    path = many(installation, 3)
    rule = installation.fault("clinical_one", "hold", call="register_device", nth=3)

    def let_go(printed: bytes) -> None:
        if b"2 of 3 done" in printed:
            installation.control.remove_faults(rule)

    printed = on_terminal(installation, "batch", str(path), meanwhile=let_go)
    for word in ("registration", "dispensation", "device", "DND exception", "2/3", "2 of 3 done", "3 of 3 done"):
        assert word in printed


def test_elsewhere_there_are_plain_lines_and_few(installation: Installation) -> None:
    path = many(installation, 20, exception_row)
    ran = installation.run("batch", str(path))
    assert ran.status == 0
    assert len(ran.said) <= 2
    assert "\x1b" not in ran.out + ran.err
