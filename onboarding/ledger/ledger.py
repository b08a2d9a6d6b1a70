"""The ledger: the truth about every case. Each method is one transaction on SQLite or PostgreSQL."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, case, delete, func, insert, select
from sqlalchemy.dialects import postgresql, sqlite

from onboarding.clocks import utc_now
from onboarding.errors import BadSettings, LedgerError
from onboarding.intake import IntakeRequest
from onboarding.keys import LedgerKey, key_file, make_key_file, read_key_file
from onboarding.ledger import claims, deciding, leasing, opening, reading, revealing, together, trail
from onboarding.ledger.claims import ClaimKey
from onboarding.ledger.columns import CASES, LEDGER, VENDORS
from onboarding.ledger.deciding import Decided, Holds
from onboarding.ledger.fixed import FixedRows
from onboarding.ledger.leasing import Closed, Runner
from onboarding.ledger.opening import Addresses, Opened
from onboarding.ledger.states import CaseStatus
from onboarding.ledger.store import SCHEMA_VERSION, Store, prepare_folder, schema_version
from onboarding.ledger.together import Begun, Fenced, Taking
from onboarding.ledger.views import CaseView, EventView, Held
from onboarding.ledger.writes import CaseWrite, Lease
from onboarding.request import OnboardingRequest
from onboarding.settings import Settings

_log: Final = logging.getLogger("onboarding.ledger")
T = TypeVar("T")
_Head = tuple[str | None, str | None]
"""A ledger's schema version, and (of this version's schema) the id of the key that it belongs to; None is none."""
_KEY: Final = FixedRows([LEDGER.c.key_id])


class Ledger:
    """One ledger and its key. Thread-safe; open it with ``open_ledger``."""

    def __init__(self, store: Store, key: LedgerKey) -> None:
        self.store = store
        self.key = key

    def close(self) -> None:
        """Give every connection back."""
        self.store.close()

    # Cases

    def open_case(
        self,
        request: OnboardingRequest,
        addresses: Addresses,
        *,
        actor: str,
        batch_id: str | None = None,
    ) -> Opened:
        """Find or make the request's case; raises ``RequestConflict``."""

        def change(connection: Connection) -> Opened:
            epoch, seconds = self.store.clock(connection)
            return opening.open_case(
                connection,
                self.key,
                request,
                addresses,
                actor=actor,
                epoch=epoch,
                seconds=seconds,
                batch_id=batch_id,
            )

        return self.store.write(change)

    def request(self, case_id: str) -> IntakeRequest:
        """The case's request, decrypted."""
        sealed = self.store.read(
            lambda c: c.execute(select(CASES.c.request_sealed).where(CASES.c.id == case_id)).scalar_one_or_none()
        )
        if sealed is None:
            raise LedgerError(f"there is no case {case_id} in this ledger: 'onboard status' lists them.")
        return opening.stored_request(self.key.decrypt(sealed, opening.request_place(case_id)))

    def request_of(self, lease: Lease) -> IntakeRequest:
        """The leased case's request, decrypted; nobody changes it while the lease stands."""
        if lease.request is not None:
            return lease.request
        return opening.stored_request(self.key.decrypt(lease.request_sealed, opening.request_place(lease.case_id)))

    def find_due(
        self,
        *,
        limit: int,
        logins: Sequence[str] = (),
        modes: Sequence[str] | None = None,
        batch_id: str | None = None,
        now: datetime | None = None,
    ) -> list[str]:
        """Ids of the cases that are ready, due and free, oldest due first; of one batch or of all."""
        moment = now or utc_now()
        return self.store.read(
            lambda c: leasing.find_due(
                c, self.store.clock(c), now=moment, limit=limit, logins=logins, modes=modes, batch_id=batch_id
            )
        )

    def take(self, case_id: str, runner: Runner, addresses: Addresses, *, retry: bool = False) -> Lease | Held | Closed:
        """Take the case's lease, or say who has it or why it cannot be worked."""
        taken: Lease | Held | Closed = self._one(Taking(case_id, runner, addresses, retry=retry))
        return taken

    def fenced(self, lease: Lease, change: Callable[[CaseWrite], T], *, claims: Sequence[ClaimKey] = ()) -> T:
        """Run ``change`` over the leased case in one transaction; it renews the lease too.

        ``claims``: what it will look at, so that it is read with the rest.

        Raises ``LeaseLost`` if another runner has the case, ``CaseContradicted`` if a late answer says otherwise than the
        ledger (the case then needs attention), ``CommitUnknown`` if the database did not say whether it committed.
        """
        result: T = self._one(Fenced(lease, change, claims))
        return result

    def work_together(self, works: Sequence[Taking | Fenced[Any]], *, wait: bool = False) -> list[Any]:
        """Do this work on many cases in one transaction; each fails alone. See ``together.work_together``."""
        return together.work_together(self.store, self.key, works, wait=wait)

    def begin_together(self, works: Sequence[Taking | Fenced[Any]], *, wait: bool = False) -> Begun:
        """Begin this work, without waiting for anybody. See ``together.begin_together``."""
        return together.begin_together(self.store, self.key, works, wait=wait)

    def _one(self, work: Taking | Fenced[T]) -> Any:
        (done,) = self.work_together([work], wait=True)
        if isinstance(done, BaseException):
            raise done
        return done

    def renew(self, lease: Lease) -> None:
        """Let the lease last its full time again."""
        self.fenced(lease, lambda _write: None)

    def decide(self, case_id: str, decided: Decided, holds: Holds) -> None:
        """Carry out a person's decision; raises ``DecisionRefused``."""
        self.store.write(lambda c: deciding.decide(c, self.key, self.store.clock(c), case_id, decided, holds))

    def keep_late_answer(self, case_id: str, actor: str, answer: dict[str, Any]) -> None:
        """Append an answer that came after the lease was lost."""
        self.store.write(lambda c: leasing.keep_late_answer(c, self.key, case_id, actor, answer))

    def other_claims_with(self, keys: Sequence[str]) -> set[str]:
        """Which of these exception contents cases have claimed."""
        return self.store.read(lambda c: claims.other_claims_with(c, keys))

    # Looking

    def case(self, case_id: str) -> CaseView | None:
        """One case, or None."""
        return self.store.read(lambda c: reading.read_case(c, self.store.clock(c), case_id))

    def cases(
        self, *, statuses: Sequence[CaseStatus] = (), batch_id: str | None = None, limit: int | None = None
    ) -> list[CaseView]:
        """Cases, the newest first."""
        return self.store.read(
            lambda c: reading.read_cases(c, self.store.clock(c), statuses=statuses, batch_id=batch_id, limit=limit)
        )

    def events(self, case_id: str) -> list[EventView]:
        """The case's trail, the oldest entry first."""
        return self.store.read(lambda c: reading.read_events(c, self.key, case_id))

    def trail_problems(self, case_id: str) -> list[str]:
        """What is wrong with the case's trail; nothing when it is whole."""
        return self.store.read(lambda c: trail.trail_problems(c, self.key, case_id))

    def vendor_texts(self, case_id: str) -> dict[str, str]:
        """What the vendors wrote, step by step, decrypted; may hold personal data."""
        return self.store.read(lambda c: reading.read_vendor_texts(c, self.key, case_id))

    def reveal_credentials(self, case_id: str, actor: str) -> dict[str, str]:
        """The device's access code and one-time code; that they were shown, and to whom, goes into the trail."""
        return self.store.write(lambda c: revealing.reveal_credentials(c, self.key, case_id, actor))

    # What every process must know of a vendor

    def login_refused(self, system: str, digest: str) -> str | None:
        """The code with which these credentials were refused, or None."""
        query = select(VENDORS.c.code).where(
            VENDORS.c.system == system, VENDORS.c.kind == "login", VENDORS.c.digest == digest
        )
        return self.store.read(lambda c: c.execute(query).scalar_one_or_none())

    def remember_login_refused(self, system: str, digest: str, code: str) -> None:
        """From now on no process logs in with these credentials."""
        self.store.write(lambda c: _put_vendor_state(c, system, "login", digest, {"code": code}))

    def forget_login_refused(self, system: str) -> None:
        """A person mended the account on the other side: log-ins may be tried again."""
        self.store.write(
            lambda c: c.execute(delete(VENDORS).where(VENDORS.c.system == system, VENDORS.c.kind == "login"))
        )

    def not_before(self, system: str) -> float:
        """Seconds for which nobody may send to this system yet, 0 if none."""
        query = select(VENDORS.c.not_before).where(VENDORS.c.system == system, VENDORS.c.kind == "throttle")
        until = self.store.read(lambda c: c.execute(query).scalar_one_or_none())
        return 0.0 if until is None else max(0.0, (until - utc_now()).total_seconds())

    def remember_not_before(self, system: str, seconds: float) -> None:
        """Nobody sends to this system for so many seconds; a longer pause that stands already is kept."""
        values = {"not_before": utc_now() + timedelta(seconds=seconds)}
        self.store.write(lambda c: _put_vendor_state(c, system, "throttle", "", values))


def open_ledger(settings: Settings, *, create: bool = True) -> Ledger:
    """Open the ledger of the settings; a new SQLite ledger is made with a key of its own, anything else must fit.

    That one was made is logged: at an address that is wrong, it knows nothing of what another ledger has onboarded.
    ``create=False``, for those who only look: a ledger that does not stand yet is refused.

    Raises ``BadSettings`` or ``LedgerError``: a missing or wrong key, another schema, a database that could forget.
    """
    store = _store(settings)
    try:
        head = _head(store)
        if head is None:
            ledger = Ledger(store, _create(store, settings, create=create))
            check_ledger(ledger)
            _log.warning("there was no ledger at %s; a new, empty one was made there.", store.place)
        else:
            ledger = Ledger(store, _key_of(settings, store))
            _check(ledger, head)
    except BaseException:
        store.close()
        raise
    return ledger


def check_ledger(ledger: Ledger) -> None:
    """Refuse a ledger that belongs to another key, has another schema, or may forget what it committed."""
    _check(ledger, ledger.store.read(_read_head))


def _check(ledger: Ledger, head: _Head) -> None:
    version, key_id = head
    if version != SCHEMA_VERSION:
        raise LedgerError(
            f"the ledger {ledger.store.place} has schema {version or 'none'}, this version needs {SCHEMA_VERSION}: run "
            "'onboard migrate'."
        )
    if key_id != ledger.key.key_id:
        raise LedgerError(
            f"the key does not belong to the ledger {ledger.store.place}: set ONBOARDING_LEDGER_KEY to the key it was "
            "made with, or restore the key file beside it."
        )
    if problems := ledger.store.durability_problems():
        raise LedgerError("the database could forget what it committed: " + "; ".join(problems) + ".")


def migrate(settings: Settings) -> tuple[str | None, str]:
    """Bring the ledger's schema up to date (and bind a new ledger to its key). Returns the versions before and after."""
    store = _store(settings)
    try:
        head = _head(store)
        if head is None:
            _create(store, settings)
            return None, SCHEMA_VERSION
        key = _key_of(settings, store)
        before, _ = head
        if before is not None and before > SCHEMA_VERSION:
            raise LedgerError(
                f"the ledger {store.place} has schema {before}, newer than {SCHEMA_VERSION}, the last that this "
                "version knows: nothing was migrated; install the newer version."
            )
        if before is not None and _key_id(store) not in (None, key.key_id):
            raise LedgerError(
                "the key does not belong to this ledger: nothing was migrated; set ONBOARDING_LEDGER_KEY to its own."
            )
        _upgrade(store, key)
        return before, SCHEMA_VERSION
    finally:
        store.close()


def _store(settings: Settings) -> Store:
    if not __debug__:
        why = "Python runs without assertions (-O), by which this program stops before it does what must never be"
        raise BadSettings([f"PYTHONOPTIMIZE: {why}; start it without."])
    return Store(settings.ledger_url)


def _head(store: Store) -> _Head | None:
    """The head of the ledger to open, or None if there is none. An SQLite file without tables is one that is being made."""
    with _place_said_plainly(store):
        if store.path is not None and not store.path.exists():
            return None
        head = store.read(_read_head)
        return None if head[0] is None and store.path is not None and store.is_blank() else head


def _read_head(connection: Connection) -> _Head:
    version = schema_version(connection)
    if version != SCHEMA_VERSION:
        return version, None  # another one may have no such table
    (row,) = _KEY.read(connection, f"SELECT {_KEY.names} FROM {LEDGER.name}", ()) or [{"key_id": None}]  # noqa: S608
    return version, row["key_id"]


def _create(store: Store, settings: Settings, *, create: bool = True) -> LedgerKey:
    """Make a new SQLite ledger: its file, its key unless one was given, its schema; whoever comes second finds them."""
    if not create:
        raise LedgerError(
            f"there is no ledger {store.place} yet: the first 'onboard subject' makes it, or 'onboard migrate'."
        )
    assert store.path is not None, "only SQLite ledgers are made by themselves"
    with _place_said_plainly(store):
        prepare_folder(store.path)
        given = settings.ledger_key
        key = LedgerKey.from_text(make_key_file(store.path) if given is None else given.get_secret_value())
    _upgrade(store, key)
    return key


def _upgrade(store: Store, key: LedgerKey) -> None:
    from onboarding.ledger.migrations import upgrade  # noqa: PLC0415 - Alembic takes half a second to import

    with store.migrating() as connection:
        upgrade(connection)
        if connection.execute(select(func.count()).select_from(LEDGER)).scalar_one() == 0:
            connection.execute(insert(LEDGER).values(id=1, key_id=key.key_id, created_at=utc_now()))


@contextmanager
def _place_said_plainly(store: Store) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LedgerError(
            f"the ledger {store.place} cannot be used ({error.strerror}): check ONBOARDING_LEDGER_URL and the "
            "permissions of its folder."
        ) from None


def _key_of(settings: Settings, store: Store) -> LedgerKey:
    if settings.ledger_key is not None:
        return LedgerKey.from_text(settings.ledger_key.get_secret_value())
    with _place_said_plainly(store):
        text = read_key_file(store.path) if store.path is not None else None
    if text is None:
        hint = f" or put the key file back beside it ({key_file(store.path)})" if store.path is not None else ""
        raise LedgerError(
            f"the ledger {store.place} has no key here: set ONBOARDING_LEDGER_KEY to the key it was made with{hint}."
        )
    return LedgerKey.from_text(text)


def _key_id(store: Store) -> str | None:
    return store.read(lambda c: c.execute(select(LEDGER.c.key_id)).scalar_one_or_none())


def _put_vendor_state(connection: Connection, system: str, kind: str, digest: str, values: Mapping[str, Any]) -> None:
    upsert = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(VENDORS)
    row = {"system": system, "kind": kind, "digest": digest, "at": utc_now(), **values}
    changed: dict[str, Any] = {"at": row["at"], **values}
    if "not_before" in values:
        given = upsert.excluded.not_before
        changed["not_before"] = case((VENDORS.c.not_before > given, VENDORS.c.not_before), else_=given)
    connection.execute(
        upsert.values(**row).on_conflict_do_update(index_elements=["system", "kind", "digest"], set_=changed)
    )
