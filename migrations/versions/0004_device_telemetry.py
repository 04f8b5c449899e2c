"""What is measured of devices: memory in use, gauges, links, MIG instances; the processors of nodes.

Revises: 0003.
Expand only: what is added is nullable or has a default of the database's, so that the release before writes on.
Columns are added one by one and no table is copied: on SQLite a copy drops the old table, whose rows would take
those that refer to them along.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '5s'")
    op.add_column("devices", sa.Column("sdk_version", sa.String(length=64), nullable=True))
    op.add_column("devices", sa.Column("numa_node", sa.Integer(), nullable=True))
    op.add_column("devices", sa.Column("simulated", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("devices", sa.Column("memory_used_bytes", sa.BigInteger(), nullable=True))
    op.add_column("devices", sa.Column("memory_foreign_bytes", sa.BigInteger(), nullable=True))
    op.add_column("devices", sa.Column("ecc_cleared", sa.BigInteger(), server_default="0", nullable=False))
    for name in ("gauges", "links", "mig"):
        op.add_column("devices", sa.Column(name, sa.JSON(none_as_null=True), nullable=True))
    op.add_column("nodes", sa.Column("processor", sa.String(length=128), nullable=True))
    op.add_column("nodes", sa.Column("numa_nodes", sa.Integer(), nullable=True))


def downgrade() -> None:
    for name in ("numa_nodes", "processor"):
        op.drop_column("nodes", name)
    for name in ("mig", "links", "gauges", "ecc_cleared", "memory_foreign_bytes", "memory_used_bytes"):
        op.drop_column("devices", name)
    for name in ("simulated", "numa_node", "sdk_version"):
        op.drop_column("devices", name)
