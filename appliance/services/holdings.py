"""What replicas hold of the compute: each tenant's, as fairness counts it, and of each deployment on which nodes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.services.states import COMING_OR_UP
from appliance.services.tables import DeploymentRow, ReplicaRow
from gpu.fairness import Use
from gpu.requests import Strategy
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


async def by_node(session: AsyncSession, deployment_ids: Collection[str]) -> Mapping[str, Mapping[str, int]]:
    """Of those of these deployments that spread their replicas: how many are on which node; what leaves is not."""
    query = (
        select(ReplicaRow.deployment_id, NodeClaimRow.node_id, func.count())
        .join(DeploymentRow, DeploymentRow.id == ReplicaRow.deployment_id)
        .join(NodeClaimRow, NodeClaimRow.replica_id == ReplicaRow.id)
        .where(DeploymentRow.id.in_(deployment_ids), DeploymentRow.strategy == Strategy.spread.value)
        .where(ReplicaRow.state.in_([state.value for state in COMING_OR_UP]))
        .group_by(ReplicaRow.deployment_id, NodeClaimRow.node_id)
    )
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for deployment_id, node_id, count in await session.execute(query):
        found[deployment_id][node_id] = count
    return found
