"""What replicas need of devices, what engines reported, and quotas of device memory, CPUs, memory and storage.

Revises: 0005.
Expand only: what is added is nullable or has a default of the database's, so that the release before writes on. What it
writes counts nothing against the new quotas, and gives nothing back.

Each tenant gets the counters with what it uses now: of deployments the flavor's CPUs and memory and the least that the
weights take of each device, of versions their bytes, of open uploads what they announced. Where that is more than the
default limit, it is the limit.
"""

from collections import defaultdict
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

TIB = 1024**4
LIMITS = {"device_memory_bytes": 16 * TIB, "cpu_millis": 2_048_000, "memory_bytes": 4 * TIB, "storage_bytes": 10 * TIB}
OVERHEAD_BYTES = 1024**3
COUNTED = ("device_memory_bytes", "cpu_millis", "memory_bytes")


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("SET LOCAL lock_timeout = '5s'")
    for name in COUNTED:
        op.add_column("deployments", sa.Column(name, sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("deployments", sa.Column("needs", sa.JSON(none_as_null=True), nullable=True))
    op.add_column("model_versions", sa.Column("counted_bytes", sa.BigInteger(), server_default="0", nullable=False))
    op.create_table(
        "estimate_corrections",
        sa.Column("runtime", sa.String(length=128), nullable=False),
        sa.Column("family", sa.String(length=128), nullable=False),
        sa.Column("cache", sa.Float(), nullable=False),
        sa.Column("cache_starts", sa.Integer(), nullable=False),
        sa.Column("overhead", sa.Float(), nullable=False),
        sa.Column("overhead_starts", sa.Integer(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("cache > 0 AND overhead > 0", name=op.f("ck_estimate_corrections_factors_positive")),
        sa.CheckConstraint(
            "cache_starts >= 0 AND overhead_starts >= 0", name=op.f("ck_estimate_corrections_starts_not_negative")
        ),
        sa.PrimaryKeyConstraint("runtime", "family", name=op.f("pk_estimate_corrections")),
    )
    used = _count_deployments()
    for tenant_id, size in _count_versions().items():
        used[tenant_id]["storage_bytes"] = size
    _add_quotas(used)


def downgrade() -> None:
    quotas = _table("quotas", "resource")
    op.execute(quotas.delete().where(quotas.c.resource.in_(LIMITS)))
    op.drop_table("estimate_corrections")
    op.drop_column("model_versions", "counted_bytes")
    for name in ("needs", *reversed(COUNTED)):
        op.drop_column("deployments", name)


def _table(name: str, *columns: str, **typed: Any) -> sa.TableClause:
    return sa.table(name, *(sa.column(column) for column in columns), *(sa.column(n, t) for n, t in typed.items()))


def _count_deployments() -> defaultdict[str, dict[str, int]]:
    """Write what each deployment's replicas count; by tenant, what those of running services use."""
    deployments = _table(
        "deployments", "id", "tenant_id", "service_id", "flavor_id", "model_version_id", "devices", "replicas", *COUNTED
    )
    flavors = _table("flavors", "id", "cpus", "memory_bytes")
    services = _table("services", "id", "desired")
    versions = _table("model_versions", "id", metadata=sa.JSON())
    rows = op.get_bind().execute(
        sa.select(
            deployments.c.id,
            deployments.c.tenant_id,
            deployments.c.devices,
            deployments.c.replicas,
            flavors.c.cpus,
            flavors.c.memory_bytes,
            services.c.desired,
            versions.c.metadata,
        )
        .join_from(deployments, flavors, flavors.c.id == deployments.c.flavor_id)
        .join(services, services.c.id == deployments.c.service_id)
        .join(versions, versions.c.id == deployments.c.model_version_id)
    )
    used: defaultdict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(LIMITS, 0))
    for row in rows.all():
        weights = int((row.metadata or {}).get("weight_bytes", 0))
        least = -(-weights // row.devices) + OVERHEAD_BYTES if row.devices and weights else 0
        counted = {
            "device_memory_bytes": least,
            "cpu_millis": round(row.cpus * 1000),
            "memory_bytes": row.memory_bytes,
        }
        op.execute(deployments.update().where(deployments.c.id == row.id).values(**counted))
        if row.desired == "running":
            for name, amount in counted.items():
                times = row.replicas * (row.devices if name == "device_memory_bytes" else 1)
                used[row.tenant_id][name] += times * amount
    return used


def _count_versions() -> dict[str, int]:
    """Write what each version of a tenant's model counts; by tenant the sums."""
    models = _table("models", "id", "tenant_id")
    versions = _table("model_versions", "id", "model_id", "state", "total_bytes", "counted_bytes")
    uploads = _table("model_uploads", "id", "version_id")
    files = _table("model_upload_files", "upload_id", "size")
    connection = op.get_bind()
    announced = dict(
        connection.execute(
            sa.select(uploads.c.version_id, sa.func.sum(files.c.size))
            .join_from(uploads, files, files.c.upload_id == uploads.c.id)
            .group_by(uploads.c.version_id)
        ).all()
    )
    rows = connection.execute(
        sa.select(versions.c.id, versions.c.state, versions.c.total_bytes, models.c.tenant_id)
        .join_from(versions, models, models.c.id == versions.c.model_id)
        .where(models.c.tenant_id.is_not(None))
    )
    sums: defaultdict[str, int] = defaultdict(int)
    for row in rows.all():
        size = row.total_bytes if row.state == "normal" else int(announced.get(row.id, 0))
        if size:
            op.execute(versions.update().where(versions.c.id == row.id).values(counted_bytes=size))
            sums[row.tenant_id] += size
    return dict(sums)


def _add_quotas(used: defaultdict[str, dict[str, int]]) -> None:
    tenants = _table("tenants", "id")
    quotas = _table("quotas", "scope", "resource", "used", "quota_limit")
    rows = [
        {
            "scope": tenant_id,
            "resource": name,
            "used": used[tenant_id][name],
            "quota_limit": max(limit, used[tenant_id][name]),
        }
        for tenant_id in op.get_bind().scalars(sa.select(tenants.c.id)).all()
        for name, limit in LIMITS.items()
    ]
    if rows:
        op.bulk_insert(quotas, rows)
