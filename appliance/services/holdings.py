"""What each tenant's replicas hold of the compute, as fairness counts it."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.services.tables import ReplicaRow
from gpu.fairness import Use
from gpu.states import WHOLE
from gpu.tables import DeviceLeaseRow, DeviceRow, NodeClaimRow


async def by_tenant(session: AsyncSession) -> dict[str, Use]:
    """Of every replica that has a place."""
    devices = (
        select(
            ReplicaRow.tenant_id,
            func.sum(DeviceLeaseRow.share),
            func.sum(DeviceLeaseRow.share * DeviceRow.memory_bytes),
        )
        .join(DeviceLeaseRow, DeviceLeaseRow.replica_id == ReplicaRow.id)
        .join(DeviceRow, DeviceRow.id == DeviceLeaseRow.device_id)
        .group_by(ReplicaRow.tenant_id)
    )
    claims = (
        select(ReplicaRow.tenant_id, func.sum(NodeClaimRow.cpus), func.sum(NodeClaimRow.memory_bytes))
        .join(NodeClaimRow, NodeClaimRow.replica_id == ReplicaRow.id)
        .group_by(ReplicaRow.tenant_id)
    )
    held: dict[str, Use] = {}
    for tenant_id, share, memory in await session.execute(devices):
        held[tenant_id] = Use(devices=int(share), device_memory=int(memory) // WHOLE)
    for tenant_id, cpus, memory in await session.execute(claims):
        held[tenant_id] = held.get(tenant_id, Use()).plus(Use(cpus=float(cpus), memory=int(memory)))
    return held
