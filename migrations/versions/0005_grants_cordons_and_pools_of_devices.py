"""Grants; cordons of nodes and devices; pools of single devices; access and labels.

Revises: 0004.
Expand only: what is added is nullable or has a default of the database's, so that the release before writes on.
Columns are added one by one and no table is copied: on SQLite a copy drops the old table, whose rows would take
those that refer to them along.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '5s'")
    for name in ("pools", "gateways"):
        op.add_column(name, sa.Column("access", sa.String(length=16), server_default="public", nullable=False))
    for name in ("pools", "nodes"):
        op.add_column(name, sa.Column("labels", sa.JSON(none_as_null=True), nullable=True))
    for name in ("nodes", "devices"):
        op.add_column(name, sa.Column("cordoned", sa.String(), nullable=True))
        op.add_column(name, sa.Column("cordoned_at", sa.DateTime(timezone=True), nullable=True))
        # As SQL that both databases know, here and below: Alembic adds a constraint by itself, which SQLite cannot.
        op.execute(
            f"ALTER TABLE {name} ADD COLUMN draining BOOLEAN DEFAULT false NOT NULL "
            f"CONSTRAINT ck_{name}_draining_is_cordoned CHECK (NOT draining OR cordoned IS NOT NULL)"
        )
    op.execute("ALTER TABLE devices ADD COLUMN pool_id VARCHAR(24) CONSTRAINT fk_devices_pool_id REFERENCES pools (id)")
    op.create_index("ix_devices_pool_id", "devices", ["pool_id"], unique=False)
    _create_grants()


def _create_grants() -> None:
    op.create_table(
        "grants",
        sa.Column("id", sa.String(length=24), nullable=False),
        sa.Column("tenant_id", sa.String(length=24), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("pool_id", sa.String(length=24), nullable=True),
        sa.Column("gateway_id", sa.String(length=24), nullable=True),
        sa.Column("device_class", sa.String(length=192), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("kind IN ('pool', 'gateway', 'device_class')", name=op.f("ck_grants_known_kind")),
        sa.CheckConstraint("(kind = 'pool') = (pool_id IS NOT NULL)", name=op.f("ck_grants_pool_is_named")),
        sa.CheckConstraint("(kind = 'gateway') = (gateway_id IS NOT NULL)", name=op.f("ck_grants_gateway_is_named")),
        sa.CheckConstraint(
            "(kind = 'device_class') = (device_class IS NOT NULL)", name=op.f("ck_grants_device_class_is_named")
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_grants_tenant_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["pool_id"], ["pools.id"], name=op.f("fk_grants_pool_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["gateway_id"], ["gateways.id"], name=op.f("fk_grants_gateway_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_grants")),
        sa.UniqueConstraint("tenant_id", "pool_id", name=op.f("uq_grants_tenant_id_pool_id")),
        sa.UniqueConstraint("tenant_id", "gateway_id", name=op.f("uq_grants_tenant_id_gateway_id")),
        sa.UniqueConstraint("tenant_id", "device_class", name=op.f("uq_grants_tenant_id_device_class")),
    )
    op.create_index("ix_grants_tenant_id_id", "grants", ["tenant_id", "id"], unique=False)
    op.create_index("ix_grants_pool_id", "grants", ["pool_id"], unique=False)
    op.create_index("ix_grants_gateway_id", "grants", ["gateway_id"], unique=False)


def downgrade() -> None:
    op.drop_table("grants")
    op.drop_index("ix_devices_pool_id", "devices")
    op.drop_column("devices", "pool_id")
    for name in ("devices", "nodes"):
        for column in ("draining", "cordoned_at", "cordoned"):
            op.drop_column(name, column)
    for name in ("nodes", "pools"):
        op.drop_column(name, "labels")
    for name in ("gateways", "pools"):
        op.drop_column(name, "access")
