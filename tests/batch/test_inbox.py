"""The inbox: what is taken from it and what is not, and that a file is never lost between working and moving."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Event

import pytest

from onboarding.batch.inbox import QUIET_S, Inbox, InboxBusy, InboxFault, inbox_name, inbox_of
from onboarding.batch.intake import Intake, take_in_file
from onboarding.errors import BadInput, BadSettings
from onboarding.ledger.ledger import Ledger, open_ledger
from onboarding.ledger.opening import Addresses
from onboarding.settings import Settings
from tests.support.batch_files import csv_text, read_csv, subject_row

ADDRESSES = Addresses("http://127.0.0.1:1/openspecimen", "http://127.0.0.1:2")
NAME = "site-12.csv"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = open_ledger(Settings(ledger_url=f"sqlite:///{tmp_path / 'ledger.db'}"))
    yield made
    made.close()


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    folder = tmp_path / "inbox"
    folder.mkdir()
    return Inbox(folder)


def put(inbox: Inbox, name: str = NAME, *, age_s: float = 60, bad: bool = False) -> Path:
    path = inbox.folder / name
    path.write_text(csv_text([subject_row(1), subject_row(2, **({"registration__id": "none"} if bad else {}))]))
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def take_in(ledger: Ledger, path: Path, *, skip_bad: bool = False) -> Intake:
    return take_in_file(ledger, path, addresses=ADDRESSES, actor="tester", settings=Settings(), skip_bad=skip_bad)


def files(inbox: Inbox) -> list[str]:
    found = (path for path in inbox.folder.rglob("*") if not path.is_dir() and path.name != ".lock")
    return sorted(str(path.relative_to(inbox.folder)) for path in found)


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "../secret.csv", "/etc/passwd", "done/x.csv", "a/../b.csv", "a\\b.csv", "a\0b.csv", "a\nb.csv",
        ".hidden.csv", "x.csv.part", "x.TMP", "done", "rejected", "x" * 196, "患" * 66, 7, None, b"x.csv", ["x.csv"], True,
    ],
)  # fmt: skip
def test_only_a_plain_name_is_a_name_and_no_other_is_repeated(name: object) -> None:
    with pytest.raises(BadInput) as refused:
        inbox_name(name)
    assert len(refused.value.problems) == 1
    assert refused.value.problems[0].startswith("file: ")
    assert "secret" not in str(refused.value)


def test_a_link_out_of_the_inbox_is_not_followed(inbox: Inbox, tmp_path: Path) -> None:
    outside = tmp_path / "outside.csv"
    outside.write_text(csv_text([subject_row(1)]))
    os.utime(outside, (0, 0))
    (inbox.folder / NAME).symlink_to(outside)
    (inbox.folder / "hard.csv").hardlink_to(outside)
    (inbox.folder / "folder.csv").mkdir()
    os.mkfifo(inbox.folder / "pipe.csv")
    for name, says in (
        (NAME, "links are not followed"),
        ("hard.csv", "linked to from elsewhere"),
        ("folder.csv", "plain"),
    ):
        with pytest.raises(BadInput, match=says), inbox.take(name):
            raise AssertionError("it was taken")
        with pytest.raises(BadInput, match=says):
            inbox.read(name)
    with pytest.raises(BadInput, match="plain"):
        inbox.read("pipe.csv")
    assert NAME not in inbox.complete()
    assert "pipe.csv" not in inbox.complete()
    assert outside.exists()


def test_a_link_that_takes_a_files_place_at_the_last_moment_is_not_followed(inbox: Inbox, tmp_path: Path) -> None:
    """Whoever can write to the inbox swaps the file after it was looked at, which here is: while it lies in ``.taken``."""
    outside = tmp_path / "outside.csv"
    outside.write_text("a secret")
    (inbox.folder / ".taken" / NAME).mkdir(parents=True)
    (inbox.folder / ".taken" / NAME / NAME).symlink_to(outside)
    with pytest.raises(BadInput, match="moved to rejected"), inbox.take(NAME):
        raise AssertionError("it was taken")
    assert outside.read_text() == "a secret"
    assert "secret" not in "".join(
        path.read_text() for path in (inbox.folder / "rejected").iterdir() if not path.is_symlink()
    )


def test_a_file_that_is_still_written_is_left_alone_until_it_is_quiet(inbox: Inbox) -> None:
    path = put(inbox, age_s=QUIET_S - 5)
    put(inbox, "half.csv.part")
    put(inbox, ".half.csv")
    assert inbox.complete() == []
    os.utime(path, (time.time() - QUIET_S - 1,) * 2)
    assert inbox.complete() == [NAME]


def test_the_oldest_file_is_first_and_a_clock_that_is_ahead_keeps_none_back(inbox: Inbox) -> None:
    put(inbox, "b.csv", age_s=100)
    put(inbox, "a.csv", age_s=50)
    put(inbox, "ahead.csv", age_s=-2 * 86400)
    assert inbox.complete() == ["b.csv", "a.csv", "ahead.csv"]


def test_a_file_that_was_worked_lies_under_done_with_its_results(inbox: Inbox, ledger: Ledger) -> None:
    put(inbox, bad=True)
    with inbox.take(NAME) as taken:
        assert files(inbox) == [f".taken/{NAME}/{NAME}"]
        intake = take_in(ledger, taken.path, skip_bad=True)
        place = taken.finish(ledger, intake.batch_id, released=True)
    stem = f"done/site-12.{intake.batch_id}"
    assert place == f"{stem}.csv"
    assert files(inbox) == [f"{stem}.csv", f"{stem}.errors.csv", f"{stem}.results.csv"]
    results = read_csv((inbox.folder / f"{stem}.results.csv").read_text("utf-8"))
    assert [row["outcome"] for row in results] == ["open", "not taken"]
    assert inbox.complete() == [], "what is written there is taken for no new file"


def test_a_file_that_was_refused_lies_under_rejected_with_every_reason(inbox: Inbox, ledger: Ledger) -> None:
    put(inbox, bad=True)
    with inbox.take(NAME) as taken:
        intake = take_in(ledger, taken.path)
        assert not intake.released
        place = taken.finish(ledger, intake.batch_id, released=False)
    assert place.startswith("rejected/site-12.")
    results = read_csv((inbox.folder / place.replace(".csv", ".results.csv")).read_text("utf-8"))
    assert [row["row"] for row in results] == ["2"]


@pytest.mark.parametrize("written", [False, True])
def test_a_run_that_dies_before_it_moves_a_file_leaves_it_to_the_next(
    inbox: Inbox, ledger: Ledger, written: bool
) -> None:
    put(inbox)
    with inbox.take(NAME) as taken:  # no finish: it dies, with or without a results file
        first = take_in(ledger, taken.path)
        if written:
            (inbox.folder / "done").mkdir()
            (inbox.folder / f"done/site-12.{first.batch_id}.results.csv").write_text("half of it")
    put(inbox, "later.csv")
    assert inbox.complete() == [NAME, "later.csv"], "what was begun comes first"
    with inbox.take(NAME) as taken:
        again = take_in(ledger, taken.path)
        assert (again.batch_id, again.known) == (first.batch_id, True)
        taken.finish(ledger, again.batch_id, released=True)
    assert inbox.complete() == ["later.csv"]
    assert len(ledger.cases()) == 2


def test_a_file_dropped_twice_is_recognised_and_ends_where_the_first_did(inbox: Inbox, ledger: Ledger) -> None:
    places = []
    for _ in range(2):
        put(inbox)
        with inbox.take(NAME) as taken:
            places.append(taken.finish(ledger, take_in(ledger, taken.path).batch_id, released=True))
    assert places[0] == places[1]
    assert len(files(inbox)) == 2
    assert len(ledger.cases()) == 2


def test_another_file_of_the_same_name_waits_until_the_first_is_worked(inbox: Inbox, ledger: Ledger) -> None:
    put(inbox)
    with inbox.take(NAME) as taken:
        put(inbox, bad=True)
        with pytest.raises(InboxBusy), inbox.take(NAME):
            raise AssertionError("it was taken")
        taken.finish(ledger, take_in(ledger, taken.path).batch_id, released=True)
    assert inbox.complete() == [NAME]
    with inbox.take(NAME) as taken:
        assert not take_in(ledger, taken.path).released


def test_the_next_file_of_the_same_name_can_come_while_the_first_moves_away(inbox: Inbox, ledger: Ledger) -> None:
    for turn in range(20):
        put(inbox)
        with inbox.take(NAME) as taken, ThreadPoolExecutor(1) as thread:
            (inbox.folder / NAME).write_text(f"file of turn {turn}")
            next_one = thread.submit(taken_when_free, inbox)
            taken.reject(["whatever it is"])
            assert next_one.result(30) == f"file of turn {turn}"


def taken_when_free(inbox: Inbox) -> str:
    while True:
        with suppress(InboxBusy), inbox.take(NAME) as taken:
            content = taken.path.read_text()
            taken.reject(["whatever it is"])
            return content


@pytest.mark.parametrize(("ahead_s", "complete"), [(30.0, False), (-QUIET_S - 1, True), (2 * 86400.0, True)])
def test_a_file_server_whose_clock_is_ahead_makes_no_file_complete_too_early(
    inbox: Inbox, ahead_s: float, complete: bool
) -> None:
    put(inbox)
    moment = time.time() + ahead_s
    os.utime(inbox.folder / NAME, (moment, moment))
    assert inbox.complete() == ([NAME] if complete else [])


def test_a_file_that_is_gone_is_said(inbox: Inbox) -> None:
    with pytest.raises(BadInput, match="no file of this name"), inbox.take(NAME):
        raise AssertionError("it was taken")
    (inbox.folder / ".taken" / NAME).mkdir(
        parents=True
    )  # a run died before it moved the file, and somebody took it back
    with pytest.raises(BadInput, match="no file of this name"), inbox.take(NAME):
        raise AssertionError("it was taken")
    assert inbox.complete() == []


class SlowInbox(Inbox):
    """One that is late with its lock: it looks for a lock after somebody else was told of it, who may end meanwhile."""

    late, go_on = Event(), Event()

    @staticmethod
    def _lock(handle: int) -> None:
        SlowInbox.late.set()
        SlowInbox.go_on.wait(0.5)  # nobody can end meanwhile, so that nobody says "go on"
        Inbox._lock(handle)  # noqa: SLF001 - this one overrides it


def test_a_lock_is_not_got_on_a_file_that_was_moved_away_meanwhile(inbox: Inbox, ledger: Ledger) -> None:
    put(inbox)

    def late() -> str:
        try:
            with SlowInbox(inbox.folder).take(NAME) as taken:
                return f"has {taken.path}, which exists: {taken.path.exists()}"
        except (InboxBusy, BadInput) as error:
            return type(error).__name__

    with ThreadPoolExecutor(1) as thread:
        with inbox.take(NAME) as taken:
            other = thread.submit(late)
            assert SlowInbox.late.wait(30)
            taken.reject(["whatever it is"])
        SlowInbox.go_on.set()
        assert other.result(30) == "InboxBusy"
    assert len(files(inbox)) == 2, "nothing but the file and why it was rejected"


@pytest.mark.parametrize("name", ["患者登録" * 18 + ".csv", "a" * 240 + ".csv", "a." + "b" * 250])
def test_a_file_whose_name_leaves_no_room_for_its_results_is_moved_away_before_anything_is_opened(
    inbox: Inbox, name: str
) -> None:
    put(inbox, name)
    assert inbox.complete() == [name]
    with pytest.raises(BadInput, match="moved to rejected"), inbox.take(name):
        raise AssertionError("it was taken")
    assert inbox.complete() == []
    assert [place.split("/")[0] for place in files(inbox)] == ["rejected", "rejected"]
    assert "longer than 195 bytes" in next((inbox.folder / "rejected").glob("*.results.csv")).read_text("utf-8")


@pytest.mark.parametrize("name", ["a" * 191 + ".csv", "患" * 63 + "ab.csv"])
def test_a_file_with_the_longest_name_that_is_taken_is_finished_with_its_errors(
    inbox: Inbox, ledger: Ledger, name: str
) -> None:
    assert inbox_name(name) == name
    put(inbox, name, bad=True)
    with inbox.take(name) as taken:
        taken.finish(ledger, take_in(ledger, taken.path, skip_bad=True).batch_id, released=True)
    assert len(files(inbox)) == 3
    put(inbox, name)
    with inbox.take(name) as taken:
        taken.reject(["whatever it is"])
    assert len(files(inbox)) == 5


@pytest.mark.parametrize("released", [True, False])
def test_results_that_cannot_be_written_are_no_fault_of_the_file_which_stays_for_the_next_run(
    inbox: Inbox, ledger: Ledger, released: bool
) -> None:
    put(inbox, bad=not released)
    folder = inbox.folder / ("done" if released else "rejected")
    folder.write_text("no folder")
    with inbox.take(NAME) as taken:
        batch_id = take_in(ledger, taken.path).batch_id
        with pytest.raises(InboxFault, match="File exists") as refused:
            taken.finish(ledger, batch_id, released=released)
    assert not isinstance(refused.value, BadInput)
    assert "site-12" not in str(refused.value)
    folder.unlink()
    folder.mkdir()
    (folder / f"site-12.{batch_id}.results.csv").mkdir()  # in the way of what is written
    with inbox.take(NAME) as taken, pytest.raises(InboxFault, match="Is a directory") as refused:
        taken.finish(ledger, batch_id, released=released)
    assert "site-12" not in str(refused.value)
    (folder / f"site-12.{batch_id}.results.csv").rmdir()
    assert inbox.complete() == [NAME]
    with inbox.take(NAME) as taken:
        taken.finish(ledger, batch_id, released=released)
    assert inbox.complete() == []


def test_a_file_that_cannot_be_moved_is_no_fault_of_the_file(inbox: Inbox) -> None:
    put(inbox)
    (inbox.folder / ".taken").mkdir()
    (inbox.folder / ".taken" / NAME).write_text("no folder")
    with pytest.raises(InboxFault, match="File exists"), inbox.take(NAME):
        raise AssertionError("it was taken")
    assert inbox.complete() == [NAME]


@pytest.mark.parametrize("folder", [None, Path("inbox"), Path("/nowhere/at/all")])
def test_an_inbox_must_be_a_folder_by_its_absolute_path(folder: Path | None) -> None:
    with pytest.raises(BadSettings, match="ONBOARDING_INBOX"):
        inbox_of(Settings(inbox=folder))
