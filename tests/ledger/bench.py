"""What the ledger's tests share: a ledger with a clock that is set by hand, and short words for common moves."""

import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, text

from onboarding.ledger.claims import ClaimKey, ClaimKind
from onboarding.ledger.leasing import Closed, Runner
from onboarding.ledger.ledger import Ledger
from onboarding.ledger.opening import Addresses, Opened
from onboarding.ledger.states import CaseStatus, StepName, StepStatus
from onboarding.ledger.step_writes import StepWrite
from onboarding.ledger.together import ALONE, Fenced, Taking
from onboarding.ledger.views import CaseView, EventView, Held, Intent, StepView
from onboarding.ledger.writes import CaseWrite, Lease
from onboarding.request import OnboardingRequest
from tests.support.requests import LEFT_OUT, request

ADDRESSES = Addresses("https://openspecimen.example/openspecimen", "https://clinical-one.example")
OTHER_ADDRESSES = Addresses("https://openspecimen.example/openspecimen", "https://another.example")
LEASE_S = 30.0
QUIET_S = 10.0
INTENT = Intent(b'{"ppid":"ASCI123"}', QUIET_S, {"before": {"ppid": "digest"}})
OTHER_SUBJECT = "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF"
THIRD_SUBJECT = "EEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEE"
OTHER_INVENTORY = "C1000000000000000000000000000002"
TABLES = ("case", "step", "event", "claim", "vendor_state", "ledger", "batch", "batch_row")
REGISTRATION, DISPENSATION, DEVICE, EXCEPTION = StepName


class HandClock:
    """A lease clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.epoch = "boot 1"
        self.seconds = 1000.0

    def __call__(self, _connection: Connection) -> tuple[str, float]:
        return self.epoch, self.seconds

    def advance(self, seconds: float) -> None:
        self.seconds += seconds

    def reboot(self) -> None:
        """Another boot: its seconds begin anew."""
        self.epoch, self.seconds = "boot 2", 3.0


@dataclass
class Bench:
    """A ledger, the clock it goes by, and a connection of one's own to its database."""

    ledger: Ledger
    clock: HandClock
    engine: Engine = field(init=False)
    changed_the_schema: bool = field(default=False, init=False)
    _before_each: str = field(default="", init=False)

    def __post_init__(self) -> None:
        self.engine = create_engine(self.ledger.store.url)

    def close(self) -> None:
        self.engine.dispose()
        self.ledger.close()

    @property
    def is_sqlite(self) -> bool:
        return self.ledger.store.is_sqlite

    # Raw looks and changes, as by somebody who has the database and no key

    def sql(self, statement: str, **values: Any) -> list[dict[str, Any]]:
        self.changed_the_schema |= re.search("^(ALTER|CREATE|DROP)|onboarding_schema", statement) is not None
        with self.engine.begin() as connection:
            if self._before_each:
                connection.exec_driver_sql(self._before_each)
            result = connection.execute(text(statement), values)
            return [dict(row) for row in result.mappings()] if result.returns_rows else []

    def content(self) -> Mapping[str, list[str]]:
        """Every row of every table."""
        return {table: sorted(repr(row) for row in self.sql(f"SELECT * FROM onboarding_{table}")) for table in TABLES}

    def until_it_waits(self, work: Future[Any]) -> None:
        """Return once ``work``, which is under way, waits for a lock of somebody else (PostgreSQL, which tells)."""
        waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        while not self.sql(waits)[0]["count"]:
            assert not work.done()

    def let_the_trail_be_changed(self) -> None:
        """Get around what keeps the trail append-only, as an owner of the database can."""
        if self.is_sqlite:
            for action in ("update", "delete"):
                self.sql(f"DROP TRIGGER onboarding_event_no_{action}")
        else:
            self._before_each = "SET LOCAL session_replication_role = replica"

    # Moves

    def opened(self, wanted: OnboardingRequest | None = None, **options: Any) -> Opened:
        return self.ledger.open_case(wanted or request(), ADDRESSES, **{"actor": "tester", **options})

    def open(self, wanted: OnboardingRequest | None = None, **options: Any) -> str:
        return self.opened(wanted, **options).case_id

    def take(
        self,
        case_id: str,
        *,
        seconds: float = LEASE_S,
        addresses: Addresses = ADDRESSES,
        retry: bool = False,
        **more: Any,
    ) -> Lease | Held | Closed:
        return self.ledger.take(case_id, Runner("runner", seconds, **more), addresses, retry=retry)

    def lease(self, case_id: str, **options: Any) -> Lease:
        taken = self.take(case_id, **options)
        assert isinstance(taken, Lease), taken
        return taken

    def open_and_lease(self, wanted: OnboardingRequest | None = None) -> Lease:
        return self.lease(self.open(wanted))

    def do(self, lease: Lease, step: StepName, move: Callable[[StepWrite], Any]) -> Any:
        """One move of one step, as one fenced write."""
        return self.ledger.fenced(lease, lambda write: move(write.step(step)))

    def bring(self, lease: Lease, step: StepName, status: StepStatus) -> None:
        """Bring a pending step to a status."""
        moves: Mapping[StepStatus, Callable[[StepWrite], Any]] = {
            StepStatus.PENDING: lambda s: s.view(),
            StepStatus.OPEN: lambda s: s.intend(INTENT),
            StepStatus.DONE: applied,
            StepStatus.REFUSED: lambda s: s.refuse("CPR_DUP_PPID"),
            StepStatus.UNKNOWN: lambda s: s.inconclusive("CHANGED_BY_SOMEONE_ELSE"),
        }
        self.do(lease, step, moves[status])

    def together(self, works: Sequence[Taking | Fenced[Any]]) -> list[Any]:
        """Work on many cases at once, and what has to be done alone after that, as a runner would."""
        results = self.ledger.work_together(works)
        return [
            self.ledger.work_together([work], wait=True)[0] if result is ALONE else result
            for work, result in zip(works, results, strict=True)
        ]

    def need_attention(self, lease: Lease) -> None:
        self.ledger.fenced(lease, lambda write: write.need_attention("LOOK"))

    def park(self, lease: Lease, wait_s: float = 0.0, **options: Any) -> None:
        self.ledger.fenced(lease, lambda write: write.park(wait_s, "LATER", **options))

    def finish(self, lease: Lease) -> None:
        """Find every requested step as it should be, and finish."""

        def change(write: CaseWrite) -> None:
            for name in StepName:
                if write.step(name).status is StepStatus.PENDING:
                    write.step(name).found({})
            write.finish()

        self.ledger.fenced(lease, change)

    # Looks

    def case(self, case_id: str) -> CaseView:
        found = self.ledger.case(case_id)
        assert found is not None
        return found

    def step(self, case_id: str, step: StepName) -> StepView:
        return self.case(case_id).steps[step]

    def standing(self, case_id: str) -> tuple[CaseStatus, str | None]:
        case = self.case(case_id)
        return case.status, case.reason

    def statuses(self, case_id: str) -> list[StepStatus]:
        return [step.status for step in self.case(case_id).steps.values()]

    def kinds(self, case_id: str) -> list[str]:
        return [event.kind for event in self.ledger.events(case_id)]

    def last_event(self, case_id: str) -> EventView:
        return self.ledger.events(case_id)[-1]

    def claim(self, key: str) -> dict[str, Any]:
        (row,) = self.sql("SELECT * FROM onboarding_claim WHERE key = :key", key=key)
        return row


def applied(step: StepWrite) -> None:
    """Sent, and applied."""
    step.intend(INTENT)
    step.applied({"changed": ["ppid"]}, code="UPDATED")


def registration_claim(bound_to: str, key: str = "registration 1") -> ClaimKey:
    return ClaimKey(ClaimKind.REGISTRATION, key, bound_to)


def other_subject(number: str = OTHER_SUBJECT, **changes: Any) -> OnboardingRequest:
    return request(subject__subject_id=number, **changes)


def without_device(**changes: Any) -> OnboardingRequest:
    return request(device=LEFT_OUT, **changes)
