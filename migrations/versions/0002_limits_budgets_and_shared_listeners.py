"""Limits, budgets, shared listeners, rolled up usage and latencies.

Revises: 0001.
Expand only: what is added is nullable or has a default of the database's, so that the release before writes on.
Columns are added one by one and no table is copied: on SQLite a copy drops the old table, whose rows would take
those that refer to them along.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '5s'")
    op.add_column("tenants", sa.Column("limits", sa.JSON(none_as_null=True), nullable=True))
    op.add_column("tenants", sa.Column("priority", sa.String(length=16), server_default="normal", nullable=False))
    for name in ("routes", "networks", "limits"):
        op.add_column("api_keys", sa.Column(name, sa.JSON(none_as_null=True), nullable=True))
    op.add_column("api_keys", sa.Column("version", sa.Integer(), server_default="1", nullable=False))
    for name in ("limits", "queue", "capture"):
        op.add_column("services", sa.Column(name, sa.JSON(none_as_null=True), nullable=True))
    op.add_column("services", sa.Column("affinity", sa.String(length=16), nullable=True))
    # As SQL that both databases know: Alembic adds the reference by itself, which SQLite cannot alter.
    op.execute(
        "ALTER TABLE services ADD COLUMN gateway_id VARCHAR(24) "
        "CONSTRAINT fk_services_gateway_id REFERENCES gateways (id)"
    )
    op.create_index("ix_services_gateway_id", "services", ["gateway_id"], unique=False)
    op.create_index(
        "uq_listeners_shared",
        "listeners",
        ["gateway_id"],
        unique=True,
        postgresql_where=sa.text("service_id IS NULL"),
        sqlite_where=sa.text("service_id IS NULL"),
    )
    op.add_column("usage_records", sa.Column("inter_token_count", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("usage_records", sa.Column("inter_token_ms", sa.Double(), server_default="0", nullable=False))
    _create_service_shares()
    _create_budgets()
    _create_usage_rollups()
    _create_latency_records()


def _create_service_shares() -> None:
    op.create_table(
        "service_shares",
        sa.Column("service_id", sa.String(length=24), nullable=False),
        sa.Column("tenant_id", sa.String(length=24), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["service_id"], ["services.id"], name=op.f("fk_service_shares_service_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.id"], name=op.f("fk_service_shares_tenant_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("service_id", "tenant_id", name=op.f("pk_service_shares")),
    )
    op.create_index("ix_service_shares_tenant_id", "service_shares", ["tenant_id"], unique=False)


def _create_budgets() -> None:
    op.create_table(
        "budgets",
        sa.Column("id", sa.String(length=24), nullable=False),
        sa.Column("tenant_id", sa.String(length=24), nullable=False),
        sa.Column("kind", sa.String(length=128), nullable=False),
        sa.Column("subject_id", sa.String(length=24), nullable=False),
        sa.Column("subject_name", sa.String(length=128), nullable=False),
        sa.Column("period", sa.String(length=128), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("spent", sa.BigInteger(), nullable=False),
        sa.Column("period_start", sa.DateTime(timezone=True), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("kind IN ('key', 'service', 'tenant')", name=op.f("ck_budgets_known_kind")),
        sa.CheckConstraint("period IN ('total', 'day', 'month')", name=op.f("ck_budgets_known_period")),
        sa.CheckConstraint("spent >= 0", name=op.f("ck_budgets_spent_not_negative")),
        sa.CheckConstraint("tokens >= 0", name=op.f("ck_budgets_tokens_not_negative")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_budgets_tenant_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_budgets")),
        sa.UniqueConstraint("subject_id", "period", name=op.f("uq_budgets_subject_id_period")),
    )
    op.create_index("ix_budgets_tenant_id_id", "budgets", ["tenant_id", "id"], unique=False)


def _create_usage_rollups() -> None:
    op.create_table(
        "usage_rollups",
        sa.Column("record_id", sa.String(length=64), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("span_s", sa.Integer(), nullable=False),
        sa.Column("tenant_id", sa.String(length=128), nullable=False),
        sa.Column("key_id", sa.String(length=128), nullable=False),
        sa.Column("service_id", sa.String(length=128), nullable=False),
        sa.Column("model", sa.String(length=255), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.BigInteger(), nullable=False),
        sa.Column("cut", sa.BigInteger(), nullable=False),
        sa.Column("estimated", sa.BigInteger(), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=False),
        sa.Column("tail_tokens", sa.BigInteger(), nullable=False),
        sa.Column("bytes_in", sa.BigInteger(), nullable=False),
        sa.Column("bytes_out", sa.BigInteger(), nullable=False),
        sa.Column("duration_ms", sa.Double(), nullable=False),
        sa.Column("queue_ms", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("record_id", name=op.f("pk_usage_rollups")),
    )
    op.create_index("ix_usage_rollups_tenant_id_at", "usage_rollups", ["tenant_id", "at"], unique=False)
    op.create_index("ix_usage_rollups_at", "usage_rollups", ["at"], unique=False)


def _create_latency_records() -> None:
    op.create_table(
        "latency_records",
        sa.Column("record_id", sa.String(length=64), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("span_s", sa.Integer(), nullable=False),
        sa.Column("tenant_id", sa.String(length=128), nullable=False),
        sa.Column("service_id", sa.String(length=128), nullable=False),
        sa.Column("deployment_id", sa.String(length=128), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.BigInteger(), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=False),
        sa.Column("duration", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("queue", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("first_token", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("inter_token", sa.JSON(none_as_null=True), nullable=True),
        sa.PrimaryKeyConstraint("record_id", name=op.f("pk_latency_records")),
    )
    op.create_index("ix_latency_records_service_id_at", "latency_records", ["service_id", "at"], unique=False)
    op.create_index("ix_latency_records_at", "latency_records", ["at"], unique=False)


def downgrade() -> None:
    """Only SQL that both databases know: SQLite drops a column by itself since 3.35."""
    op.drop_table("latency_records")
    op.drop_table("usage_rollups")
    op.drop_table("budgets")
    op.drop_table("service_shares")
    op.drop_index("uq_listeners_shared", "listeners")
    op.drop_index("ix_services_gateway_id", "services")
    if op.get_bind().dialect.name == "postgresql":
        op.drop_constraint("fk_services_gateway_id", "services", type_="foreignkey")
    for table, columns in (
        ("services", ("gateway_id", "affinity", "capture", "queue", "limits")),
        ("api_keys", ("version", "limits", "networks", "routes")),
        ("tenants", ("priority", "limits")),
        ("usage_records", ("inter_token_ms", "inter_token_count")),
    ):
        for column in columns:
            op.drop_column(table, column)
