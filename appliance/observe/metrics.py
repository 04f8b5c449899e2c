"""Prometheus metrics of who holds devices, of how usable the rest is, and of the history's file."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.observe.gauges import PLATFORM, WHOLE
from appliance.observe.recorder import Telemetry
from appliance.services.tables import DeploymentRow, ReplicaRow, ServiceRow
from gpu.states import WHOLE as WHOLE_DEVICE
from gpu.tables import DeviceLeaseRow
from tenants.tables import TenantRow


async def exposition(session: AsyncSession, telemetry: Telemetry) -> bytes:
    """Devices held by service now (integrated over time, what is metered), and what the last round of samples told."""
    registry = CollectorRegistry()
    held = Gauge("appliance_leased_devices", "Devices held, shares summed", ["tenant", "service"], registry=registry)
    query = (
        select(TenantRow.name, ServiceRow.name, func.sum(DeviceLeaseRow.share))
        .join(ReplicaRow, ReplicaRow.id == DeviceLeaseRow.replica_id)
        .join(ServiceRow, ServiceRow.id == ReplicaRow.service_id)
        .join(TenantRow, TenantRow.id == ReplicaRow.tenant_id)
        .group_by(TenantRow.name, ServiceRow.name)
    )
    for tenant, service, share in await session.execute(query):
        held.labels(tenant, service).set(share / WHOLE_DEVICE)
    await _preemptions(session, registry)
    platform = dict(zip((gauge.name for gauge in WHOLE), telemetry.latest.get(PLATFORM, ()), strict=False))
    for gauge, name, text in (
        (WHOLE[3], "appliance_devices_free", "Devices that are healthy, open and not leased, shares summed"),
        (WHOLE[4], "appliance_devices_fragmentation_percent", "Of these, what the largest flavor could not use"),
    ):
        value = gauge.shown(platform.get(gauge.name))
        if value is not None:
            Gauge(name, text, registry=registry).set(value)
    Gauge("appliance_telemetry_bytes", "Size of the history's file", registry=registry).set(telemetry.store.size())
    lost = Gauge(
        "appliance_telemetry_lost_rounds_total", "Rounds of samples not written, since the start", registry=registry
    )
    lost.set(telemetry.lost)
    return generate_latest(registry)


async def _preemptions(session: AsyncSession, registry: CollectorRegistry) -> None:
    left = Gauge(
        "appliance_preempted_replicas_total",
        "Replicas that left for those of tenants of a higher priority, since their service was made",
        ["tenant", "service"],
        registry=registry,
    )
    query = (
        select(TenantRow.name, ServiceRow.name, func.sum(DeploymentRow.preemptions))
        .join(ServiceRow, ServiceRow.id == DeploymentRow.service_id)
        .join(TenantRow, TenantRow.id == DeploymentRow.tenant_id)
        .group_by(TenantRow.name, ServiceRow.name)
        .having(func.sum(DeploymentRow.preemptions) > 0)
    )
    for tenant, service, count in await session.execute(query):
        left.labels(tenant, service).set(count)
