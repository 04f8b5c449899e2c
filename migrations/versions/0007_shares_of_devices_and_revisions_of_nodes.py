"""Shares of devices, whose sum the database keeps; revisions of nodes, which it draws.

Revises: 0006.
Triggers keep `devices.leased` equal to the shares of the device's leases, so that its CHECK is what forbids a second
holder, and give a node another revision with each change that placement has to hear of. The release before writes on:
a lease of its is of the whole device, and counted.
`device_leases` gets another primary key, for which SQLite needs a copy of it; nothing refers to it. A later revision
that copies `nodes`, `devices` or `device_leases` on SQLite has to make their triggers again.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_NODE = (
    "name",
    "pool_id",
    "state",
    "reason",
    "cordoned",
    "cpus",
    "memory_bytes",
    "memory_claimed",
    "labels",
)
_DEVICE = (
    "node_id",
    "vendor",
    "model",
    '"index"',
    "uuid",
    "minor",
    "memory_bytes",
    "memory_foreign_bytes",
    "compute_capability",
    "numa_node",
    "links",
    "state",
    "reason",
    "cordoned",
    "pool_id",
    "leased",
)
"""What `gpu.reading` reads."""


def upgrade() -> None:
    postgresql = op.get_bind().dialect.name == "postgresql"
    if postgresql:
        op.execute("SET LOCAL lock_timeout = '5s'")
    op.add_column("nodes", sa.Column("revision", sa.String(length=36), server_default="", nullable=False))
    # As SQL that both databases know: Alembic adds a constraint by itself, which SQLite cannot.
    op.execute(
        "ALTER TABLE devices ADD COLUMN leased INTEGER DEFAULT 0 NOT NULL "
        "CONSTRAINT ck_devices_leased_once CHECK (leased BETWEEN 0 AND 100)"
    )
    op.execute(
        "ALTER TABLE flavors ADD COLUMN device_share INTEGER DEFAULT 100 NOT NULL "
        "CONSTRAINT ck_flavors_share_is_percentage CHECK (device_share BETWEEN 1 AND 100) "
        "CONSTRAINT ck_flavors_share_of_one_device CHECK (device_share = 100 OR devices = 1)"
    )
    _share_leases(postgresql=postgresql)
    op.execute("UPDATE devices SET leased = 100 WHERE id IN (SELECT device_id FROM device_leases)")
    for statement in _postgresql() if postgresql else _sqlite():
        op.execute(statement)
    op.execute("UPDATE nodes SET state = state")  # each gets its first revision


def _share_leases(*, postgresql: bool) -> None:
    if postgresql:
        op.add_column("device_leases", sa.Column("share", sa.Integer(), server_default="100", nullable=False))
        op.create_check_constraint(
            op.f("ck_device_leases_share_is_percentage"), "device_leases", "share BETWEEN 1 AND 100"
        )
        op.drop_constraint(op.f("pk_device_leases"), "device_leases")
        op.create_primary_key(op.f("pk_device_leases"), "device_leases", ["device_id", "replica_id"])
        return
    op.rename_table("device_leases", "device_leases_before")
    op.drop_index("ix_device_leases_replica_id", "device_leases_before")
    op.create_table(
        "device_leases",
        sa.Column("device_id", sa.String(length=24), nullable=False),
        sa.Column("replica_id", sa.String(length=24), nullable=False),
        sa.Column("share", sa.Integer(), server_default="100", nullable=False),
        sa.Column("taken_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("share BETWEEN 1 AND 100", name=op.f("ck_device_leases_share_is_percentage")),
        sa.ForeignKeyConstraint(["device_id"], ["devices.id"], name=op.f("fk_device_leases_device_id")),
        sa.PrimaryKeyConstraint("device_id", "replica_id", name=op.f("pk_device_leases")),
    )
    op.create_index("ix_device_leases_replica_id", "device_leases", ["replica_id"])
    op.execute(
        "INSERT INTO device_leases (device_id, replica_id, taken_at) "
        "SELECT device_id, replica_id, taken_at FROM device_leases_before"
    )
    op.drop_table("device_leases_before")


def _postgresql() -> list[str]:
    return [
        """
        CREATE FUNCTION nodes_revise() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN NEW.revision := gen_random_uuid()::text; RETURN NEW; END $$
        """,
        f"""
        CREATE TRIGGER nodes_revise BEFORE INSERT OR UPDATE OF {", ".join(_NODE)}, revision ON nodes FOR EACH ROW
        EXECUTE FUNCTION nodes_revise()
        """,
        """
        CREATE FUNCTION devices_revise() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF TG_OP <> 'INSERT' THEN UPDATE nodes SET revision = '' WHERE id = OLD.node_id; END IF;
            IF TG_OP = 'INSERT' OR (TG_OP = 'UPDATE' AND NEW.node_id <> OLD.node_id) THEN
                UPDATE nodes SET revision = '' WHERE id = NEW.node_id;
            END IF;
            RETURN NULL;
        END $$
        """,
        f"""
        CREATE TRIGGER devices_revise AFTER INSERT OR DELETE OR UPDATE OF {", ".join(_DEVICE)} ON devices FOR EACH ROW
        EXECUTE FUNCTION devices_revise()
        """,
        """
        CREATE FUNCTION device_leases_count() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF TG_OP <> 'INSERT' THEN UPDATE devices SET leased = leased - OLD.share WHERE id = OLD.device_id; END IF;
            IF TG_OP <> 'DELETE' THEN UPDATE devices SET leased = leased + NEW.share WHERE id = NEW.device_id; END IF;
            RETURN NULL;
        END $$
        """,
        """
        CREATE TRIGGER device_leases_count AFTER INSERT OR UPDATE OR DELETE ON device_leases FOR EACH ROW
        EXECUTE FUNCTION device_leases_count()
        """,
    ]


def _sqlite() -> list[str]:
    """A trigger's own statements fire others, but not itself again (`recursive_triggers` is off)."""
    draw = "UPDATE nodes SET revision = hex(randomblob(16)) WHERE id"
    less = "UPDATE devices SET leased = leased - OLD.share WHERE id = OLD.device_id;"
    more = "UPDATE devices SET leased = leased + NEW.share WHERE id = NEW.device_id;"
    return [
        f"CREATE TRIGGER nodes_revise_new AFTER INSERT ON nodes BEGIN {draw} = NEW.id; END",
        f"CREATE TRIGGER nodes_revise AFTER UPDATE OF {', '.join(_NODE)} ON nodes BEGIN {draw} = NEW.id; END",
        f"CREATE TRIGGER devices_revise_new AFTER INSERT ON devices BEGIN {draw} = NEW.node_id; END",
        f"""
        CREATE TRIGGER devices_revise AFTER UPDATE OF {", ".join(_DEVICE)} ON devices
        BEGIN {draw} IN (OLD.node_id, NEW.node_id); END
        """,
        f"CREATE TRIGGER devices_revise_old AFTER DELETE ON devices BEGIN {draw} = OLD.node_id; END",
        f"CREATE TRIGGER device_leases_count_new AFTER INSERT ON device_leases BEGIN {more} END",
        f"CREATE TRIGGER device_leases_count AFTER UPDATE ON device_leases BEGIN {less} {more} END",
        f"CREATE TRIGGER device_leases_count_old AFTER DELETE ON device_leases BEGIN {less} END",
    ]


def downgrade() -> None:
    """Shares cannot be kept: where a device has several holders, the release before would know of each as the only."""
    postgresql = op.get_bind().dialect.name == "postgresql"
    if postgresql:
        for table, name in (
            ("device_leases", "device_leases_count"),
            ("devices", "devices_revise"),
            ("nodes", "nodes_revise"),
        ):
            op.execute(f"DROP TRIGGER {name} ON {table}")
            op.execute(f"DROP FUNCTION {name}()")
        op.drop_constraint(op.f("pk_device_leases"), "device_leases")
        op.create_primary_key(op.f("pk_device_leases"), "device_leases", ["device_id"])
        op.drop_column("device_leases", "share")
    else:
        for name in (
            "nodes_revise_new",
            "nodes_revise",
            "devices_revise_new",
            "devices_revise",
            "devices_revise_old",
            "device_leases_count_new",
            "device_leases_count",
            "device_leases_count_old",
        ):
            op.execute(f"DROP TRIGGER {name}")
        op.rename_table("device_leases", "device_leases_after")
        op.drop_index("ix_device_leases_replica_id", "device_leases_after")
        op.create_table(
            "device_leases",
            sa.Column("device_id", sa.String(length=24), nullable=False),
            sa.Column("replica_id", sa.String(length=24), nullable=False),
            sa.Column("taken_at", sa.DateTime(timezone=True), nullable=False),
            sa.ForeignKeyConstraint(["device_id"], ["devices.id"], name=op.f("fk_device_leases_device_id")),
            sa.PrimaryKeyConstraint("device_id", name=op.f("pk_device_leases")),
        )
        op.create_index("ix_device_leases_replica_id", "device_leases", ["replica_id"])
        op.execute("INSERT INTO device_leases SELECT device_id, replica_id, taken_at FROM device_leases_after")
        op.drop_table("device_leases_after")
    op.drop_column("flavors", "device_share")
    op.drop_column("devices", "leased")
    op.drop_column("nodes", "revision")
