"""How many replicas of a deployment left for those of tenants of a higher priority.

Revises: 0010.
Expand only: what is added has a default of the database's, so that the release before writes on.
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '5s'")
    op.add_column("deployments", sa.Column("preemptions", sa.Integer(), server_default="0", nullable=False))


def downgrade() -> None:
    op.drop_column("deployments", "preemptions")
