"""What every device does now, and for whom: what the last probe saw, and who holds it, by name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime

import msgspec
from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.pagination import Page, PageRequest
from appliance.services.tables import ReplicaRow, ServiceRow
from gpu.states import WHOLE, DeviceState, Vendor
from gpu.tables import DeviceLeaseRow, DeviceRow, NodeRow
from tenants.tables import TenantRow


class Holder(msgspec.Struct, frozen=True):
    """A replica that leases `share` percent of the device. `state` is the replica's."""

    replica_id: str
    service_id: str
    service: str
    tenant: str
    state: str
    share: int


class DevicePresent(msgspec.Struct, frozen=True, kw_only=True):
    """`memory_claimed_bytes` are the shares of its leases. What is measured is null where it is not known, such as all
    of it while the device is stale; `seen_at` is when the driver last told of it. `simulated`: no hardware is behind.
    """

    id: str
    node: str
    index: int
    vendor: Vendor
    model: str
    simulated: bool
    state: DeviceState
    reason: str | None
    cordoned: str | None
    memory_bytes: int
    memory_used_bytes: int | None
    memory_foreign_bytes: int | None
    memory_claimed_bytes: int
    utilisation_percent: float | None
    temperature_c: float | None
    power_w: float | None
    seen_at: datetime
    holders: list[Holder]


async def list_present(
    session: AsyncSession, page: PageRequest, *, node_id: str | None = None, pool_id: str | None = None
) -> Page[DevicePresent]:
    """Of one node, or of a pool: its nodes' devices but for those moved elsewhere, and those moved there."""
    query: Select[DeviceRow, str] = select(DeviceRow, NodeRow.name).join(NodeRow, NodeRow.id == DeviceRow.node_id)
    if node_id is not None:
        query = query.where(DeviceRow.node_id == node_id)
    if pool_id is not None:
        is_of_node = DeviceRow.pool_id.is_(None) & (NodeRow.pool_id == pool_id)
        query = query.where((DeviceRow.pool_id == pool_id) | is_of_node)
    rows = (await session.execute(page.apply(query, DeviceRow.id))).all()
    holders = await _holders(session, [row.id for row, _ in rows])
    shown = [_present(row, node, holders.get(row.id, [])) for row, node in rows]
    return page.page(shown, [each.id for each in shown])


async def _holders(session: AsyncSession, device_ids: Sequence[str]) -> dict[str, list[Holder]]:
    query = (
        select(
            DeviceLeaseRow.device_id,
            DeviceLeaseRow.share,
            ReplicaRow.id,
            ReplicaRow.state,
            ServiceRow.id,
            ServiceRow.name,
            TenantRow.name,
        )
        .join(ReplicaRow, ReplicaRow.id == DeviceLeaseRow.replica_id)
        .join(ServiceRow, ServiceRow.id == ReplicaRow.service_id)
        .join(TenantRow, TenantRow.id == ReplicaRow.tenant_id)
        .where(DeviceLeaseRow.device_id.in_(device_ids))
        .order_by(DeviceLeaseRow.taken_at, DeviceLeaseRow.replica_id)
    )
    found: dict[str, list[Holder]] = defaultdict(list)
    for device_id, share, replica_id, state, service_id, service, tenant in await session.execute(query):
        found[device_id].append(Holder(replica_id, service_id, service, tenant, state, share))
    return found


def _present(row: DeviceRow, node: str, holders: list[Holder]) -> DevicePresent:
    gauges = row.gauges or {}
    return DevicePresent(
        id=row.id,
        node=node,
        index=row.index,
        vendor=Vendor(row.vendor),
        model=row.model,
        simulated=row.simulated,
        state=DeviceState(row.state),
        reason=row.reason,
        cordoned=row.cordoned,
        memory_bytes=row.memory_bytes,
        memory_used_bytes=row.memory_used_bytes,
        memory_foreign_bytes=row.memory_foreign_bytes,
        memory_claimed_bytes=row.memory_bytes * row.leased // WHOLE,
        utilisation_percent=gauges.get("utilisation_percent"),
        temperature_c=gauges.get("temperature_c"),
        power_w=gauges.get("power_w"),
        seen_at=row.seen_at,
        holders=holders,
    )
