"""Commands that are stopped while they work: what they say, and what the ledger knows afterwards."""

import os
import signal

import pytest

from tests.support.installation import IGNORING_SIGINT, Installation

EVERY_EFFECT = ["registration_updated", "device_registered", "dnd_exception_created"]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_in_the_middle_of_a_send_says_how_to_go_on_and_can_be_resumed(
    installation: Installation, number: signal.Signals, when: str
) -> None:
    rule = installation.fault("clinical_one", "hold", call="register_device", when=when)
    with installation.started("subject", installation.request()) as process:
        installation.control.held(timeout_s=30)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (1, "")
    assert "Traceback" not in err
    assert "onboard resume CASE" in err
    case = installation.case()
    assert (case["status"], case["reason"], case["being_worked"]) == ("ready", "INTERRUPTED", False)
    assert [step["status"] for step in case["steps"]] == ["done", "done", "open", "pending"]
    installation.control.remove_faults(rule)
    resumed = installation.run("resume", case["case"])
    assert resumed.status == 0, resumed.out
    effects = installation.effects()
    assert [effect for effect in effects if effect != "access_code_issued"] == EVERY_EFFECT
    assert effects.count("access_code_issued") == 1, "the question that ended the doubt"
    (shown,) = installation.run("show", case["case"], "--json").json_lines
    assert shown["trail_problems"] == []


def test_a_run_in_the_background_of_a_script_which_ignores_ctrl_c_is_stopped_by_sigterm(
    installation: Installation,
) -> None:
    installation.fault("clinical_one", "hold", call="register_device", when="before")
    with installation.started("subject", installation.request(), under=IGNORING_SIGINT) as process:
        installation.control.held(timeout_s=30)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "onboard resume CASE" in err
    assert not installation.case()["being_worked"]


def test_a_dry_run_can_be_stopped(installation: Installation) -> None:
    installation.fault("clinical_one", "hold", call="dispensation")
    with installation.started("subject", installation.request(), "--dry-run") as process:
        installation.control.held(timeout_s=30)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "onboard: Stopped." in err
    assert installation.cases() == []


def test_a_second_signal_does_no_harm(installation: Installation) -> None:
    installation.fault("clinical_one", "hold", call="register_device", when="after")
    with installation.started("subject", installation.request()) as process:
        installation.control.held(timeout_s=30)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
    assert process.returncode != 0
    assert "Traceback" not in err
    (step,) = [step for step in installation.case()["steps"] if step["step"] == "device"]
    assert (step["status"], step["attempts"]) == ("open", 1)


@pytest.mark.parametrize(
    ("words", "unbuffered"),
    [
        (("status",), None),
        (("status", "--json"), "1"),
        (("show", "CASE"), None),
        (("doctor", "--json"), None),
        (("--help",), None),
    ],
)
def test_a_reader_that_goes_away_is_no_fault_worth_a_word(
    installation: Installation, words: tuple[str, ...], unbuffered: str | None
) -> None:
    installation.run("subject", installation.request())
    case = installation.case()["case"]
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        words = tuple(case if word == "CASE" else word for word in words)
        with installation.started(*words, stdout=closed, variables={"PYTHONUNBUFFERED": unbuffered}) as process:
            _, err = process.communicate(timeout=60)
    assert err == ""
    assert process.returncode in (0, 1)


def test_the_work_is_done_even_if_nobody_reads_about_it(installation: Installation) -> None:
    assert installation.run("migrate").status == 0
    reader, writer = os.pipe()
    os.close(reader)
    with (
        os.fdopen(writer, "w") as closed,
        installation.started("subject", installation.request(), stdout=closed) as run,
    ):
        assert run.communicate(timeout=60)[1] == ""
    assert installation.case()["status"] == "done"
