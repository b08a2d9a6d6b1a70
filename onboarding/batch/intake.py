"""Taking a file in: good rows wait encrypted in the ledger, and become cases all at once when the whole file is good."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from onboarding.batch.reading import BatchFile, open_batch
from onboarding.batch.rows import Row, RowProblem
from onboarding.errors import BadInput, OnboardingError
from onboarding.ledger import batches, drafting, opening, releasing
from onboarding.ledger.batch_states import BatchState, RowStanding
from onboarding.ledger.batches import BatchView
from onboarding.ledger.drafting import BadRow, Draft
from onboarding.ledger.ledger import Ledger
from onboarding.ledger.opening import Addresses
from onboarding.settings import Settings
from onboarding.workbench import check_mode

Report = Callable[[RowProblem], None]
_BLOCK = 1 << 20


class IntakeStopped(OnboardingError):
    """The reading of a file was stopped before it was released: nothing was opened, and its drafts are gone."""

    def __init__(self) -> None:
        super().__init__("stopped while the file was read; nothing was opened.")


def _go_on() -> bool:
    return False


@dataclass(frozen=True)
class Intake:
    """What taking a file in came to.

    Attributes:
        batch_id: the batch, for ``batches.counts``, ``batches.outcomes`` and ``Ledger.find_due``.
        released: its good rows are cases now. Else nothing was opened.
        known: this very file was released before; its batch goes on, and nothing was opened twice.
        whole: the file was read to its end (not if it cannot be told where a row begins, for instance).
        rows: rows of the file; so many of them were left out because of a problem (``left_out``), opened a new case
            (``opened``), found theirs (``found``) or replaced its request (``replaced``), or repeat an earlier row of the
            file (``repeated``). Of a rejected file only ``rows`` and ``left_out`` are known.
    """

    batch_id: str
    released: bool
    known: bool
    whole: bool
    rows: int
    left_out: int
    opened: int = 0
    found: int = 0
    replaced: int = 0
    repeated: int = 0


def take_in_file(
    ledger: Ledger,
    path: Path,
    *,
    addresses: Addresses,
    actor: str,
    settings: Settings,
    skip_bad: bool = False,
    report: Report | None = None,
    stopped: Callable[[], bool] = _go_on,
) -> Intake:
    """Take in a file by its path; see ``take_in``. A file that was released before is recognised without parsing it."""
    version, sha256 = _version_of(path), _sha256_of(path)
    if sha256 is not None and (known := batches.batch_of_file(ledger, batches.file_digest(ledger, sha256))):
        _refuse_other_systems(known, addresses)
        releasing.finish_release(ledger, known.id)
        return _told(ledger, known.id, known=True)
    with open_batch(path) as file:
        return take_in(
            ledger,
            file,
            addresses=addresses,
            actor=actor,
            settings=settings,
            name=path.name,
            skip_bad=skip_bad,
            report=report,
            stopped=stopped,
            unchanged=lambda: sha256 in (None, file.sha256) and _version_of(path) == version,
        )


def take_in(
    ledger: Ledger,
    file: BatchFile,
    *,
    addresses: Addresses,
    actor: str,
    settings: Settings,
    name: str | None = None,
    skip_bad: bool = False,
    report: Report | None = None,
    stopped: Callable[[], bool] = _go_on,
    unchanged: Callable[[], bool] = lambda: True,
) -> Intake:
    """Read a file into the ledger and release its rows as cases, or reject it.

    Every problem of every row goes to ``report`` as it is found, and stays for ``batches.outcomes`` in the file's order. The
    file is rejected if a row has one, unless ``skip_bad`` leaves those rows out and there is a good one; it is always
    rejected if it could not be read to its end, or is not ``unchanged`` when it was. Then nothing was opened. Interrupted at
    any point, the same call again gives the same end.

    It blocks: reading, encrypting and short transactions, a thousand rows each.

    Raises:
        BadInput: the file was released before, for other systems than ``addresses``.
        LedgerError: ``BatchGone`` among it: somebody swept this batch while its reading stood still.
        IntakeStopped: ``stopped``, which may be asked in any thread, said so before anything was released.
    """
    batches.sweep(ledger)
    releasing.finish_releases(ledger)
    batch_id = batches.open_batch(ledger, addresses, actor=actor, name=name)
    reading = _Reading(ledger, batch_id, settings, report or (lambda _problem: None), stopped)
    try:
        reading.take(file)
        if reading.whole and not unchanged():
            reading.give_up(
                RowProblem(0, 1, "file", "was written to while it was read; give it again when it is whole")
            )
        reading.refuse_if_stopped()
    except BaseException:
        batches.reject(ledger, batch_id)
        raise
    if not reading.whole or (reading.left_out and not skip_bad) or reading.left_out == reading.rows:
        digest = batches.file_digest(ledger, file.sha256) if reading.whole else None
        batches.reject(ledger, batch_id, file_digest=digest, rows=reading.rows)
        return Intake(
            batch_id, released=False, known=False, whole=reading.whole, rows=reading.rows, left_out=reading.left_out
        )
    digest = batches.file_digest(ledger, file.sha256)
    released = releasing.release(ledger, batch_id, digest, reading.rows)
    if released != batch_id:
        batches.reject(ledger, batch_id)
        known = batches.batch(ledger, released)
        assert known is not None, "a released batch stays"
        _refuse_other_systems(known, addresses)
    return _told(ledger, released, known=released != batch_id)


@dataclass
class _Reading:
    """The rows of one file on their way into the ledger."""

    ledger: Ledger
    batch_id: str
    settings: Settings
    report: Report
    stopped: Callable[[], bool]
    whole: bool = True
    rows: int = 0
    left_out: int = 0
    _drafts: list[Draft] = field(default_factory=list)
    _bad: list[BadRow] = field(default_factory=list)

    def take(self, rows: Iterable[Row]) -> None:
        for row in rows:
            if row.number == 0:
                self.whole = False
                self._leave_out(row, row.problems)
                continue
            self.rows += 1
            request = self._checked(row)
            if isinstance(request, Draft):
                self._drafts.append(request)
            else:
                self._leave_out(row, request)
            if len(self._drafts) + len(self._bad) >= batches.CHUNK:
                self._store()
        self._store()

    def give_up(self, problem: RowProblem) -> None:
        """The file as a whole cannot be relied upon."""
        self.whole = False
        self._bad.append(BadRow(problem.number, problem.line, (f"{problem.column}: {problem.what}",)))
        self.report(problem)
        self._store()

    def _checked(self, row: Row) -> Draft | tuple[RowProblem, ...]:
        request = row.request()
        if isinstance(request, tuple):
            return request
        try:
            check_mode(request, self.settings)
        except BadInput as wrong:
            return row.worded(wrong.problems)
        return Draft(row.number, row.line, opening.prepare(self.ledger.key, request))

    def _leave_out(self, row: Row, problems: tuple[RowProblem, ...]) -> None:
        self.left_out += row.number > 0
        self._bad.append(BadRow(row.number, row.line, tuple(f"{each.column}: {each.what}" for each in problems)))
        for problem in problems:
            self.report(problem)

    def refuse_if_stopped(self) -> None:
        """Raise ``IntakeStopped`` if somebody wants no more of this."""
        if self.stopped():
            raise IntakeStopped

    def _store(self) -> None:
        self.refuse_if_stopped()
        if not self._drafts and not self._bad:
            return
        found = drafting.add_rows(self.ledger, self.batch_id, self._drafts, self._bad)
        self._drafts, self._bad = [], []
        self.left_out += len(found)
        for bad in found:
            for problem in bad.problems:
                place, _, what = problem.partition(": ")
                self.report(RowProblem(bad.number, bad.line, place, what))


def _refuse_other_systems(known: BatchView, addresses: Addresses) -> None:
    """Else a batch that is done there would look done here, where nothing was sent."""
    if known.addresses != addresses:
        what = f"this very file was taken in before, as batch {known.id}, for other systems (addresses) than the ones set now. "
        raise BadInput(
            [f"file: {what}Set those again; or, if these are really other systems, give them a ledger of their own."]
        )


def _told(ledger: Ledger, batch_id: str, *, known: bool) -> Intake:
    batch = batches.batch(ledger, batch_id)
    assert batch is not None, "a released batch stays"
    rows = batches.counts(ledger, batch_id).rows
    return Intake(
        batch_id,
        released=batch.state in (BatchState.RELEASING, BatchState.RELEASED),
        known=known,
        whole=True,
        rows=batch.rows,
        left_out=rows.get(RowStanding.LEFT_OUT, 0),
        opened=rows.get(RowStanding.OPENED, 0),
        found=rows.get(RowStanding.FOUND, 0),
        replaced=rows.get(RowStanding.REPLACED, 0),
        repeated=rows.get(RowStanding.REPEATED, 0),
    )


def _version_of(path: Path) -> tuple[int, int] | None:
    """What changes when a plain file is written to."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_size, found.st_mtime_ns) if path.is_file() else None


def _sha256_of(path: Path) -> str | None:
    """The digest of a plain file; None of a pipe, which can be read only once, and of what cannot be read."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return None
