"""Tables as Core sees them, and their rows as the values that are handed out."""

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import CursorResult

from onboarding.clocks import DATABASE_EPOCH, boot_id, boot_seconds
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
QUIET_ENDS: Final = "quiet_ends"  # in an open intent: when its quiet time ends by the clocks of other boots
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


def quiet_clock(epoch: str, seconds: float) -> tuple[str, float]:
    """The clock by which quiet times go, beside the lease clock: never one that can be set, as a database's can.

    A step forwards (or a standby whose clock is ahead) would let a request on its way be taken for absent.
    """
    return (boot_id(), boot_seconds()) if epoch == DATABASE_EPOCH else (epoch, seconds)


def quiet_time(epoch: str, seconds: float, quiet_s: float, intent: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of an intent's quiet time that begins now; its end by a database's clock is noted for decisions."""
    here, now = quiet_clock(epoch, seconds)
    ends = {} if here == epoch else {QUIET_ENDS: {epoch: seconds + quiet_s}}
    facts = {name: fact for name, fact in intent.items() if name != QUIET_ENDS}
    return {"quiet_until": now + quiet_s, "quiet_epoch": here, "intent": {**facts, **ends}}


def quiet_time_here(row: Mapping[str, Any], epoch: str, seconds: float) -> dict[str, Any]:
    """What changes when an open intent comes to another boot or machine: its quiet time is counted there, from the start.

    Clocks of two boots cannot be compared, and it was committed before whoever counts anew. Each remembers its own end, so
    that machines which take a case in turn do not start it again and again.
    """
    here, now = quiet_clock(epoch, seconds)
    if row["quiet_until"] is None or row["quiet_epoch"] == here:
        return {}
    ends = {**row["intent"].get(QUIET_ENDS, {}), row["quiet_epoch"]: row["quiet_until"]}
    until = ends.pop(here, now + row["intent"]["quiet_s"])
    return {"quiet_until": until, "quiet_epoch": here, "intent": {**row["intent"], QUIET_ENDS: ends}}


def intent_view(row: Mapping[str, Any], epoch: str, seconds: float) -> IntentView:
    """The intent columns of a row, as seen at ``seconds`` of ``epoch``; another boot's quiet time starts anew."""
    epoch, seconds = quiet_clock(epoch, seconds)
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
