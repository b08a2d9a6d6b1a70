"""The inbox: a folder into which others put files of many subjects, and from which complete ones are taken.

A file is complete when nothing was written to it for a while. Best is to write it under another name (``.name`` or
``name.part``), and to rename it when it is whole. A file that is taken moves to ``.taken``, a folder that nobody else writes
to, and when it was worked to ``done`` or ``rejected``, with its results. A process that dies leaves it in ``.taken``, where
the next run finds it; the ledger recognises its content, so nothing is opened twice.
"""

import csv
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from onboarding.batch.results import BAD_ROW, RESULT_COLUMNS, new_file, write_errors, write_results
from onboarding.clocks import utc_now
from onboarding.errors import BadInput, BadSettings, OnboardingError
from onboarding.ledger.ledger import Ledger
from onboarding.settings import Settings

QUIET_S: Final = 10.0
"""A file to which nothing was written for so long is taken for complete."""

_DAY_S: Final = 86400.0
_LOCK: Final = ".lock"
_LOCK_FILE: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
TAKEN, DONE, REJECTED = ".taken", "done", "rejected"
_UNFINISHED: Final = (".part", ".partial", ".tmp", ".filepart", ".crdownload")
_LONGEST_NAME: Final = 195  # in bytes: file systems take 255, and what is written beside a file has a longer name
_LONGEST_STEM, _LONGEST_SUFFIX = 150, 30
_NO_LINK: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class InboxBusy(OnboardingError):
    """Another run works on this file of the inbox; nothing was done here."""

    def __init__(self) -> None:
        super().__init__("another run works on this file of the inbox; nothing was done here.")


class InboxFault(OnboardingError):
    """A file of the inbox cannot be moved, or its results cannot be written: the folder or the disk is to be mended.

    What was onboarded stays so; the next run goes on with the file, and opens nothing twice.
    """

    def __init__(self, what: str, why: str | None) -> None:
        super().__init__(
            f"the inbox: {what} ({why or 'no reason is given'}). Mend the folder or the disk; the next run goes on with the "
            "file, and nothing is opened or sent twice."
        )


def inbox_name(given: object) -> str:
    """The name of a file in the inbox. Raises ``BadInput``, which does not repeat it."""
    if not isinstance(given, str) or not given or _is_too_long(given):
        raise BadInput([f"file: must be the name of a file in the inbox, of at most {_LONGEST_NAME} bytes."])
    if "/" in given or "\\" in given or not given.isprintable():
        raise BadInput(["file: must be a name alone, without a folder: only files in the inbox itself are taken."])
    if not _may_be_taken(given):
        raise BadInput(["file: must not begin with a dot, nor end as files do that are still written (.part, .tmp)."])
    return given


def _is_too_long(name: str) -> bool:
    return len(name.encode("utf-8", "surrogatepass")) > _LONGEST_NAME


def _may_be_taken(name: str) -> bool:
    return not name.startswith(".") and not name.lower().endswith(_UNFINISHED) and name not in (DONE, REJECTED)


@dataclass(frozen=True)
class Taken:
    """A file that was taken from the inbox and is this run's alone."""

    name: str
    path: Path
    inbox: Path

    def finish(self, ledger: Ledger, batch_id: str, *, released: bool) -> str:
        """Write what became of its rows, and move it to ``done`` or ``rejected``; returns where it is, in the inbox.

        All bear the batch's id, so that the same again changes nothing. The file itself moves last. Raises ``InboxFault``.
        """
        folder = self.inbox / (DONE if released else REJECTED)
        with _faults_said("the results of a file cannot be written, or the file cannot be moved away"):
            folder.mkdir(mode=0o700, exist_ok=True)
            stem = f"{self.path.stem}.{batch_id}"
            write_results(ledger, batch_id, folder / f"{stem}.results.csv")
            if released and (errors := write_errors(ledger, batch_id, self.path)) is not None:
                errors.replace(folder / f"{stem}.errors{errors.suffix}")
            return self._move(folder, f"{stem}{self.path.suffix}")

    def reject(self, problems: list[str]) -> str:
        """Move a file that could not be read at all to ``rejected``, with the reason; returns where it is.

        A very long name is cut. Raises ``InboxFault``.
        """
        folder = self.inbox / REJECTED
        stem = f"{_cut(self.path.stem, _LONGEST_STEM)}.{utc_now():%Y%m%dT%H%M%S%f}"
        with _faults_said("a file that cannot be taken cannot be moved to rejected"):
            folder.mkdir(mode=0o700, exist_ok=True)
            with new_file(folder / f"{stem}.results.csv", encoding="utf-8-sig") as stream:
                writer = csv.writer(stream)
                writer.writerow(RESULT_COLUMNS)
                writer.writerow([0, 0, "", "not taken", BAD_ROW, "; ".join(problems), "Correct the file."])
            return self._move(folder, f"{stem}{_cut(self.path.suffix, _LONGEST_SUFFIX)}")

    def _move(self, folder: Path, name: str) -> str:
        with _moving(self.inbox):
            for rest in self.path.parent.iterdir():
                if rest != self.path:
                    rest.unlink()
            self.path.replace(folder / name)
            self.path.parent.rmdir()
        return f"{folder.name}/{name}"


def _cut(text: str, most: int) -> str:
    """The beginning of a name, of at most so many bytes."""
    whole = os.fsencode(text)
    return text if len(whole) <= most else whole[:most].decode("utf-8", "ignore")


@contextmanager
def _faults_said(what: str) -> Iterator[None]:
    """Tell what the disk refuses from what is wrong with a file."""
    try:
        yield
    except OSError as error:
        why = error.strerror
    except BadInput as error:
        why = error.problems[0].rpartition(": ")[2]  # without the file's name, which Prefect must not store
    else:
        return
    raise InboxFault(what, why)


@contextmanager
def _moving(inbox: Path) -> Iterator[None]:
    """Files come into ``.taken`` and leave it one at a time: the next one may have the same name."""
    (inbox / TAKEN).mkdir(mode=0o700, exist_ok=True)
    handle = os.open(inbox / TAKEN / _LOCK, _LOCK_FILE, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


class Inbox:
    """The folder of the settings. Make it with ``inbox_of``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def complete(self) -> list[str]:
        """Names of the files that can be taken now: first what a run that died has left, then the oldest."""
        taken = (Path(entry) for entry in self._entries(self.folder / TAKEN) if entry.is_dir(follow_symlinks=False))
        left = sorted(folder.name for folder in taken if os.path.lexists(folder / folder.name))
        found: list[tuple[float, str]] = []
        for entry in self._entries(self.folder):
            if entry.name in left or not _may_be_taken(entry.name) or not entry.is_file(follow_symlinks=False):
                continue
            try:
                written_at = entry.stat(follow_symlinks=False).st_mtime
            except FileNotFoundError:  # another run has taken it meanwhile
                continue
            age_s = time.time() - written_at
            if age_s >= QUIET_S or age_s < -_DAY_S:  # a file of tomorrow bears a wrong date, and would never be taken
                found.append((written_at, entry.name))
        return left + [name for _, name in sorted(found)]

    @contextmanager
    def take(self, name: str) -> Iterator[Taken]:
        """Take a file for this run alone; it stays in ``.taken`` unless it is finished or rejected in the block.

        Raises:
            BadInput: there is no such file, or it is no plain file of its own (a link, a folder, a pipe).
            InboxBusy: another run has it.
            InboxFault: it cannot be moved.
        """
        source = self.folder / TAKEN / name / name
        handle = self._held(name, source)
        try:
            taken = Taken(name, source, self.folder)
            self._refuse_odd(taken)
            yield taken
        finally:
            os.close(handle)

    def _held(self, name: str, source: Path) -> int:
        """Move the file to where it is worked, and make it this run's alone; gives the lock that keeps it."""
        try:
            # Locked before the next may move files: else the one that has it could end, and remove what is locked here.
            with _moving(self.folder):
                if not source.is_symlink() and not source.exists():
                    self._check_plain(self.folder / name)
                    source.parent.mkdir(mode=0o700, exist_ok=True)
                    (self.folder / name).rename(source)
                handle = os.open(source.parent / _LOCK, _LOCK_FILE, 0o600)
                try:
                    self._lock(handle)
                except BaseException:
                    os.close(handle)
                    raise
        except OSError as error:
            why = error.strerror
        else:
            return handle
        raise InboxFault("a file cannot be taken", why)

    @staticmethod
    def _refuse_odd(taken: Taken) -> None:
        if _is_too_long(taken.name):
            taken.reject([f"file: its name is longer than {_LONGEST_NAME} bytes; give it a shorter one"])
            raise BadInput([f"file: its name is longer than {_LONGEST_NAME} bytes; it was moved to rejected."])
        try:
            handle = os.open(taken.path, _NO_LINK)
        except OSError as error:
            taken.reject([f"file: cannot be read ({error.strerror})"])
            raise BadInput(["file: is no plain file, or cannot be read; it was moved to rejected."]) from None
        try:
            plain = stat.S_ISREG(os.fstat(handle).st_mode)
        finally:
            os.close(handle)
        if not plain:
            taken.reject(["file: is no plain file"])
            raise BadInput(["file: is no plain file; it was moved to rejected."])

    def read(self, name: str) -> BinaryIO:
        """Open a file of the inbox only to read it, where it lies. Raises ``BadInput``."""
        self._check_plain(self.folder / name)
        try:
            handle = os.open(self.folder / name, _NO_LINK)
        except OSError as error:
            raise BadInput([f"file: cannot be read ({error.strerror})."]) from None
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise BadInput(["file: is no plain file."])
        return os.fdopen(handle, "rb")

    @staticmethod
    def _lock(handle: int) -> None:
        """Make the file this run's alone; the kernel ends that with the process, however it ends."""
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InboxBusy from None

    @staticmethod
    def _check_plain(path: Path) -> None:
        try:
            found = path.lstat()
        except OSError:
            raise BadInput(["file: there is no file of this name in the inbox."]) from None
        if not stat.S_ISREG(found.st_mode):
            raise BadInput(["file: is no plain file; links are not followed."])
        if found.st_nlink > 1:
            raise BadInput(["file: is linked to from elsewhere; put a copy of its own into the inbox."])

    @staticmethod
    def _entries(folder: Path) -> list["os.DirEntry[str]"]:
        try:
            with os.scandir(folder) as entries:
                return list(entries)
        except FileNotFoundError:
            return []


def inbox_of(settings: Settings) -> Inbox:
    """The inbox of the settings. Raises ``BadSettings``."""
    folder = settings.inbox
    if folder is None:
        raise BadSettings(["ONBOARDING_INBOX: is not set; name the folder from which files are taken."])
    if not folder.is_absolute() or not folder.is_dir():
        raise BadSettings(["ONBOARDING_INBOX: must be the absolute path of a folder that stands."])
    return Inbox(folder)
