"""Batches: one row for each file of many subjects, and one for each of its rows; who holds a claim is found by an index."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_OF_A_FILE = sa.text("state IN ('releasing', 'released')")


def upgrade() -> None:
    """Make the two tables and the index; nothing that stands is changed."""
    op.create_table(
        "onboarding_batch",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("file_digest", sa.String(), nullable=True),
        sa.Column("name_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("openspecimen_address", sa.String(), nullable=False),
        sa.Column("clinical_one_address", sa.String(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("state IN ('filling', 'releasing', 'released', 'rejected')", name="state_is_known"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "one_batch_per_file",
        "onboarding_batch",
        ["file_digest"],
        unique=True,
        sqlite_where=_OF_A_FILE,
        postgresql_where=_OF_A_FILE,
    )
    op.create_table(
        "onboarding_batch_row",
        sa.Column("batch_id", sa.String(length=26), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("line", sa.Integer(), nullable=False),
        sa.Column("standing", sa.String(length=16), nullable=False),
        sa.Column("case_id", sa.String(length=26), nullable=True),
        sa.Column("same_as", sa.Integer(), nullable=True),
        sa.Column("business_key", sa.String(), nullable=True),
        sa.Column("request_digest", sa.String(), nullable=True),
        sa.Column("section_digests", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("request_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("problems_sealed", sa.LargeBinary(), nullable=True),
        sa.CheckConstraint(
            "standing IN ('draft', 'opened', 'found', 'replaced', 'repeated', 'left_out')", name="standing_is_known"
        ),
        sa.ForeignKeyConstraint(["batch_id"], ["onboarding_batch.id"]),
        sa.PrimaryKeyConstraint("batch_id", "number"),
    )
    op.create_index("rows_of_one_onboarding", "onboarding_batch_row", ["batch_id", "business_key"], unique=False)
    op.create_index("batches_of_a_case", "onboarding_batch_row", ["case_id", "batch_id"], unique=False)
    op.create_index(op.f("ix_onboarding_claim_holder_case"), "onboarding_claim", ["holder_case"], unique=False)
