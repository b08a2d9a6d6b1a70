"""Tables as Core sees them, and their rows as the values that are handed out."""

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import CursorResult

from onboarding.ledger.states import StepName, StepStatus
from onboarding.ledger.tables import (
    BatchLineRow,
    BatchRow,
    CaseRow,
    ClaimRow,
    EventRow,
    LedgerRow,
    StepRow,
    VendorStateRow,
)
from onboarding.ledger.views import IntentView, StepView

Row = dict[str, Any]

# SQLModel adds __table__ to table models at run time.
CASES: Final = CaseRow.__table__  # type: ignore[attr-defined]
STEPS: Final = StepRow.__table__  # type: ignore[attr-defined]
EVENTS: Final = EventRow.__table__  # type: ignore[attr-defined]
CLAIMS: Final = ClaimRow.__table__  # type: ignore[attr-defined]
VENDORS: Final = VendorStateRow.__table__  # type: ignore[attr-defined]
BATCHES: Final = BatchRow.__table__  # type: ignore[attr-defined]
BATCH_ROWS: Final = BatchLineRow.__table__  # type: ignore[attr-defined]
LEDGER: Final = LedgerRow.__table__  # type: ignore[attr-defined]

LEASE_MARGIN_S: Final = 1.0  # a lease reaches this much past an intent's quiet time
NO_INTENT: Final[Mapping[str, Any]] = {
    "intent": None,
    "intent_sealed": None,
    "in_doubt": False,
    "quiet_until": None,
    "quiet_epoch": None,
}


def all_rows(result: CursorResult[Any]) -> list[Row]:
    """Every row, as a dictionary by column name."""
    return [dict(row) for row in result.mappings()]


def one_row(result: CursorResult[Any]) -> Row:
    """The one row."""
    return dict(result.mappings().one())


def maybe_row(result: CursorResult[Any]) -> Row | None:
    """The one row, or None."""
    row = result.mappings().one_or_none()
    return None if row is None else dict(row)


def intent_view(row: Mapping[str, Any], epoch: str, seconds: float) -> IntentView:
    """The intent columns of a row, as seen at ``seconds`` of ``epoch``; another epoch's quiet time starts anew."""
    facts = row["intent"] or {}
    left = 0.0
    if row["quiet_until"] is not None:
        left = row["quiet_until"] - seconds if row["quiet_epoch"] == epoch else facts.get("quiet_s", 0.0)
    earlier = row["quiet_until"] is not None and row["quiet_epoch"] != epoch
    return IntentView(row["attempts"], row["probes"], row["absences"], row["in_doubt"], facts, max(0.0, left), earlier)


def step_view(row: Mapping[str, Any], epoch: str, seconds: float) -> StepView:
    """A step's row as the value that is handed out."""
    return StepView(
        name=StepName(row["name"]),
        status=StepStatus(row["status"]),
        intent=intent_view(row, epoch, seconds),
        waits=row["waits"],
        waiting_since=row["waiting_since"],
        met_already_registered=row["met_already_registered"],
        code=row["code"],
        http_status=row["http_status"],
        outcome=row["outcome"] or {},
        updated_at=row["updated_at"],
        done_at=row["done_at"],
    )
