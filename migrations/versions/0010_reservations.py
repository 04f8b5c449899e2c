"""Reservations of devices, which the database keeps from overlapping.

Revises: 0009.
Expand only. The release before knows no reservations, and places as if there were none.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_OVERLAPS = """
    SELECT 1 FROM device_reservations AS taken
    JOIN reservations AS theirs ON theirs.id = taken.reservation_id
    JOIN reservations AS mine ON mine.id = NEW.reservation_id
    WHERE taken.device_id = NEW.device_id AND theirs.id <> mine.id
    AND theirs.starts_at < mine.ends_at AND mine.starts_at < theirs.ends_at
"""


def upgrade() -> None:
    postgresql = op.get_bind().dialect.name == "postgresql"
    if postgresql:
        op.execute("SET LOCAL lock_timeout = '5s'")
    op.create_table(
        "reservations",
        sa.Column("id", sa.String(length=24), nullable=False),
        sa.Column("tenant_id", sa.String(length=24), nullable=False),
        sa.Column("replica_id", sa.String(length=24), nullable=True),
        sa.Column("starts_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("starts_at < ends_at", name=op.f("ck_reservations_begins_before_it_ends")),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.id"], name=op.f("fk_reservations_tenant_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["replica_id"], ["replicas.id"], name=op.f("fk_reservations_replica_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reservations")),
        sa.UniqueConstraint("replica_id", name=op.f("uq_reservations_replica_id")),
    )
    op.create_index("ix_reservations_tenant_id_id", "reservations", ["tenant_id", "id"])
    op.create_index("ix_reservations_ends_at", "reservations", ["ends_at"])
    op.create_table(
        "device_reservations",
        sa.Column("reservation_id", sa.String(length=24), nullable=False),
        sa.Column("device_id", sa.String(length=24), nullable=False),
        sa.ForeignKeyConstraint(
            ["reservation_id"],
            ["reservations.id"],
            name=op.f("fk_device_reservations_reservation_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["device_id"], ["devices.id"], name=op.f("fk_device_reservations_device_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("reservation_id", "device_id", name=op.f("pk_device_reservations")),
    )
    op.create_index("ix_device_reservations_device_id", "device_reservations", ["device_id"])
    for statement in _postgresql() if postgresql else _sqlite():
        op.execute(statement)


def _postgresql() -> list[str]:
    """The device's row is locked before others are looked at: of two that come at once, one sees the other."""
    return [
        f"""
        CREATE FUNCTION device_reservations_apart() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM 1 FROM devices WHERE id = NEW.device_id FOR NO KEY UPDATE;
            IF EXISTS ({_OVERLAPS}) THEN
                RAISE EXCEPTION 'device % is reserved then', NEW.device_id USING ERRCODE = 'exclusion_violation';
            END IF;
            RETURN NEW;
        END $$
        """,
        """
        CREATE TRIGGER device_reservations_apart BEFORE INSERT OR UPDATE ON device_reservations FOR EACH ROW
        EXECUTE FUNCTION device_reservations_apart()
        """,
        """
        CREATE FUNCTION reservations_stay() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'the window of a reservation does not change'
            USING ERRCODE = 'integrity_constraint_violation';
        END $$
        """,
        """
        CREATE TRIGGER reservations_stay BEFORE UPDATE OF starts_at, ends_at ON reservations FOR EACH ROW
        EXECUTE FUNCTION reservations_stay()
        """,
    ]


def _sqlite() -> list[str]:
    refused = f"WHEN EXISTS ({_OVERLAPS}) BEGIN SELECT RAISE(ABORT, 'the device is reserved then'); END"
    changed = "BEGIN SELECT RAISE(ABORT, 'the window of a reservation does not change'); END"
    return [
        f"CREATE TRIGGER device_reservations_apart_new BEFORE INSERT ON device_reservations {refused}",
        f"CREATE TRIGGER device_reservations_apart BEFORE UPDATE ON device_reservations {refused}",
        f"CREATE TRIGGER reservations_stay BEFORE UPDATE OF starts_at, ends_at ON reservations {changed}",
    ]


def downgrade() -> None:
    op.drop_table("device_reservations")
    op.drop_table("reservations")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION device_reservations_apart()")
        op.execute("DROP FUNCTION reservations_stay()")
