"""`onboard batch`: what is said about bad files, what becomes of the rows of good ones, and that nothing happens twice."""

from collections import Counter

import pytest

from tests.cli.batch_lab import effects, errors, many, outcomes, results, written
from tests.support.batch_files import csv_text, exception_row, json_lines, read_csv, subject_row
from tests.support.installation import Installation, variables
from tests.support.requests import example
from vendor_sandbox import seed

BAD = {"registration__id": "none"}


def all_effects(subjects: int) -> dict[str, int]:
    """Each effect once for each subject, and the exception once for all."""
    return {"registration_updated": subjects, "device_registered": subjects, "dnd_exception_created": 1}


# Files that are refused


def test_one_bad_row_keeps_the_file_out_and_every_problem_is_told(installation: Installation) -> None:
    path = written(installation, subject_row(1), subject_row(2, **BAD), subject_row(3, subject__mode="active"))
    assert installation.run("migrate").status == 0
    ran = installation.run("batch", str(path))
    assert (ran.status, ran.out) == (2, "")
    problem, mode, summary = ran.said
    assert problem.startswith("row 2 (line 3): registration.id: ")
    assert mode.startswith("row 3 (line 4): subject.mode: 'active' is not allowed here")
    assert "2 of 3 rows have problems" in summary
    assert "--skip-bad" in summary
    assert [row["row"] for row in results(path)] == ["2", "3"]
    assert installation.cases() == []
    assert installation.requests() == []


def test_in_json_every_problem_is_a_line(installation: Installation) -> None:
    path = written(installation, *(subject_row(number, **BAD) for number in range(1, 61)))
    ran = installation.run("batch", str(path), "--json")
    assert ran.status == 2
    *problems, summary = ran.json_lines
    assert [line["row"] for line in problems] == list(range(1, 61))
    assert {line["column"] for line in problems} == {"registration.id"}
    assert (summary["released"], summary["bad_rows"]) == (False, 60)
    plain = installation.run("batch", str(path))
    assert len(plain.said) == 51, "a screen takes no more"
    assert str(path.with_name("subjects.results.csv")) in plain.said[-1]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "holds nothing"),
        (b"name,age\nAda,7\n", "must name the columns"),
        (b"PK\x03\x04", "Excel workbook"),
        (b'subject.study_id,subject.mode,subject.subject_id\n"a', "a quote in it is never closed"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(installation: Installation, content: bytes, says: str) -> None:
    path = installation.folder / "subjects.csv"
    path.write_bytes(content)
    ran = installation.run("batch", str(path))
    assert ran.status == 2
    assert says in "\n".join(ran.said)
    assert installation.cases() == []


def test_a_folder_that_takes_no_results_is_said_and_the_work_is_done(installation: Installation) -> None:
    path = many(installation, 1, exception_row)
    path.with_name("subjects.results.csv").mkdir()
    ran = installation.run("batch", str(path))
    assert ran.status == 1
    assert any("subjects.results.csv: cannot be written" in line for line in ran.said)
    assert effects(installation) == {"dnd_exception_created": 1}


# Files that are worked


def test_every_subject_of_a_file_is_onboarded_and_the_results_say_so(installation: Installation) -> None:
    path = many(installation, 6)
    ran = installation.run("batch", str(path))
    assert ran.status == 0, ran.err
    assert "6 of 6 done" in ran.out
    assert "not observed: no Prefect API" in ran.out
    assert effects(installation) == all_effects(6)
    assert [(row["row"], row["outcome"]) for row in results(path)] == [(str(n), "done") for n in range(1, 7)]
    assert not path.with_name("subjects.errors.csv").exists()
    assert {case["case"] for case in installation.cases()} == {row["case"] for row in results(path)}


def test_the_same_file_again_opens_and_sends_nothing(installation: Installation) -> None:
    path = many(installation, 3)
    installation.run("batch", str(path))
    sent = len(installation.requests())
    again = installation.run("batch", str(path.rename(installation.folder / "renamed.csv")))
    assert again.status == 0
    assert "taken in before" in again.said[0]
    assert len(installation.requests()) == sent
    assert len(installation.cases()) == 3


def test_json_lines_from_standard_input_are_onboarded_and_leave_their_results_here(installation: Installation) -> None:
    ran = installation.run("batch", "-", "--json", given=json_lines([example()]).encode())
    assert ran.status == 0, ran.err
    row, summary = [line for line in ran.json_lines if "progress" not in line]
    assert (row["row"], row["outcome"]) == (1, "done")
    assert (summary["cases"], summary["errors"], summary["observed"]) == ({"done": 1}, None, False)
    here = installation.folder / f"batch-{summary['batch']}.results.csv"
    assert summary["results"] == here.name
    assert [row["outcome"] for row in read_csv(here.read_text("utf-8"))] == ["done"]


def test_bad_rows_are_left_out_and_a_rerun_of_the_errors_file_touches_only_those(installation: Installation) -> None:
    installation.control.seed(seed.many(4))
    path = written(installation, subject_row(1), subject_row(2, **BAD), subject_row(3), subject_row(4, **BAD))
    ran = installation.run("batch", str(path), "--skip-bad")
    assert ran.status == 4
    assert "2 rows left out" in ran.out
    assert outcomes(path) == {"done": 2, "not taken": 2}
    assert [row["subject.subject_id"] for row in errors(path)] == [
        subject_row(number)["subject.subject_id"] for number in (2, 4)
    ]
    mended = [
        {**row, "registration.id": subject_row(n)["registration.id"]}
        for row, n in zip(errors(path), (2, 4), strict=True)
    ]
    path.with_name("subjects.errors.csv").write_text(csv_text(mended), "utf-8")
    before = Counter(entry["path"] for entry in installation.requests())
    again = installation.run("batch", str(path.with_name("subjects.errors.csv")))
    assert again.status == 0, again.err
    since = Counter(entry["path"] for entry in installation.requests()) - before
    touched = [n for n in range(1, 5) if any(str(subject_row(n)["registration.id"]) in place for place in since)]
    assert touched == [2, 4]
    assert effects(installation) == all_effects(4)


def test_what_the_vendor_refuses_needs_attention_and_stops_no_other(installation: Installation) -> None:
    path = many(installation, 4)
    installation.fault("openspecimen", "refuse", call="update_registration", code="CPR_DUP_PPID")
    ran = installation.run("batch", str(path))
    assert ran.status == 4
    assert outcomes(path) == {"done": 3, "attention": 1}
    assert "1 needs attention: CPR_DUP_PPID: " in ran.out
    assert len(errors(path)) == 1
    (batch,) = {case["batch"] for case in installation.cases()}
    assert f"onboard status --batch {batch} --only attention" in ran.out
    shown = installation.run("status", "--batch", batch, "--only", "attention").out
    assert "CPR_DUP_PPID" in shown
    assert "3 of 4 cases done" in shown
    assert f"onboard status --batch {batch}" in installation.run("status").out


def test_long_waits_are_not_waited_for_and_the_way_on_is_said(installation: Installation) -> None:
    path = many(installation, 2, dispensed=False)
    ran = installation.run("batch", str(path))
    assert ran.status == 3
    assert "2 waiting: NOT_DISPENSED: " in ran.out
    assert f"onboard batch {path}" in ran.out
    assert outcomes(path) == {"waiting": 2}


def test_a_long_pause_that_a_vendor_asks_for_ends_the_work_and_says_until_when(installation: Installation) -> None:
    path = many(installation, 3, exception_row)
    installation.fault("clinical_one", "throttle", call="list_exceptions", retry_after=600)
    ran = installation.run("batch", str(path), "--json")
    assert ran.status == 3
    summary = ran.json_lines[-1]
    assert summary["cases"] == {"ready": 3}
    assert summary["due_at"] is not None
    assert summary["go_on"] == f"onboard batch {path}"
    assert len(installation.requests("list_exceptions")) == 1, "nobody asks meanwhile"


def test_short_waits_are_waited_for(installation: Installation) -> None:
    path = many(installation, 3)
    installation.fault("openspecimen", "throttle", call="read_registration", retry_after=1, nth=1, times=2)
    installation.fault("clinical_one", "cut", call="register_device", when="after", times=1)
    ran = installation.run("batch", str(path), variables=variables(request_timeout_seconds=0.5, settle_seconds=0.1))
    assert ran.status == 0, ran.out
    found = effects(installation)
    found.pop("access_code_issued", None)  # the question that ended the doubt
    assert found == all_effects(3)


def test_no_more_cases_than_asked_for_are_worked_at_a_time(installation: Installation) -> None:
    path = many(installation, 6)
    rule = installation.fault("openspecimen", "hold", call="read_registration", nth="every")
    with installation.started("batch", str(path), "--concurrency", "2") as process:
        installation.control.held(at_least=2, timeout_s=60)
        being_worked = [case for case in installation.cases() if case["being_worked"]]
        installation.control.remove_faults(rule)
        assert process.wait(60) == 0
        process.communicate()
    assert len(being_worked) == 2


def test_cases_behind_a_refused_log_in_are_not_said_to_go_on_by_themselves(installation: Installation) -> None:
    installation.control.seed(seed.many(2))
    path = written(installation, subject_row(1), subject_row(2))
    ran = installation.run("batch", str(path), variables=variables(openspecimen_password="wrong"))
    assert ran.status == 3
    assert f"2 wait until the log-in is corrected (its address, name or secret); then: onboard batch {path}" in ran.out
    assert "onboard doctor --try-login-again" in ran.out
    assert "by itself" not in ran.out
    assert installation.run("batch", str(path)).status == 0


# Dry runs


def test_a_dry_run_reads_only_and_shows_each_subject(installation: Installation) -> None:
    path = many(installation, 3)
    ran = installation.run("batch", str(path), "--dry-run")
    assert ran.status == 0, ran.err
    assert "registration: 3 would change" in ran.out
    assert "device: 3 would register" in ran.out
    assert "nothing was sent, and no case was opened" in ran.out
    plan = read_csv(path.with_name("subjects.plan.csv").read_text("utf-8"))
    assert [(row["row"], row["step"], row["what would happen"]) for row in plan[:4]] == [
        ("1", "registration", "would change"),
        ("1", "dispensation", "already so"),
        ("1", "device", "would register"),
        ("1", "dnd_exception", "would change"),
    ]
    assert "externalSubjectId: nothing -> SITE-L-1" in plan[0]["differences"]
    assert len(plan) == 12
    assert installation.effects() == []
    assert installation.cases() == []
    assert len(installation.requests("list_exceptions")) == 1, "what many need is read once"


def test_a_dry_run_says_who_may_be_merged_with_another(installation: Installation) -> None:
    installation.control.seed(seed.many(3))
    other = str(seed.SeededSubject(3).participant_id)
    merging = subject_row(1, registration__participant__id=other, registration__allow_merge="true")
    path = str(written(installation, merging, subject_row(2, registration__allow_merge="")))
    ran = installation.run("batch", path, "--dry-run")
    assert ran.status == 0, ran.err
    assert ran.out.count("(may merge)") == 1
    assert "Possible merges of two people, which cannot be undone: 1." in ran.out
    *lines, counts = installation.run("batch", path, "--dry-run", "--json").json_lines
    assert counts["may_merge"] == 1
    assert [(line["row"], line["step"]) for line in lines if line["may_merge"]] == [(1, "registration")]


def test_a_dry_run_in_json_tells_each_step_and_the_counts(installation: Installation) -> None:
    path = many(installation, 2)
    *steps, summary = installation.run("batch", str(path), "--dry-run", "--json").json_lines
    assert len(steps) == 8
    assert {line["row"] for line in steps} == {1, 2}
    assert summary["subjects"] == 2
    assert {"step": "device", "action": "would register", "subjects": 2} in summary["steps"]


@pytest.mark.parametrize(
    ("rows", "words", "status"),
    [
        ([subject_row(1), subject_row(2, **BAD)], (), 2),
        ([subject_row(1), subject_row(2, **BAD)], ("--skip-bad",), 4),
        ([subject_row(1), subject_row(2, registration__id="999999")], (), 4),
        ([subject_row(1), subject_row(9)], (), 4),
    ],
)
def test_a_dry_run_ends_as_the_run_would(
    installation: Installation, rows: list[dict[str, str]], words: tuple[str, ...], status: int
) -> None:
    installation.control.seed(seed.many(3))
    ran = installation.run("batch", str(written(installation, *rows)), "--dry-run", *words)
    assert ran.status == status, ran.out + ran.err
    assert installation.effects() == []


OTHERWISE = {"registration__external_subject_id": "ANOTHER-1"}


@pytest.mark.parametrize(
    "rows",
    [
        [subject_row(1), subject_row(1, **OTHERWISE), subject_row(2)],
        [subject_row(1), subject_row(2), subject_row(1), subject_row(1, **OTHERWISE), subject_row(1)],
        [subject_row(1), subject_row(1, **OTHERWISE), subject_row(1, registration__external_subject_id="A-THIRD-1")],
        [subject_row(1, **BAD), subject_row(1, **OTHERWISE)],
    ],
)
def test_a_dry_run_refuses_the_rows_that_the_run_refuses(
    installation: Installation, rows: list[dict[str, str]]
) -> None:
    installation.control.seed(seed.many(3))
    assert_same_rows_are_refused(installation, str(written(installation, *rows)))


def assert_same_rows_are_refused(installation: Installation, path: str) -> None:
    found = []
    for words in (("--dry-run",), ()):
        ran = installation.run("batch", path, "--json", *words)
        *lines, summary = ran.json_lines
        problems = {(line["row"], line["column"], line["problem"]) for line in lines if "problem" in line}
        found.append((ran.status, summary["bad_rows"], problems))
    assert found[0] == found[1]
    assert found[0][0] == 2


@pytest.mark.parametrize(
    "rows",
    [
        [subject_row(1, **OTHERWISE), subject_row(1, **OTHERWISE), subject_row(2)],
        [subject_row(1, **OTHERWISE), subject_row(1, registration__external_subject_id="A-THIRD-1"), subject_row(2)],
        [subject_row(1, **OTHERWISE), subject_row(2), subject_row(1, **OTHERWISE), subject_row(1)],
        [subject_row(1), subject_row(1), subject_row(1, **OTHERWISE), subject_row(2)],
    ],
)
def test_a_dry_run_refuses_the_rows_that_the_run_refuses_for_a_case_that_stands(
    installation: Installation, rows: list[dict[str, str]]
) -> None:
    installation.control.seed(seed.many(3))
    assert installation.run("batch", str(written(installation, subject_row(1)))).status == 0
    assert_same_rows_are_refused(installation, str(written(installation, *rows)))


def test_a_dry_run_tells_a_row_that_repeats_another_once(installation: Installation) -> None:
    installation.control.seed(seed.many(2))
    path = written(installation, subject_row(1), subject_row(2), subject_row(1))
    ran = installation.run("batch", str(path), "--dry-run")
    assert ran.status == 0
    assert "registration: 2 would change" in ran.out
    assert "Rows that repeat an earlier one: 1." in ran.out
    *_, last = read_csv(path.with_name("subjects.plan.csv").read_text("utf-8"))
    assert (last["row"], last["what would happen"]) == ("3", "the same as row 1")


def test_a_dry_run_shows_what_stands_already(installation: Installation) -> None:
    installation.control.seed(seed.many(4))
    installation.fault("openspecimen", "refuse", call="update_registration", code="CPR_DUP_PPID")
    begun = written(installation, subject_row(1), subject_row(2))
    assert installation.run("batch", str(begun)).status == 4
    done, refused = (
        next(case["case"] for case in installation.cases() if case["status"] == status)
        for status in ("done", "attention")
    )
    asked = len(installation.requests("read_registration"))
    again = written(installation, subject_row(1), subject_row(2), subject_row(3))
    ran = installation.run("batch", str(again), "--dry-run")
    assert ran.status == 4
    assert "Subjects with a case already: 2." in ran.out
    assert len(installation.requests("read_registration")) == asked + 1, "only the third is anything to be done for"
    plan = read_csv(again.with_name("subjects.plan.csv").read_text("utf-8"))
    assert {(row["what would happen"], row["code"]) for row in plan if row["case"] == done} == {("already so", "")}
    assert {(row["what would happen"], row["code"]) for row in plan if row["case"] == refused} == {
        ("needs a person first", "CPR_DUP_PPID")
    }


def test_a_dry_run_counts_a_row_that_cannot_be_taken_as_that_alone_and_once(
    installation: Installation,
) -> None:
    installation.control.seed(seed.many(3))
    assert installation.run("batch", str(written(installation, subject_row(1), subject_row(3)))).status == 0
    rows = [subject_row(1, **OTHERWISE), subject_row(1), subject_row(2), subject_row(3), subject_row(3, **OTHERWISE)]
    path = str(written(installation, *rows))
    *_, planned = installation.run("batch", path, "--dry-run", "--json").json_lines
    *_, ran = installation.run("batch", path, "--json").json_lines
    assert (planned["subjects"], planned["standing"], planned["bad_rows"]) == (1, 0, 4)
    assert ran["bad_rows"] == 4


def test_a_dry_run_refuses_what_a_case_that_stands_does_not_take(installation: Installation) -> None:
    installation.control.seed(seed.many(2))
    assert installation.run("batch", str(written(installation, subject_row(1)))).status == 0
    path = written(installation, subject_row(1, **OTHERWISE), subject_row(2))
    (case,) = installation.cases()
    for words in (("--dry-run",), ()):
        ran = installation.run("batch", str(path), *words)
        assert ran.status == 2
        assert f"case {case['case']} exists" in ran.err
    assert "The run would open nothing" in installation.run("batch", str(path), "--dry-run").out


# The template


def test_the_template_is_a_file_that_can_be_read(installation: Installation) -> None:
    ran = installation.run("batch", "--template")
    assert ran.status == 0
    assert "registration.id" in ran.err
    planned = installation.run("batch", "-", "--dry-run", "--json", given=ran.out.encode())
    assert (planned.json_lines[-1]["subjects"], planned.json_lines[-1]["bad_rows"]) == (2, 0)
    assert installation.requests() != []


def test_a_batch_that_is_not_there_is_said(installation: Installation) -> None:
    installation.run("migrate")
    ran = installation.run("status", "--batch", "7K3Q9M2XW4TB")
    assert (ran.status, ran.out) == (2, "")
    assert "there is no batch '7K3Q9M2XW4TB'" in ran.said[0]
