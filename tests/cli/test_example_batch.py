"""The batch file that `onboard up` leaves to be tried: what it says of itself is so."""

import json
from pathlib import Path

from cli.example_batch import FILE, SEED, SUBJECTS, write_example
from tests.support.batch_files import read_csv
from tests.support.installation import Installation
from vendor_sandbox.seed import SeededSubject


def test_all_of_it_is_onboarded_but_for_one_row_that_can_be_mended(installation: Installation) -> None:
    write_example(installation.folder)
    installation.control.seed(json.loads((installation.folder / SEED).read_text("utf-8")))
    ran = installation.run("batch", FILE)
    assert ran.status == 4, ran.err
    (result,) = [
        row
        for row in read_csv((installation.folder / "batch-to-try.results.csv").read_text("utf-8"))
        if row["outcome"] != "done"
    ]
    assert (result["row"], result["code"]) == (str(SUBJECTS), "CPR_DUP_PPID")
    errors = installation.folder / "batch-to-try.errors.csv"
    errors.write_text(errors.read_text("utf-8").replace(SeededSubject(1).ppid, ""), "utf-8")
    mended = installation.run("batch", errors.name)
    assert mended.status == 0, mended.err
    cases = installation.cases()
    assert [case["status"] for case in cases] == ["done"] * SUBJECTS
    assert {step["status"] for case in cases for step in case["steps"]} == {"done"}


def test_a_file_of_the_person_who_starts_it_in_their_own_folder_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "subjects.csv").write_text("theirs")
    write_example(tmp_path)
    assert (tmp_path / "subjects.csv").read_text() == "theirs"
