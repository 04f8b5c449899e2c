"""Tenants that are trusted or not; an audit trail that the database itself keeps append-only.

Revises: 0002.
Expand only: the release before knows nothing of trust, and neither changes nor deletes a row of the trail but to seal
it, which stays permitted. The triggers do not bind the owner of the tables, who can drop them: what gets past them is
told by the hash chain. SQLite: a later revision that copies `audit_events` has to make its triggers again.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_COLUMNS = (
    "id",
    "at",
    "actor_kind",
    "actor_id",
    "actor_name",
    "tenant_id",
    "action",
    "target_kind",
    "target_id",
    "request_id",
)
"""What no UPDATE may change, besides `detail`, which as JSON is compared as text."""
_REFUSAL = "the audit trail is append-only"


def upgrade() -> None:
    postgresql = op.get_bind().dialect.name == "postgresql"
    if postgresql:
        op.execute("SET LOCAL lock_timeout = '5s'")
    op.add_column("tenants", sa.Column("trust", sa.String(length=16), server_default="trusted", nullable=False))
    for statement in _postgresql() if postgresql else _sqlite():
        op.execute(statement)


def _postgresql() -> list[str]:
    unchanged = " AND ".join(f"NEW.{column} IS NOT DISTINCT FROM OLD.{column}" for column in _COLUMNS)
    return [
        f"""
        CREATE FUNCTION audit_events_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION '{_REFUSAL}' USING ERRCODE = 'restrict_violation';
        END $$
        """,
        f"""
        CREATE TRIGGER audit_events_no_update BEFORE UPDATE ON audit_events FOR EACH ROW
        WHEN (NOT (OLD.sequence IS NULL AND NEW.sequence IS NOT NULL
                   AND NEW.detail::text IS NOT DISTINCT FROM OLD.detail::text AND {unchanged}))
        EXECUTE FUNCTION audit_events_refuse()
        """,
        """
        CREATE TRIGGER audit_events_no_delete BEFORE DELETE ON audit_events FOR EACH ROW
        EXECUTE FUNCTION audit_events_refuse()
        """,
        """
        CREATE TRIGGER audit_events_no_truncate BEFORE TRUNCATE ON audit_events FOR EACH STATEMENT
        EXECUTE FUNCTION audit_events_refuse()
        """,
    ]


def _sqlite() -> list[str]:
    """`INSERT OR REPLACE` takes the old row away without its DELETE trigger, hence the one of INSERT."""
    unchanged = " AND ".join(f"NEW.{column} IS OLD.{column}" for column in (*_COLUMNS, "detail"))
    refuse = f"BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END"
    known = "EXISTS (SELECT 1 FROM audit_events WHERE id = NEW.id OR sequence = NEW.sequence)"
    return [
        f"""
        CREATE TRIGGER audit_events_no_update BEFORE UPDATE ON audit_events FOR EACH ROW
        WHEN NOT (OLD.sequence IS NULL AND NEW.sequence IS NOT NULL AND {unchanged}) {refuse}
        """,
        f"CREATE TRIGGER audit_events_no_delete BEFORE DELETE ON audit_events FOR EACH ROW {refuse}",
        f"CREATE TRIGGER audit_events_no_replace BEFORE INSERT ON audit_events FOR EACH ROW WHEN {known} {refuse}",
    ]


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        for name in ("update", "delete", "truncate"):
            op.execute(f"DROP TRIGGER audit_events_no_{name} ON audit_events")
        op.execute("DROP FUNCTION audit_events_refuse()")
    else:
        for name in ("update", "delete", "replace"):
            op.execute(f"DROP TRIGGER audit_events_no_{name}")
    op.drop_column("tenants", "trust")
