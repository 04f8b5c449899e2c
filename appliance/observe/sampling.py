"""One round of samples: what the last probe saw of the devices, and who holds what. Reads only.

A device that the last probe did not see (stale, absent) gives no sample: its history has a gap there and no guess.

Fragmentation is the part of the free device time that replicas of the flavor with most devices could not use, however
many came: they take whole devices of one model, of one node and pool. With 8 devices to a flavor and two nodes that
have 6 free each, it is 100 %.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import distinct, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.observe.gauges import DEVICE, PLATFORM, TENANT, WHOLE, Gauge
from appliance.observe.store import Samples
from appliance.services.tables import ReplicaRow
from gpu.fragmentation import Size, fragmentation
from gpu.states import WHOLE as WHOLE_DEVICE
from gpu.states import DeviceState, NodeState
from gpu.tables import DeviceLeaseRow, DeviceRow, FlavorRow, NodeRow
from tenants.tables import TenantRow

_SEEN = frozenset({DeviceState.healthy, DeviceState.fenced})


class Sampler:
    """Remembers which probe of each device it has sampled: none is taken twice."""

    def __init__(self) -> None:
        self._taken: dict[str, datetime] = {}

    async def sample(self, session: AsyncSession) -> Samples:
        """By series; see `gauges`."""
        query = select(DeviceRow, NodeRow).join(NodeRow, NodeRow.id == DeviceRow.node_id)
        devices: Sequence[Any] = (await session.execute(query)).all()
        samples = self._devices([device for device, _ in devices])
        samples |= await _tenants(session)
        largest = await _largest_flavors(session)
        samples[PLATFORM] = _platform([(device, node) for device, node in devices], largest)
        return samples

    def _devices(self, rows: Sequence[DeviceRow]) -> Samples:
        samples: Samples = {}
        for row in rows:
            if row.state not in _SEEN or self._taken.get(row.id) == row.seen_at:
                continue
            self._taken[row.id] = row.seen_at
            gauges = row.gauges or {}
            samples[row.id] = _kept(
                DEVICE,
                gauges.get("utilisation_percent"),
                row.memory_used_bytes,
                row.memory_foreign_bytes,
                row.memory_bytes * row.leased // WHOLE_DEVICE,
                gauges.get("temperature_c"),
                gauges.get("power_w"),
            )
        self._taken = {row.id: self._taken[row.id] for row in rows if row.id in self._taken}
        return samples


async def _tenants(session: AsyncSession) -> Samples:
    memory = DeviceRow.memory_bytes * DeviceLeaseRow.share / WHOLE_DEVICE
    query = (
        select(
            ReplicaRow.tenant_id,
            func.sum(DeviceLeaseRow.share),
            func.sum(memory),
            func.count(distinct(DeviceLeaseRow.replica_id)),
        )
        .join(DeviceLeaseRow, DeviceLeaseRow.replica_id == ReplicaRow.id)
        .join(DeviceRow, DeviceRow.id == DeviceLeaseRow.device_id)
        .group_by(ReplicaRow.tenant_id)
    )
    held = {
        tenant_id: _kept(TENANT, int(share) / WHOLE_DEVICE, int(claimed), replicas)
        for tenant_id, share, claimed, replicas in await session.execute(query)
    }
    return {tenant_id: held.get(tenant_id, [0, 0, 0]) for tenant_id in await session.scalars(select(TenantRow.id))}


async def _largest_flavors(session: AsyncSession) -> Mapping[str | None, int]:
    """The most devices of a flavor, by vendor; None: of flavors that take any."""
    query = select(FlavorRow.device_vendor, func.max(FlavorRow.devices)).where(FlavorRow.devices > 0)
    rows = (await session.execute(query.group_by(FlavorRow.device_vendor))).all()
    return {row[0]: row[1] for row in rows}


def _platform(devices: Sequence[tuple[DeviceRow, NodeRow]], largest: Mapping[str | None, int]) -> list[int | None]:
    free = stranded = 0
    groups: dict[tuple[str, str, str, str], list[int]] = defaultdict(list)
    for device, node in devices:
        is_open = device.cordoned is None and node.cordoned is None and node.state == NodeState.ready
        if is_open and device.state == DeviceState.healthy and device.leased < WHOLE_DEVICE:
            group = (node.id, device.pool_id or node.pool_id, device.vendor, device.model)
            groups[group].append(WHOLE_DEVICE - device.leased)
    for (_, _, vendor, _), room in groups.items():
        most = max(largest.get(vendor, 0), largest.get(None, 0))
        if most:
            stranded += fragmentation(room, [Size(most)])
        free += sum(room)
    return _kept(
        WHOLE,
        len(devices),
        sum(device.state == DeviceState.healthy for device, _ in devices),
        sum(device.leased for device, _ in devices) / WHOLE_DEVICE,
        free / WHOLE_DEVICE,
        100 * stranded / free if free and largest else None,
    )


def _kept(gauges: Sequence[Gauge], *values: float | None) -> list[int | None]:
    return [gauge.kept(value) for gauge, value in zip(gauges, values, strict=True)]
