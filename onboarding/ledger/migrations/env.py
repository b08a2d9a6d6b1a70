"""Alembic's entry point: it runs on the connection that ``upgrade`` gives it, inside that transaction."""

from alembic import context

from onboarding.ledger.tables import CaseRow

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=CaseRow.metadata,
    version_table="onboarding_schema",
    render_as_batch=connection.dialect.name == "sqlite",
)
context.run_migrations()
