"""Showing a device's credentials to the person who sets it up: the one way out of the ledger for them, noted in the trail."""

import json

from sqlalchemy import Connection, select, update

from onboarding.keys import LedgerKey
from onboarding.ledger.columns import CASES, STEPS, one_row
from onboarding.ledger.states import StepName
from onboarding.ledger.writes import CaseWrite, Lease


def reveal_credentials(connection: Connection, key: LedgerKey, case_id: str, actor: str) -> dict[str, str]:
    """The access code and one-time code that register-device gave, and an entry in the trail that ``actor`` saw them.

    Empty if there are none (yet), and then nothing is noted. Keys are the vendor's: ``accessId``, ``otp``.
    """
    row = one_row(connection.execute(select(CASES).where(CASES.c.id == case_id).with_for_update()))
    device = (STEPS.c.case_id == case_id) & (STEPS.c.name == StepName.DEVICE)
    sealed = connection.execute(select(STEPS.c.credentials_sealed).where(device)).scalar_one()
    if sealed is None:
        return {}
    lease = Lease(case_id, row["lease_owner"] or "", row["fence"], 0.0, actor)
    write = CaseWrite(connection, key, (row["lease_epoch"] or "", row["lease_until"] or 0.0), lease, row)
    write.record("credentials_shown", step=StepName.DEVICE)
    trail_head = {name: write.case[name] for name in ("trail_sequence", "trail_seal")}
    connection.execute(update(CASES).where(CASES.c.id == case_id).values(**trail_head))
    credentials = json.loads(key.decrypt(sealed, f"step/{case_id}/{StepName.DEVICE}/credentials"))
    return {name: value for name, value in credentials.items() if value is not None}
