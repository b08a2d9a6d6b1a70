"""Exit statuses and JSON of every command, in every ending."""

from typing import Any

import pytest

from cli.local import free_port
from onboarding.endings import ENDINGS, EXIT_ONBOARDED
from tests.support.installation import Installation, without
from tests.support.requests import INVENTORY_ID, STUDY_ID, SUBJECT_ID
from vendor_sandbox import seed

CASE_KEYS = [
    "case",
    "study",
    "mode",
    "subject",
    "device",
    "batch",
    "status",
    "reason",
    "what_to_do",
    "due_at",
    "being_worked",
    "times_worked",
    "flow_run",
    "created_at",
    "updated_at",
    "steps",
]
STEP_KEYS = [
    "step",
    "status",
    "in_doubt",
    "attempts",
    "code",
    "http_status",
    "what_to_do",
    "outcome",
    "updated_at",
    "done_at",
]
EVENT_KEYS = ["sequence", "at", "actor", "kind", "step", "code", "detail", "reason"]
NOT_DISPENSED: dict[str, Any] = {
    "registration__id": 5,
    "registration__participant": {"id": 10},
    "registration__ppid": "ASCI500",
    "registration__external_subject_id": "TEST_005",
    "subject__subject_id": seed.subject_id(5),
    "device__inventory_id": seed.inventory_id(5),
}


def test_a_subject_that_is_onboarded_ends_with_0_and_says_every_step(installation: Installation) -> None:
    assert installation.run("migrate").status == 0
    ran = installation.run("subject", installation.request())
    assert (ran.status, ran.err) == (0, "")
    assert "Onboarded" in ran.out
    assert "(not observed: no Prefect API)" in ran.out
    for code in ("UPDATED", "DISPENSED", "REGISTERED", "CREATED"):
        assert code in ran.out
    again = installation.run("subject", installation.request())
    assert again.status == 0
    assert "the case stood already" in again.out
    assert installation.effects() == ["registration_updated", "device_registered", "dnd_exception_created"]


def test_a_prefect_api_that_does_not_answer_is_named_without_its_log_in(installation: Installation) -> None:
    address = f"http://127.0.0.1:{free_port()}/api"
    dead: dict[str, str | None] = {
        "PREFECT_API_URL": address.replace("http://", "http://jane:hunter2@") + "?key=hunter2"
    }
    ran = installation.run("subject", installation.request(), variables=dead)
    looked = installation.run("doctor", variables=dead)
    assert (ran.status, looked.status) == (0, 0)
    assert f"(not observed: no Prefect API answers at {address})" in ran.out
    assert f"Prefect API: none answers at {address}; runs are not observed." in looked.out
    assert "hunter2" not in ran.out + ran.err + looked.out + looked.err


def test_a_request_may_come_from_standard_input(installation: Installation) -> None:
    with open(installation.request(), "rb") as file:  # noqa: PTH123 - bytes as a shell gives them
        assert installation.run("subject", "-", given=file.read()).status == 0


def test_a_device_that_is_not_dispensed_ends_with_3_and_can_be_resumed(installation: Installation) -> None:
    ran = installation.run("subject", installation.request(**NOT_DISPENSED), "--json")
    (said,) = ran.json_lines
    assert (ran.status, said["ending"], said["status"]) == (3, "AwaitingDispensation", "ready")
    assert said["due_at"] is not None
    installation.control.dispense(STUDY_ID, "test", seed.inventory_id(5), seed.subject_id(5), visit_id=seed.VISIT_ID)
    resumed = installation.run("resume", said["case"].lower())
    assert resumed.status == 0
    assert "Onboarded" in resumed.out


def test_a_refusal_ends_with_4_until_its_cause_is_mended(installation: Installation) -> None:
    file = installation.request(registration__ppid="not a ppid")
    ran = installation.run("subject", file, "--json")
    (said,) = ran.json_lines
    assert (ran.status, said["ending"], said["reason"]) == (4, "NeedsAttention", "CPR_INVALID_PPID")
    assert said["steps"][0]["what_to_do"].startswith("The PPID does not have")
    sent = len(installation.requests("update_registration"))
    assert installation.run("subject", file).status == 4, "the same request does not retry a refusal"
    assert len(installation.requests("update_registration")) == sent
    assert f"onboard resume {said['case']}" in installation.run("subject", file).out
    changed = installation.run("subject", installation.request())
    assert "registration was replaced by the changed request" in changed.out
    assert changed.status == 0


def test_an_unavailable_vendor_ends_with_3(installation: Installation) -> None:
    installation.fault("clinical_one", "throttle", call="register_device", retry_after=120)
    ran = installation.run("subject", installation.request())
    assert ran.status == 3
    assert "RetryScheduled" in ran.out
    assert "THROTTLED" in ran.out
    assert installation.case()["due_at"] is not None


def test_an_unknown_outcome_ends_with_4_and_is_not_sent_again(installation: Installation) -> None:
    installation.fault("openspecimen", "cut", call="update_registration", when="after", nth=1)
    installation.fault(
        "openspecimen", "refuse", call="read_registration", nth=2, times=9, status=404, code="CPR_M_NOT_FOUND"
    )
    file = installation.request()
    ran = installation.run("subject", file, "--json")
    (said,) = ran.json_lines
    assert (ran.status, said["steps"][0]["status"]) == (4, "unknown"), said
    assert installation.run("resume", said["case"]).status == 4
    assert len(installation.requests("update_registration")) == 1


def test_a_changed_request_of_a_finished_case_is_refused_with_2(installation: Installation) -> None:
    assert installation.run("subject", installation.request()).status == 0
    case = installation.case()["case"]
    ran = installation.run("subject", installation.request(registration__ppid="ASCI999"))
    assert ran.status == 2
    (line,) = ran.said
    assert case in line
    assert "registration" in line


def test_a_case_that_another_run_holds_ends_with_3(installation: Installation) -> None:
    rule = installation.fault("clinical_one", "hold", call="register_device")
    file = installation.request()
    with installation.started("subject", file) as first:
        installation.control.held(timeout_s=30)
        second = installation.run("subject", file, "--json")
        assert (second.status, second.json_lines[0]["ending"]) == (3, "HeldByAnotherRun")
        assert second.json_lines[0]["being_worked"] is True
        installation.control.remove_faults(rule)
        first.communicate(timeout=30)
        assert first.returncode == 0


def test_a_dry_run_sends_nothing_and_opens_no_case(installation: Installation) -> None:
    file = installation.request()
    ran = installation.run("subject", file, "--dry-run", "--json")
    assert ran.status == 0
    lines = {line["step"]: line for line in ran.json_lines}
    assert list(lines) == ["registration", "dispensation", "device", "dnd_exception"]
    assert all(list(line) == ["step", "action", "code", "note", "may_merge", "changes"] for line in ran.json_lines)
    assert {"field": "ppid", "stands": "ASCI000", "asked": "ASCI123"} in lines["registration"]["changes"]
    assert "not observable" in lines["device"]["note"]
    assert installation.effects() == []
    assert installation.cases() == []
    shown = installation.run("subject", file, "--dry-run")
    assert "ASCI000 -> ASCI123" in shown.out
    assert "nothing was sent" in shown.out


def test_a_dry_run_tells_by_its_status_what_would_wait_or_be_refused(installation: Installation) -> None:
    assert installation.run("subject", installation.request(**NOT_DISPENSED), "--dry-run").status == 3
    assert installation.run("subject", installation.request(registration__id=999), "--dry-run").status == 4


def test_commands_about_cases_print_json_with_these_keys(installation: Installation) -> None:
    (said,) = installation.run("subject", installation.request(), "--json").json_lines
    assert list(said) == ["ending", "observed", "what", *CASE_KEYS]
    (listed,) = installation.run("status", "--json").json_lines
    assert list(listed) == CASE_KEYS
    assert all(list(step) == STEP_KEYS for step in listed["steps"])
    (shown,) = installation.run("show", said["case"], "--json").json_lines
    assert list(shown) == [*CASE_KEYS, "events", "trail_problems"]
    assert all(list(event) == EVENT_KEYS for event in shown["events"])
    assert (shown["study"], shown["subject"], shown["device"]) == (STUDY_ID, SUBJECT_ID, INVENTORY_ID)
    assert shown["trail_problems"] == []
    (resumed,) = installation.run("resume", said["case"], "--json").json_lines
    assert list(resumed) == ["ending", "observed", "what", *CASE_KEYS]
    checks = installation.run("doctor", "--json").json_lines
    assert all(list(check) == ["check", "finding", "what"] for check in checks)


def test_status_lists_the_cases_that_are_asked_for(installation: Installation) -> None:
    assert installation.run("status").status == 1, "there is no ledger yet"
    installation.run("subject", installation.request())
    installation.run("subject", installation.request(**NOT_DISPENSED))
    both = installation.run("status", "--json").json_lines
    assert [case["subject"] for case in both] == [seed.subject_id(5), SUBJECT_ID], "the newest first"
    assert len(installation.run("status", "--json", "--limit", "1").json_lines) == 1
    assert len(installation.run("status", "--json", "--limit", "0").json_lines) == 2
    (done,) = installation.run("status", "--json", "--only", "done").json_lines
    assert done["subject"] == SUBJECT_ID
    assert installation.run("status", "--json", "--only", "cancelled").out == ""
    assert "No such cases" in installation.run("status", "--only", "cancelled").out


def test_a_case_that_is_not_there_ends_with_2(installation: Installation) -> None:
    installation.run("subject", installation.request())
    for words in (("show", "NOSUCHCASE12"), ("resume", "NOSUCHCASE12"), ("show", "\udcff"), ("resume", "\udcff\udcfe")):
        ran = installation.run(*words)
        assert ran.status == 2
        assert "there is no case" in ran.said[0]
    assert installation.run("resume").status == 2


def test_several_cases_are_resumed_with_the_worst_status(installation: Installation) -> None:
    installation.run("subject", installation.request())
    waits = installation.request(**NOT_DISPENSED)
    installation.run("subject", waits)
    cases = [case["case"] for case in installation.cases()]
    ran = installation.run("resume", *cases, "--json")
    assert ran.status == 3
    assert {line["ending"] for line in ran.json_lines} == {"AwaitingDispensation", "Onboarded"}
    unknown = installation.run("resume", cases[0], "NOSUCHCASE12")
    assert (unknown.status, unknown.out) == (2, ""), "nothing is worked if one of them is unknown"


def test_migrate_makes_a_ledger_and_says_what_stands(installation: Installation) -> None:
    first, second = installation.run("migrate"), installation.run("migrate")
    assert (first.status, second.status) == (0, 0)
    assert "(before: none)" in first.out
    assert "already" in second.out
    assert installation.ledger_file.stat().st_mode & 0o077 == 0
    assert installation.ledger_file.with_name("ledger.db.key").stat().st_mode & 0o777 == 0o600


def test_the_doctor_is_content_with_a_good_installation_and_writes_nothing(installation: Installation) -> None:
    ran = installation.run("doctor", "--registration", "1", "--study", STUDY_ID, "--kit", INVENTORY_ID)
    assert ran.status == 0, ran.out
    assert "BAD" not in ran.out
    assert ran.out.count("granted") == 5
    assert not installation.ledger_file.exists()
    assert installation.effects() == []


def test_the_doctor_names_a_missing_right(installation: Installation) -> None:
    installation.fault("clinical_one", "refuse", call="list_exceptions", status=403, phrase="Access denied")
    ran = installation.run("doctor", "--study", STUDY_ID, "--json")
    assert ran.status == 1
    (bad,) = [line for line in ran.json_lines if line["finding"] == "BAD"]
    assert "DND exceptions" in bad["check"]
    assert "ACCESS_DENIED" in bad["what"]


def test_the_doctor_tells_which_connections_are_not_set(installation: Installation) -> None:
    unset = without(*(f"openspecimen_{name}" for name in ("url", "username", "password")))
    ran = installation.run("doctor", variables=unset)
    assert ran.status == 1
    assert "ONBOARDING_OPENSPECIMEN_URL" in ran.out
    assert "Clinical One log-in: granted" in ran.out


@pytest.mark.parametrize("words", [(), ("--help",), ("subject", "--help"), ("--version",), ("show", "--help")])
def test_help_ends_with_0_and_needs_no_settings(installation: Installation, words: tuple[str, ...]) -> None:
    ran = installation.run(*words, variables={"ONBOARDING_MODES": "nonsense"})
    assert (ran.status, ran.err) == (EXIT_ONBOARDED, "")


def test_every_ending_has_an_exit_status_of_the_documented_five() -> None:
    assert {facts.exit_status for facts in ENDINGS.values()} == {0, 1, 2, 3, 4}
