"""Showing a device's credentials to the person who sets it up: the one way out of the ledger for them, noted in the trail."""

import json

from sqlalchemy import Connection

from onboarding.keys import LedgerKey
from onboarding.ledger.rows import Rows
from onboarding.ledger.states import StepName
from onboarding.ledger.writes import CaseWrite, Lease


def reveal_credentials(connection: Connection, key: LedgerKey, case_id: str, actor: str) -> dict[str, str]:
    """The access code and one-time code that register-device gave, and an entry in the trail that ``actor`` saw them.

    Empty if there are none (yet), and then nothing is noted. Keys are the vendor's: ``accessId``, ``otp``.
    """
    rows = Rows(connection, cases=[case_id])
    row = rows.case(case_id)
    assert row is not None, "a case whose credentials are shown stands in the ledger"
    sealed = rows.step(case_id, StepName.DEVICE)["credentials_sealed"]
    if sealed is None:
        return {}
    lease = Lease(case_id, row["lease_owner"] or "", row["fence"], 0.0, actor)
    write = CaseWrite(rows, key, (row["lease_epoch"] or "", row["lease_until"] or 0.0), lease, row)
    write.record("credentials_shown", step=StepName.DEVICE)
    write.end()
    rows.write()
    credentials = json.loads(key.decrypt(sealed, f"step/{case_id}/{StepName.DEVICE}/credentials"))
    return {name: value for name, value in credentials.items() if value is not None}
