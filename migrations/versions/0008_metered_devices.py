"""How long tenants' services held devices, by hour, and up to when the leases of each replica are metered.

Revises: 0007.
Expand only. Leases that are held as this is applied are metered from their beginning.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "device_meters",
        sa.Column("replica_id", sa.String(length=24), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("replica_id", name=op.f("pk_device_meters")),
    )
    op.create_table(
        "device_usage",
        sa.Column("service_id", sa.String(length=24), nullable=False),
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        sa.Column("vendor", sa.String(length=128), nullable=False),
        sa.Column("model", sa.String(length=128), nullable=False),
        sa.Column("tenant_id", sa.String(length=24), nullable=False),
        sa.Column("percent_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("percent_ms >= 0", name=op.f("ck_device_usage_use_not_negative")),
        sa.PrimaryKeyConstraint("service_id", "hour", "vendor", "model", name=op.f("pk_device_usage")),
    )
    op.create_index("ix_device_usage_hour", "device_usage", ["hour"])
    op.create_index("ix_device_usage_tenant_id_hour", "device_usage", ["tenant_id", "hour"])


def downgrade() -> None:
    op.drop_table("device_usage")
    op.drop_table("device_meters")
