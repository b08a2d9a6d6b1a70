"""Step 2: the device was dispensed to this subject. A guard, not an effect: it only reads.

Source: vendor documentation ("inventory/kits/{inventoryId}/dispensation", "dispensation-history"). A history row is not
proof: only inventory status 4 (Dispensed) passes, and 17 (Not Dispensed to Subject) means not yet, or not any more.
"""

from datetime import timedelta
from typing import Final

from onboarding.clocks import boot_seconds, utc_now
from onboarding.endings import Ending
from onboarding.errors import CLINICAL_ONE, NotYet, Refused, Unavailable
from onboarding.identifiers import same_id
from onboarding.ledger.states import StepName
from onboarding.ledger.writes import CaseWrite
from onboarding.steps.report import StepReport
from onboarding.steps.session import CaseSession, Guard, Looks
from onboarding.vendors.dispensation import DISPENSED, NOT_DISPENSED_TO_SUBJECT, ConnectionType, HistoryRow

STEP = StepName.DISPENSATION
GUARD_LASTS_S: Final = 60.0
_LONGEST_PAUSE: Final = 8  # times the first pause


async def ensure_dispensation(session: CaseSession) -> StepReport:
    """Look whether the device is dispensed to the subject; a device that is not yet makes the case wait."""
    try:
        guard = await read_guard(session)
    except NotYet as error:
        return await await_dispensation(session, error)
    session.guard = guard
    outcome = {"connection": guard.connection, "visit_id": guard.visit_id}
    session.join(lambda write: write.step(STEP).found(outcome, code="DISPENSED"))
    return StepReport(STEP, Ending.DONE, "DISPENSED")


async def fresh_guard(session: CaseSession) -> Guard:
    """A guard that is at most a minute old when the request goes out, which may take up to its deadline.

    A dispensation can be rolled back, so one that was seen is not trusted for longer.
    """
    if session.guard is None or boot_seconds() - session.guard.read_at >= _usable_s(session):
        session.guard = await read_guard(session)
    return session.guard


def refuse_old_guard(session: CaseSession) -> None:
    """The wait for a place can make a guard too old; then the attempt begins anew with another look.

    Raises:
        Unavailable: it was read too long ago.
    """
    guard, usable_s = session.guard, max(_usable_s(session), GUARD_LASTS_S / 4)
    if guard is None or boot_seconds() - guard.read_at >= usable_s:
        raise Unavailable(
            CLINICAL_ONE, "SEEN_TOO_LONG_AGO", "the dispensation was read too long ago.", retry_after_s=0.0
        )


def _usable_s(session: CaseSession) -> float:
    return GUARD_LASTS_S - session.settings.request_timeout_seconds


async def read_guard(session: Looks) -> Guard:
    """Read the dispensation and the connection type.

    Raises:
        NotYet: no subject on the kit, no history row, or status 17.
        Refused: another subject, any other status, no connection, or a connection type that the request contradicts.
    """
    device = session.request.device
    assert device is not None
    subject = session.request.subject
    client = session.systems.clinical_one
    mode, deadline = str(subject.mode), session.deadline()
    kit = await client.dispensation(subject.study_id, mode, device.inventory_id, deadline=deadline)
    if kit is None:
        raise NotYet(CLINICAL_ONE, "NOT_DISPENSED", "the device is not dispensed.")
    if not same_id(kit.subject_id, subject.subject_id):
        raise Refused(
            CLINICAL_ONE, "DEVICE_DISPENSED_TO_DIFFERENT_SUBJECT", "the device is dispensed to a different subject."
        )
    if kit.visit_id is None:
        raise Refused(CLINICAL_ONE, "VISIT_NOT_STATED", "the dispensation does not say at which visit it was made.")
    rows = await client.dispensation_history(
        subject.study_id, mode, subject.subject_id, kit.visit_id, as_of=utc_now(), deadline=session.deadline()
    )
    row = _latest(rows, device.inventory_id)
    if row is None or row.status == NOT_DISPENSED_TO_SUBJECT:
        raise NotYet(CLINICAL_ONE, "NOT_DISPENSED", "the subject's history does not show the device as dispensed.")
    if row.status != DISPENSED:
        raise Refused(CLINICAL_ONE, f"INVENTORY_STATUS_{row.status}", f"the device has inventory status {row.status}.")
    connection = _refuse_wrong_connection(row.connection, by_vendor_code=device.vendor_code is not None)
    return Guard(connection, kit.visit_id, deadline.begun_at)


async def await_dispensation(session: CaseSession, error: NotYet) -> StepReport:
    """Not dispensed (yet, or any more): wait for it, up to the maximum age."""
    limit = timedelta(days=session.settings.max_wait_days)

    def wait(write: CaseWrite) -> tuple[int, bool]:
        step = write.step(STEP)
        step.wait(error.code, http_status=error.http_status, vendor_text=error.vendor_text, awaited=True)
        since = step.view().waiting_since
        too_long = since is not None and write.now - since >= limit
        if too_long:
            step.refuse("WAITED_TOO_LONG")
        return step.view().waits, too_long

    waits, too_long = await session.commit(wait)
    if too_long:
        return StepReport(STEP, Ending.NEEDS_ATTENTION, "WAITED_TOO_LONG", system=CLINICAL_ONE)
    pause = session.settings.dispensation_check_seconds * min(_LONGEST_PAUSE, max(1, waits))
    return StepReport(STEP, Ending.AWAITING_DISPENSATION, error.code, pause, CLINICAL_ONE, error.http_status)


def _latest(rows: list[HistoryRow], inventory_id: str) -> HistoryRow | None:
    """The device's latest row; a kit that was dispensed again has several."""
    mine = [row for row in rows if same_id(row.inventory_id, inventory_id)]
    return max(mine, key=lambda row: row.dispensed_at or "", default=None)


def _refuse_wrong_connection(connection: ConnectionType | None, *, by_vendor_code: bool) -> ConnectionType:
    if connection is None:
        raise Refused(CLINICAL_ONE, "DEVICE_WITHOUT_CONNECTION_TYPE", "the device has no connection type.")
    if connection is ConnectionType.NONE:
        raise Refused(CLINICAL_ONE, "NO_CONNECTION_DEVICE", "the device is of the no-connection type.")
    if connection is ConnectionType.CLOUD_TO_CLOUD and not by_vendor_code:
        raise Refused(CLINICAL_ONE, "VENDOR_CODE_MISSING", "the device is cloud-to-cloud, which needs vendor_code.")
    if connection is ConnectionType.DEVICE_TO_CLOUD and by_vendor_code:
        raise Refused(
            CLINICAL_ONE,
            "VENDOR_CODE_NOT_ALLOWED",
            "the device is device-to-cloud, which needs subject_number instead.",
        )
    return connection
