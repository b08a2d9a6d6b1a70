"""The first schema: cases, steps, trail, claims, what is known of the vendors, and the key the ledger belongs to."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_APPEND_ONLY = "the trail is append-only"


def upgrade() -> None:
    """Make the tables, and let the database itself refuse to change or drop an entry of the trail."""
    op.create_table(
        "onboarding_case",
        sa.Column("id", sa.String(length=26), nullable=False),
        sa.Column("business_key", sa.String(), nullable=False),
        sa.Column("study_id", sa.String(), nullable=False),
        sa.Column("mode", sa.String(), nullable=False),
        sa.Column("subject_id", sa.String(), nullable=False),
        sa.Column("inventory_id", sa.String(), nullable=True),
        sa.Column("request_sealed", sa.LargeBinary(), nullable=False),
        sa.Column("request_digest", sa.String(), nullable=False),
        sa.Column("section_digests", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("openspecimen_address", sa.String(), nullable=False),
        sa.Column("clinical_one_address", sa.String(), nullable=False),
        sa.Column("batch_id", sa.String(), nullable=True),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("blocked_login", sa.String(), nullable=True),
        sa.Column("lease_owner", sa.String(), nullable=True),
        sa.Column("lease_until", sa.Float(), nullable=True),
        sa.Column("lease_epoch", sa.String(), nullable=True),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("takings", sa.Integer(), nullable=False),
        sa.Column("idle_takings", sa.Integer(), nullable=False),
        sa.Column("late_answers", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("flow_run_id", sa.String(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("trail_sequence", sa.Integer(), nullable=False),
        sa.Column("trail_seal", sa.String(), nullable=False),
        sa.CheckConstraint("status IN ('draft', 'ready', 'done', 'attention', 'cancelled')", name="status_is_known"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_onboarding_case_batch_id"), "onboarding_case", ["batch_id"], unique=False)
    op.create_index(
        "one_live_case_per_business_key",
        "onboarding_case",
        ["business_key"],
        unique=True,
        sqlite_where=sa.text("status <> 'cancelled'"),
        postgresql_where=sa.text("status <> 'cancelled'"),
    )
    op.create_index(
        "work_that_is_due",
        "onboarding_case",
        ["due_at"],
        unique=False,
        sqlite_where=sa.text("status = 'ready'"),
        postgresql_where=sa.text("status = 'ready'"),
    )
    op.create_table(
        "onboarding_claim",
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("probes", sa.Integer(), nullable=False),
        sa.Column("absences", sa.Integer(), nullable=False),
        sa.Column("in_doubt", sa.Boolean(), nullable=False),
        sa.Column("intent", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("intent_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("quiet_until", sa.Float(), nullable=True),
        sa.Column("quiet_epoch", sa.String(), nullable=True),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("bound_to", sa.String(), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("holder_case", sa.String(), nullable=True),
        sa.Column("holder_fence", sa.Integer(), nullable=True),
        sa.Column("effect_id", sa.String(), nullable=True),
        sa.Column("effect_seen_at", sa.Float(), nullable=True),
        sa.Column("effect_epoch", sa.String(), nullable=True),
        sa.Column("duplicates", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("state IN ('held', 'done', 'unknown', 'free')", name="state_is_known"),
        sa.PrimaryKeyConstraint("kind", "key"),
    )
    op.create_table(
        "onboarding_ledger",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("key_id", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "onboarding_vendor_state",
        sa.Column("system", sa.String(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("code", sa.String(), nullable=True),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("system", "kind", "digest"),
    )
    op.create_table(
        "onboarding_event",
        sa.Column("case_id", sa.String(length=26), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("step", sa.String(length=16), nullable=True),
        sa.Column("code", sa.String(), nullable=True),
        sa.Column("detail", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("reason_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("key_id", sa.String(), nullable=False),
        sa.Column("seal", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["case_id"], ["onboarding_case.id"]),
        sa.PrimaryKeyConstraint("case_id", "sequence"),
    )
    op.create_table(
        "onboarding_step",
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("probes", sa.Integer(), nullable=False),
        sa.Column("absences", sa.Integer(), nullable=False),
        sa.Column("in_doubt", sa.Boolean(), nullable=False),
        sa.Column("intent", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("intent_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("quiet_until", sa.Float(), nullable=True),
        sa.Column("quiet_epoch", sa.String(), nullable=True),
        sa.Column("case_id", sa.String(length=26), nullable=False),
        sa.Column("name", sa.String(length=16), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("waits", sa.Integer(), nullable=False),
        sa.Column("waiting_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("met_already_registered", sa.Boolean(), nullable=False),
        sa.Column("code", sa.String(), nullable=True),
        sa.Column("http_status", sa.Integer(), nullable=True),
        sa.Column("vendor_text_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("outcome", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("credentials_sealed", sa.LargeBinary(), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("done_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("name IN ('registration', 'dispensation', 'device', 'dnd_exception')", name="name_is_known"),
        sa.CheckConstraint(
            "status IN ('pending', 'open', 'done', 'refused', 'unknown', 'not_requested')", name="status_is_known"
        ),
        sa.ForeignKeyConstraint(["case_id"], ["onboarding_case.id"]),
        sa.PrimaryKeyConstraint("case_id", "name"),
    )
    for action in ("UPDATE", "DELETE"):
        if op.get_bind().dialect.name == "sqlite":
            op.execute(
                f"CREATE TRIGGER onboarding_event_no_{action.lower()} BEFORE {action} ON onboarding_event "
                f"BEGIN SELECT RAISE(ABORT, '{_APPEND_ONLY}'); END"
            )
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION onboarding_append_only() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION '{_APPEND_ONLY}'; END $$"
        )
        op.execute(
            "CREATE TRIGGER onboarding_event_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON onboarding_event "
            "FOR EACH STATEMENT EXECUTE FUNCTION onboarding_append_only()"
        )
