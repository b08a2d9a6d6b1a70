"""`onboard decide`: what a person sees, what is taken, what is refused, and what becomes of the case."""

import re
import time
from typing import Any

import pytest

from tests.steps.lab import only
from tests.support.installation import Installation, variables
from tests.support.requests import MARKER
from vendor_sandbox import seed

BRIEF = variables(request_timeout_seconds=0.5, settle_seconds=0.1)
QUIET_S = 0.7


def unknown(installation: Installation, *, applied: bool = False, **settings: float) -> str:
    """A case whose update was cut, and whose registration cannot be read back."""
    installation.fault("openspecimen", "cut", call="update_registration", when="after" if applied else "before")
    installation.fault("openspecimen", "refuse", call="read_registration", nth=2, status=400, code="CPR_M_NOT_FOUND")
    chosen = {**BRIEF, **variables(**settings)}
    (said,) = installation.run(
        "subject", installation.request(only("registration")), "--json", variables=chosen
    ).json_lines
    assert (said["status"], said["steps"][0]["status"]) == ("attention", "unknown")
    return str(said["case"])


def refused(installation: Installation) -> str:
    installation.fault("openspecimen", "refuse", call="update_registration", code="CPR_DUP_PPID")
    (said,) = installation.run("subject", installation.request(only("registration")), "--json").json_lines
    assert said["status"] == "attention"
    return str(said["case"])


def decide(installation: Installation, *words: str, reason: str = "looked at it") -> Any:
    return installation.run("decide", *words, "--reason", reason)


def test_an_unknown_outcome_is_shown_with_the_decisions_that_make_sense(installation: Installation) -> None:
    case = unknown(installation)
    for ran in (installation.run("show", case), installation.run("resume", case)):
        assert f"onboard decide {case} applied|absent --reason" in re.sub(r"\s+", " ", ran.out)
        assert "cancel" not in ran.out


def test_an_update_that_was_applied_after_all_is_decided_and_nothing_is_sent(installation: Installation) -> None:
    case = unknown(installation, applied=True)
    sent = len(installation.requests())
    ran = decide(installation, case.lower(), "applied", "--attempt", "1")
    assert (ran.status, ran.err) == (0, "")
    assert f"Case {case}: decided applied; it is done now." in ran.out
    assert len(installation.requests()) == sent
    assert installation.effects() == ["registration_updated"]


def test_an_update_that_is_absent_is_sent_again_when_the_case_is_resumed(installation: Installation) -> None:
    case = unknown(installation)
    time.sleep(QUIET_S)  # nobody signals that a request cannot be applied any more
    ran = decide(installation, case, "absent")
    assert f"it goes on with: onboard resume {case}" in ran.out
    assert installation.run("resume", "--all").status == 0
    assert installation.effects() == ["registration_updated"]


def test_a_decision_prints_one_json_line(installation: Installation) -> None:
    case = refused(installation)
    (said,) = decide(installation, case, "cancel", "--json").json_lines
    assert (said["decided"], said["case"], said["status"]) == ("cancel", case, "cancelled")
    assert installation.run("resume", "--all").status == 0
    assert installation.run("resume", case).status == 2


def test_a_cancelled_case_makes_room_for_the_same_request(installation: Installation) -> None:
    case = refused(installation)
    decide(installation, case, "cancel")
    (said,) = installation.run("subject", installation.request(only("registration")), "--json").json_lines
    assert (said["ending"], said["case"] == case) == ("Onboarded", False)


def test_the_reason_is_shown_and_kept_encrypted(installation: Installation) -> None:
    case = refused(installation)
    assert decide(installation, case, "retry", reason=f"called {MARKER} \udcff").status == 0
    assert f"called {MARKER} \\udcff" in installation.run("show", case).out
    files = [path for path in installation.ledger_file.parent.iterdir() if path.is_file()]
    assert all(MARKER.encode() not in path.read_bytes() for path in files)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("CASE", "absent"), "may still be applied; look again in"),
        (("CASE", "retry"), "what makes sense is: applied, absent"),
        (("CASE", "cancel"), "what makes sense is: applied, absent"),
        (("CASE", "applied", "--attempt", "7"), "has had attempt 1 since, not 7"),
        (("CASE", "applied", "--exception-id", seed.KIT_TYPE_ID), "goes with 'applied' about a DND exception only"),
        (("CASE", "applied", "--exception-id", "X"), "--exception-id"),
        (("NOSUCHCASE00", "retry"), "there is no case NOSUCHCASE00"),
        (("ÄÖÜ", "retry"), "there is no case ÄÖÜ"),
    ],
)
def test_a_decision_that_makes_no_sense_is_refused_in_one_line_and_changes_nothing(
    installation: Installation, words: tuple[str, ...], said: str
) -> None:
    case = unknown(installation, settle_seconds=60, lease_seconds=90)
    before = installation.case()
    ran = decide(installation, *(case if word == "CASE" else word for word in words))
    assert ran.status == 2
    (line,) = ran.said
    assert said in line
    assert installation.case() == before


@pytest.mark.parametrize("words", [("CASE", "maybe", "--reason", "r"), ("CASE", "retry"), ("CASE", "--reason", "r")])
def test_a_decision_that_is_not_complete_is_bad_input(installation: Installation, words: tuple[str, ...]) -> None:
    case = refused(installation)
    ran = installation.run("decide", *(case if word == "CASE" else word for word in words))
    assert ran.status == 2
    assert "onboard decide --help" in ran.err


def test_a_decision_needs_a_reason_that_says_something(installation: Installation) -> None:
    ran = decide(installation, refused(installation), "retry", reason="  ")
    assert ran.status == 2
    assert "needs a reason" in ran.err


def test_a_case_that_a_runner_works_on_is_decided_after_that(installation: Installation) -> None:
    installation.fault("openspecimen", "hold", call="update_registration")
    with installation.started("subject", installation.request(only("registration"))) as process:
        installation.control.held(timeout_s=30)
        case = installation.case()["case"]
        ran = decide(installation, case, "cancel")
        installation.control.remove_faults()
        process.communicate(timeout=30)
    assert ran.status == 2
    assert "a runner works on it; its lease ends in" in ran.err


def test_an_exception_that_was_created_is_decided_with_its_id(installation: Installation) -> None:
    installation.fault("clinical_one", "cut", call="create_exception", when="after")
    installation.fault("clinical_one", "refuse", call="list_exceptions", nth=2, phrase="Invalid study ID or version")
    (said,) = installation.run("subject", installation.request(only("dnd_exception")), "--json").json_lines
    case = said["case"]
    assert said["steps"][3]["status"] == "unknown"
    assert "with --exception-id" in installation.run("show", case).out
    without = decide(installation, case, "applied")
    assert (without.status, "under which id" in without.err) == (2, True)
    (effect,) = installation.control.effects()
    exception_id = next(value for name, value in effect["key"].items() if "exception" in name.lower())
    assert decide(installation, case, "applied", "--exception-id", exception_id).status == 0
    assert installation.case()["steps"][3]["outcome"] == {"decided": "applied", "exception_id": exception_id}
