"""`onboard migrate`: bring the ledger's schema up to date."""

from cli import present
from onboarding.ledger.ledger import migrate as migrate_ledger
from onboarding.settings import load_settings


def migrate() -> int:
    """Make the ledger's tables, or bring them up to date. Migrations only add, so runners may go on meanwhile."""
    before, after = migrate_ledger(load_settings())
    said = f"The ledger has schema {after}" + (
        " already." if before == after else f" now (before: {before or 'none'})."
    )
    present.console().print(said)
    return 0
