"""Taking files in, and what is written beside them: each row is accounted for, and the errors file is input again."""

import csv
import io
import json
import stat
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from onboarding.batch.cells import harmless
from onboarding.batch.intake import Intake, IntakeStopped, take_in, take_in_file
from onboarding.batch.reading import open_batch
from onboarding.batch.results import RESULT_COLUMNS, errors_path, results_path, write_errors, write_results
from onboarding.clocks import utc_now
from onboarding.errors import BadInput
from onboarding.ledger import batches
from onboarding.ledger.batch_states import BatchState
from onboarding.ledger.leasing import Runner
from onboarding.ledger.ledger import Ledger, open_ledger
from onboarding.ledger.states import CaseStatus, StepName
from onboarding.ledger.writes import Lease
from onboarding.settings import Settings
from tests.batch.test_reading import CELLS, table
from tests.ledger.bench import ADDRESSES, OTHER_ADDRESSES
from tests.support.requests import MARKER, example


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    found = open_ledger(Settings(ledger_url=f"sqlite:///{tmp_path / 'ledger' / 'l.db'}"))
    yield found
    found.close()


def cells(number: int, **changes: str) -> dict[str, str]:
    """The example's cells for subject ``number``; a double underscore in a name is a dot."""
    return {
        **CELLS,
        "registration.participant.first_name": f"{MARKER} {number}",
        "registration.id": str(number),
        "subject.subject_id": f"{number:032X}",
        "device.inventory_id": f"{number + 2**64:032X}",
        **{name.replace("__", "."): cell for name, cell in changes.items()},
    }


def written(tmp_path: Path, *rows: Mapping[str, str], name: str = "subjects.csv", **options: str) -> Path:
    path = tmp_path / name
    path.write_bytes(table(*rows, **options))
    return path


def taken(ledger: Ledger, path: Path, **options: Any) -> Intake:
    return take_in_file(ledger, path, addresses=ADDRESSES, actor="tester", settings=Settings(), **options)


def work(ledger: Ledger, batch_id: str, *, attention: set[str]) -> None:
    """Work every due case of the batch: those of these registrations need attention, the others are done."""
    for case_id in ledger.find_due(batch_id=batch_id, limit=1000):
        lease = ledger.take(case_id, Runner("runner", 30.0), ADDRESSES)
        assert isinstance(lease, Lease)
        registration = ledger.request(case_id).registration
        assert registration is not None
        if str(registration.id) in attention:
            ledger.fenced(lease, lambda write: write.need_attention("CPR_DUP_PPID"))
        else:
            ledger.fenced(lease, finish)


def finish(write: Any) -> None:
    for name in StepName:
        write.step(name).found({})
    write.finish()


def read_results(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_good_file_is_released_as_a_whole(ledger: Ledger, tmp_path: Path) -> None:
    intake = taken(ledger, written(tmp_path, *(cells(number) for number in range(1, 4))))
    assert (intake.released, intake.known, intake.rows, intake.opened, intake.left_out) == (True, False, 3, 3, 0)
    assert len(ledger.cases(batch_id=intake.batch_id)) == 3


def test_a_stream_is_taken_in_as_a_file_is(ledger: Ledger, tmp_path: Path) -> None:
    data = table(cells(1), cells(2))
    with open_batch(io.BytesIO(data)) as file:
        first = take_in(ledger, file, addresses=ADDRESSES, actor="tester", settings=Settings())
    path = tmp_path / "same.csv"
    path.write_bytes(data)
    again = taken(ledger, path)
    assert (first.opened, again.known, again.batch_id) == (2, True, first.batch_id)
    with open_batch(io.BytesIO(data)) as file:
        third = take_in(ledger, file, addresses=ADDRESSES, actor="tester", settings=Settings())
    assert (third.known, third.batch_id) == (True, first.batch_id)
    assert len(ledger.cases()) == 2


def test_one_bad_row_keeps_the_whole_file_out_and_every_problem_is_told(ledger: Ledger, tmp_path: Path) -> None:
    told: list[str] = []
    bad = [cells(2, registration__id="x", subject__mode="y"), cells(3), cells(4, device__inventory_id="z")]
    intake = taken(ledger, written(tmp_path, cells(1), *bad), report=lambda problem: told.append(str(problem)))
    assert (intake.released, intake.whole, intake.rows, intake.left_out) == (False, True, 4, 2)
    assert [each.partition(": must")[0] for each in told] == [
        "row 2 (line 3): registration.id",
        "row 2 (line 3): subject.mode",
        "row 4 (line 5): device.inventory_id",
    ]
    assert ledger.cases() == []
    assert [each.number for each in batches.outcomes(ledger, intake.batch_id)] == [2, 4]


def test_bad_rows_can_be_skipped(ledger: Ledger, tmp_path: Path) -> None:
    path = written(tmp_path, cells(1), cells(2, registration__id="x"), cells(3))
    intake = taken(ledger, path, skip_bad=True)
    assert (intake.released, intake.opened, intake.left_out) == (True, 2, 1)
    again = taken(ledger, path)
    assert (again.known, again.left_out, again.batch_id) == (True, 1, intake.batch_id)


def test_a_file_of_bad_rows_alone_is_never_released(ledger: Ledger, tmp_path: Path) -> None:
    assert not taken(ledger, written(tmp_path, cells(1, registration__id="x")), skip_bad=True).released


def test_a_file_that_ends_in_the_middle_is_never_released(ledger: Ledger, tmp_path: Path) -> None:
    path = written(tmp_path, cells(1))
    path.write_bytes(path.read_bytes() + b'"')
    intake = taken(ledger, path, skip_bad=True)
    assert (intake.released, intake.whole) == (False, False)
    assert write_results(ledger, intake.batch_id, results_path(path)) == 1
    (row,) = read_results(results_path(path))
    assert (row["row"], row["line"], row["outcome"]) == ("0", "3", "not taken")
    assert write_errors(ledger, intake.batch_id, path) is None


def test_a_mode_that_is_not_allowed_is_the_rows_problem(ledger: Ledger, tmp_path: Path) -> None:
    told: list[str] = []
    path = written(tmp_path, cells(1), cells(2, subject__mode="active"))
    intake = taken(ledger, path, report=lambda problem: told.append(str(problem)))
    assert not intake.released
    assert told == [
        "row 2 (line 3): subject.mode: 'active' is not allowed here; allowed: test, training (ONBOARDING_MODES)."
    ]


def test_a_rejected_file_is_read_anew_when_it_comes_again(ledger: Ledger, tmp_path: Path) -> None:
    path = written(tmp_path, cells(1), cells(2, registration__id="x"))
    rejected = taken(ledger, path)
    again = taken(ledger, path, skip_bad=True)
    assert (rejected.released, again.released, again.known) == (False, True, False)


@pytest.mark.parametrize("skip_bad", [True, False])
def test_a_file_that_is_written_to_while_it_is_read_is_never_released(
    ledger: Ledger, tmp_path: Path, skip_bad: bool
) -> None:
    path = written(tmp_path, cells(1), cells(2, registration__id="none"))
    told: list[str] = []

    def write_more(problem: object) -> None:
        if not told:
            with path.open("ab") as stream:
                stream.write(b"more")
        told.append(str(problem))

    intake = taken(ledger, path, skip_bad=skip_bad, report=write_more)
    assert (intake.released, intake.whole, ledger.cases()) == (False, False, [])
    assert "was written to while it was read" in told[-1]


def test_a_reading_that_fails_leaves_nothing_behind(ledger: Ledger, tmp_path: Path) -> None:
    class Broken(io.BytesIO):
        def read1(self, size: int | None = -1, /) -> bytes:
            data = super().read1(100)
            if not data:
                raise OSError(5, "cut")
            return data

    with (
        pytest.raises(BadInput, match="file: cannot be read to its end: cut"),
        open_batch(Broken(table(cells(1), cells(2)))) as file,
    ):
        take_in(ledger, file, addresses=ADDRESSES, actor="tester", settings=Settings())
    batches.sweep(ledger, now=utc_now() + timedelta(days=2))
    assert ledger.cases() == []
    path = written(tmp_path, cells(1), cells(2))
    assert taken(ledger, path).opened == 2


# Results and errors files


def test_the_results_tell_every_row(ledger: Ledger, tmp_path: Path) -> None:
    path = written(tmp_path, cells(1), cells(2), cells(3, registration__id="x"), cells(1), cells(5))
    intake = taken(ledger, path, skip_bad=True)
    work(ledger, intake.batch_id, attention={"2"})
    target = results_path(path)
    assert target.name == "subjects.results.csv"
    assert write_results(ledger, intake.batch_id, target) == 5
    found = read_results(target)
    assert list(found[0]) == list(RESULT_COLUMNS)
    assert [(row["row"], row["line"], row["outcome"], row["code"]) for row in found] == [
        ("1", "2", "done", ""),
        ("2", "3", "attention", "CPR_DUP_PPID"),
        ("3", "4", "not taken", "BAD_ROW"),
        ("4", "5", "done", ""),
        ("5", "6", "done", ""),
    ]
    assert found[1]["what to do"].startswith("Another registration of the protocol has this PPID already")
    assert "registration.id: must be a whole number" in found[2]["reason"]
    assert found[3]["reason"].startswith("the same as row 1")
    assert found[3]["case"] == found[0]["case"]
    assert MARKER not in target.read_text("utf-8-sig")
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_the_errors_file_holds_exactly_the_rows_to_mend_and_is_input_again(
    ledger: Ledger, tmp_path: Path, delimiter: str, bom: bytes
) -> None:
    phone = "registration__participant__phone_number"
    rows = [cells(number, **{phone: "+49 30"}) for number in range(1, 6)]
    rows[2]["registration.id"] = "=1+1"
    path = written(tmp_path, *rows, delimiter=delimiter)
    path.write_bytes(bom + path.read_bytes())
    intake = taken(ledger, path, skip_bad=True)
    work(ledger, intake.batch_id, attention={"5"})
    errors = write_errors(ledger, intake.batch_id, path)
    assert errors == tmp_path / "subjects.errors.csv"
    assert stat.S_IMODE(errors.stat().st_mode) == 0o600
    data = errors.read_bytes()
    assert data.startswith(bom)
    text = data.decode("utf-8-sig")
    assert [row["registration.id"] for row in csv.DictReader(io.StringIO(text), delimiter=delimiter)] == ["'=1+1", "5"]
    assert "'+49 30" in text

    errors.write_text(text.replace("'=1+1", "3"), "utf-8")  # a person mends it
    mended = taken(ledger, errors)
    assert (mended.released, mended.rows, mended.opened, mended.found) == (True, 2, 1, 1)
    assert len(ledger.find_due(batch_id=mended.batch_id, limit=10)) == 1
    assert len(ledger.cases()) == 5
    third = next(case for case in ledger.cases() if case.subject_id.endswith("3"))
    registration = ledger.request(third.id).registration
    assert registration is not None
    assert registration.participant is not None
    assert registration.participant.phone_number == "+49 30"


def test_the_errors_file_of_json_lines_is_json_lines(ledger: Ledger, tmp_path: Path) -> None:
    lines = [
        json.dumps(
            example(
                registration__id=number,
                subject__subject_id=f"{number:032X}",
                device__inventory_id=f"{number + 99:032X}",
            )
        )
        for number in range(1, 4)
    ]
    lines[1] = '{"subject": 1, "umlaut": "\\u00fc\u00fc"}'
    path = tmp_path / "subjects.jsonl"
    path.write_text("\n".join(lines), "utf-8")
    intake = taken(ledger, path, skip_bad=True)
    errors = write_errors(ledger, intake.batch_id, path)
    assert errors == errors_path(path, file_format(path))
    assert errors.name == "subjects.errors.jsonl"
    assert errors.read_text("utf-8") == lines[1] + "\n"


def file_format(path: Path) -> Any:
    with open_batch(path) as file:
        return file.format


def test_bytes_that_are_no_text_are_copied_as_they_are(ledger: Ledger, tmp_path: Path) -> None:
    path = written(tmp_path, cells(1), cells(2, registration__ppid="ZZZ"))
    path.write_bytes(path.read_bytes().replace(b"ZZZ", b"\xfc\xff"))
    intake = taken(ledger, path)
    errors = write_errors(ledger, intake.batch_id, path)
    assert errors is not None
    assert b"\xfc\xff" in errors.read_bytes()


def test_a_rejected_file_has_its_errors_file_too(ledger: Ledger, tmp_path: Path) -> None:
    path = written(tmp_path, cells(1), cells(2, registration__id="x"))
    intake = taken(ledger, path)
    errors = write_errors(ledger, intake.batch_id, path)
    assert errors is not None
    assert len(errors.read_text().splitlines()) == 2


def test_without_anything_to_mend_there_is_no_errors_file(ledger: Ledger, tmp_path: Path) -> None:
    path = written(tmp_path, cells(1))
    intake = taken(ledger, path)
    assert write_errors(ledger, intake.batch_id, path) is None
    assert sorted(each.name for each in tmp_path.iterdir()) == ["ledger", "subjects.csv"]


def test_a_file_that_was_changed_since_gives_no_errors_file(ledger: Ledger, tmp_path: Path) -> None:
    path = written(tmp_path, cells(1), cells(2, registration__id="x"))
    intake = taken(ledger, path)
    written(tmp_path, cells(3), cells(2, registration__id="x"))
    with pytest.raises(BadInput, match="was changed since"):
        write_errors(ledger, intake.batch_id, path)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["ledger", "subjects.csv"]


def test_rows_that_somebody_mended_in_an_older_errors_file_are_kept(ledger: Ledger, tmp_path: Path) -> None:
    path = written(tmp_path, cells(1), cells(2, registration__id="x"))
    intake = taken(ledger, path)
    errors = write_errors(ledger, intake.batch_id, path)
    assert errors is not None
    errors.write_text("mended")
    assert write_errors(ledger, intake.batch_id, path) == errors
    assert write_errors(ledger, intake.batch_id, path) == errors
    assert (tmp_path / "subjects.errors.previous.csv").read_text() == "mended"


def test_a_place_that_cannot_be_written_is_said_plainly(ledger: Ledger, tmp_path: Path) -> None:
    intake = taken(ledger, written(tmp_path, cells(1)))
    with pytest.raises(BadInput, match=r"r\.csv: cannot be written: No such file"):
        write_results(ledger, intake.batch_id, tmp_path / "nowhere" / "r.csv")


def test_a_key_that_would_run_as_a_formula_is_harmless_in_the_results(ledger: Ledger, tmp_path: Path) -> None:
    path = tmp_path / "subjects.jsonl"
    path.write_text(json.dumps({**example(), "=cmd()": 1}) + "\n")
    intake = taken(ledger, path)
    write_results(ledger, intake.batch_id, results_path(path))
    (row,) = read_results(results_path(path))
    assert row["reason"] == harmless(row["reason"])


def test_a_thousand_rows_with_a_tenth_poisoned_are_all_accounted_for(ledger: Ledger, tmp_path: Path) -> None:
    poisoned = {number for number in range(1, 1101) if number % 11 == 0}
    rows = [cells(number, **({"registration__id": "x"} if number in poisoned else {})) for number in range(1, 1101)]
    path = written(tmp_path, *rows)
    intake = taken(ledger, path, skip_bad=True)
    assert (intake.opened, intake.left_out) == (1000, 100)
    errors = write_errors(ledger, intake.batch_id, path)
    assert errors is not None
    numbers = {int(row["subject.subject_id"], 16) for row in csv.DictReader(io.StringIO(errors.read_text()))}
    assert numbers == poisoned
    mended = [cells(number) for number in sorted(poisoned)]
    again = taken(ledger, written(tmp_path, *mended, name=errors.name))
    assert (again.opened, again.found) == (100, 0)
    assert batches.counts(ledger, again.batch_id).cases == {(CaseStatus.READY, None): 100}
    found = batches.batch(ledger, again.batch_id)
    assert found is not None
    assert (found.state, found.name, found.rows) == (BatchState.RELEASED, "subjects.errors.csv", 100)


@pytest.mark.parametrize("asked", range(2))
def test_a_file_whose_reading_is_stopped_opens_nothing_and_leaves_no_drafts(
    ledger: Ledger, tmp_path: Path, asked: int
) -> None:
    path = written(tmp_path, *(cells(number) for number in range(1, 4)))
    answers = iter([False] * asked + [True])  # while rows are stored; then, before they are released
    with pytest.raises(IntakeStopped, match="nothing was opened"):
        taken(ledger, path, stopped=lambda: next(answers))
    assert next(answers, None) is None
    assert ledger.cases() == []
    count = "SELECT COUNT(*) FROM onboarding_batch_row"
    assert ledger.store.read(lambda connection: connection.exec_driver_sql(count).scalar_one()) == 0
    assert taken(ledger, path).opened == 3


@pytest.mark.parametrize("piped", [False, True])
def test_a_file_that_was_taken_in_for_other_systems_is_not_taken_for_done_at_these(
    ledger: Ledger, tmp_path: Path, piped: bool
) -> None:
    path = written(tmp_path, cells(1), cells(2))
    before = taken(ledger, path)
    how: dict[str, Any] = {"addresses": OTHER_ADDRESSES, "actor": "tester", "settings": Settings()}

    def again() -> Intake:
        if not piped:
            return take_in_file(ledger, path, **how)
        with open_batch(io.BytesIO(path.read_bytes())) as file:
            return take_in(ledger, file, **how)

    with pytest.raises(BadInput, match=f"as batch {before.batch_id}, for other systems"):
        again()
    assert len(ledger.cases()) == 2
    assert taken(ledger, path).known, "at the systems that it was taken in for it goes on"
