"""Where the replicas of a deployment go: packed or spread, to nodes with labels, and whether they may be stopped.

Revises: 0008.
Expand only: what is added is nullable or has a default of the database's, so that the release before writes on.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '5s'")
    # As SQL that both databases know: Alembic adds a constraint by itself, which SQLite cannot.
    op.execute(
        "ALTER TABLE deployments ADD COLUMN strategy VARCHAR(16) DEFAULT 'pack' NOT NULL "
        "CONSTRAINT ck_deployments_known_strategy CHECK (strategy IN ('pack', 'spread'))"
    )
    op.add_column("deployments", sa.Column("node_labels", sa.JSON(none_as_null=True), nullable=True))
    op.add_column("deployments", sa.Column("preemptible", sa.Boolean(), server_default=sa.false(), nullable=False))


def downgrade() -> None:
    for name in ("preemptible", "node_labels", "strategy"):
        op.drop_column("deployments", name)
