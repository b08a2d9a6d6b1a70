"""The ledger's tables, as SQLModel models.

They hold what the database checks too: one live case per business key, the statuses of the transition tables, one holder
per claim. Columns ending in ``_sealed`` are encrypted; everything else is free of personal data and credentials. Writes
are Core statements on ``Model.__table__``, not an ORM session each.
"""

from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import JSON, CheckConstraint, DateTime, Dialect, Index, LargeBinary, String, TypeDecorator, text
from sqlmodel import Field, SQLModel

from onboarding.ledger.batch_states import BatchState, RowStanding
from onboarding.ledger.states import CaseStatus, StepName, StepStatus


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC datetime on every database; SQLite, which has no zones, stores it naive."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse naive values and store UTC."""
        if value is None:
            return None
        assert value.tzinfo is not None, "the ledger takes aware datetimes only"
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - SQLAlchemy's signature
        """Give the zone back."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _one_of(column: str, values: Any) -> CheckConstraint:
    words = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({words})", name=f"{column}_is_known")


_UTC: Any = UtcDateTime
_JSON: Any = JSON(none_as_null=True)
_SEALED: Any = LargeBinary


class CaseRow(SQLModel, table=True):
    """One subject's onboarding, with its lease and the head of its trail."""

    __tablename__: ClassVar[Any] = "onboarding_case"
    __table_args__: ClassVar[Any] = (
        Index(
            "one_live_case_per_business_key",
            "business_key",
            unique=True,
            sqlite_where=text("status <> 'cancelled'"),
            postgresql_where=text("status <> 'cancelled'"),
        ),
        Index(
            "work_that_is_due",
            "due_at",
            sqlite_where=text("status = 'ready'"),
            postgresql_where=text("status = 'ready'"),
        ),
        _one_of("status", ("draft", *CaseStatus)),  # the first migration let drafts in; no case has ever been one
    )

    id: str = Field(primary_key=True, max_length=26)
    business_key: str
    study_id: str
    mode: str
    subject_id: str
    inventory_id: str | None = None
    request_sealed: bytes = Field(sa_type=_SEALED)
    request_digest: str
    section_digests: dict[str, str] = Field(sa_type=_JSON)
    openspecimen_address: str
    clinical_one_address: str
    batch_id: str | None = Field(default=None, index=True)
    status: str = Field(max_length=16)
    reason: str | None = None
    due_at: datetime | None = Field(default=None, sa_type=_UTC)
    blocked_login: str | None = None
    lease_owner: str | None = None
    lease_until: float | None = None
    lease_epoch: str | None = None
    fence: int = 0
    takings: int = 0
    idle_takings: int = 0
    late_answers: list[dict[str, Any]] | None = Field(default=None, sa_type=_JSON)
    flow_run_id: str | None = None
    created_at: datetime = Field(sa_type=_UTC)
    updated_at: datetime = Field(sa_type=_UTC)
    trail_sequence: int = 0
    trail_seal: str = ""


class BatchRow(SQLModel, table=True):
    """One file of many subjects. ``file_digest`` is keyed, and stands once the whole file was read."""

    __tablename__: ClassVar[Any] = "onboarding_batch"
    __table_args__: ClassVar[Any] = (
        Index(
            "one_batch_per_file",
            "file_digest",
            unique=True,
            sqlite_where=text("state IN ('releasing', 'released')"),
            postgresql_where=text("state IN ('releasing', 'released')"),
        ),
        _one_of("state", BatchState),
    )

    id: str = Field(primary_key=True, max_length=26)
    state: str = Field(max_length=16)
    file_digest: str | None = None
    name_sealed: bytes | None = Field(default=None, sa_type=_SEALED)
    actor: str
    openspecimen_address: str
    clinical_one_address: str
    rows: int = 0
    created_at: datetime = Field(sa_type=_UTC)
    updated_at: datetime = Field(sa_type=_UTC)


class BatchLineRow(SQLModel, table=True):
    """One row of such a file. Its request stays here, sealed for the case it will be, until the batch is released."""

    __tablename__: ClassVar[Any] = "onboarding_batch_row"
    __table_args__: ClassVar[Any] = (
        Index("rows_of_one_onboarding", "batch_id", "business_key"),
        Index("batches_of_a_case", "case_id", "batch_id"),
        _one_of("standing", RowStanding),
    )

    batch_id: str = Field(primary_key=True, foreign_key="onboarding_batch.id", max_length=26)
    number: int = Field(primary_key=True)
    line: int
    standing: str = Field(max_length=16)
    case_id: str | None = Field(default=None, max_length=26)
    same_as: int | None = None
    business_key: str | None = None
    request_digest: str | None = None
    section_digests: dict[str, str] | None = Field(default=None, sa_type=_JSON)
    request_sealed: bytes | None = Field(default=None, sa_type=_SEALED)
    problems_sealed: bytes | None = Field(default=None, sa_type=_SEALED)


class IntentColumns(SQLModel):
    """The last intent of a step or of a shared claim, and what is known of it."""

    attempts: int = 0
    probes: int = 0
    absences: int = 0
    in_doubt: bool = False
    intent: dict[str, Any] | None = Field(default=None, sa_type=_JSON)
    intent_sealed: bytes | None = Field(default=None, sa_type=_SEALED)
    quiet_until: float | None = None
    quiet_epoch: str | None = None


class StepRow(IntentColumns, table=True):
    """One step of a case."""

    __tablename__: ClassVar[Any] = "onboarding_step"
    __table_args__: ClassVar[Any] = (_one_of("status", StepStatus), _one_of("name", StepName))

    case_id: str = Field(primary_key=True, foreign_key="onboarding_case.id", max_length=26)
    name: str = Field(primary_key=True, max_length=16)
    status: str = Field(max_length=16)
    waits: int = 0
    waiting_since: datetime | None = Field(default=None, sa_type=_UTC)
    met_already_registered: bool = False
    code: str | None = None
    http_status: int | None = None
    vendor_text_sealed: bytes | None = Field(default=None, sa_type=_SEALED)
    outcome: dict[str, Any] | None = Field(default=None, sa_type=_JSON)
    credentials_sealed: bytes | None = Field(default=None, sa_type=_SEALED)
    updated_at: datetime = Field(sa_type=_UTC)
    done_at: datetime | None = Field(default=None, sa_type=_UTC)


class EventRow(SQLModel, table=True):
    """One entry of a case's append-only trail, sealed with an HMAC over itself and the entry before."""

    __tablename__: ClassVar[Any] = "onboarding_event"

    case_id: str = Field(primary_key=True, foreign_key="onboarding_case.id", max_length=26)
    sequence: int = Field(primary_key=True)
    at: datetime = Field(sa_type=_UTC)
    actor: str
    kind: str = Field(sa_type=String(32))
    step: str | None = Field(default=None, max_length=16)
    code: str | None = None
    detail: dict[str, Any] | None = Field(default=None, sa_type=_JSON)
    reason_sealed: bytes | None = Field(default=None, sa_type=_SEALED)
    key_id: str
    seal: str


class ClaimRow(IntentColumns, table=True):
    """A hold on something that other cases could touch too; for exceptions it carries the intent itself."""

    __tablename__: ClassVar[Any] = "onboarding_claim"
    __table_args__: ClassVar[Any] = (
        CheckConstraint("state IN ('held', 'done', 'unknown', 'free')", name="state_is_known"),
    )

    kind: str = Field(primary_key=True, max_length=32)
    key: str = Field(primary_key=True)
    bound_to: str
    state: str = Field(max_length=8)
    holder_case: str | None = Field(default=None, index=True)
    holder_fence: int | None = None
    effect_id: str | None = None
    effect_seen_at: float | None = None
    effect_epoch: str | None = None
    duplicates: list[str] | None = Field(default=None, sa_type=_JSON)
    updated_at: datetime = Field(sa_type=_UTC)


class VendorStateRow(SQLModel, table=True):
    """What every process must know of a vendor: a time before which nobody sends, or a refused log-in."""

    __tablename__: ClassVar[Any] = "onboarding_vendor_state"

    system: str = Field(primary_key=True)
    kind: str = Field(primary_key=True, max_length=16)
    digest: str = Field(primary_key=True, default="")
    code: str | None = None
    not_before: datetime | None = Field(default=None, sa_type=_UTC)
    at: datetime = Field(sa_type=_UTC)


class LedgerRow(SQLModel, table=True):
    """One row: which key this ledger belongs to."""

    __tablename__: ClassVar[Any] = "onboarding_ledger"

    id: int = Field(primary_key=True, default=1)
    key_id: str
    created_at: datetime = Field(sa_type=_UTC)
