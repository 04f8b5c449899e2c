"""Prometheus metrics of devices, from what the last probe wrote. A device that is not seen has no measurements."""

from __future__ import annotations

from collections import Counter
from typing import Final

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from gpu.states import WHOLE
from gpu.tables import DeviceRow, NodeRow

_LABELS: Final = ("node", "device", "uuid", "model")
_GAUGES: Final = {
    "utilisation_percent": "Share of time in which a kernel ran",
    "temperature_c": "Temperature in degrees Celsius",
    "power_w": "Power in watts",
    "ecc_corrected": "Corrected memory errors since the driver was loaded",
    "ecc_uncorrected": "Uncorrected memory errors since the driver was loaded",
}


async def exposition(session: AsyncSession) -> bytes:
    """How many devices are in each state, and each one's memory and gauges."""
    registry = CollectorRegistry()
    states = Gauge("appliance_devices", "Devices by state", ["vendor", "state", "simulated"], registry=registry)
    memory = {
        name: Gauge(f"appliance_device_{name}", f"Device memory: {what}", _LABELS, registry=registry)
        for name, what in (
            ("memory_bytes", "total"),
            ("memory_used_bytes", "used by all processes"),
            ("memory_foreign_bytes", "used by processes that are not this appliance's"),
            ("memory_claimed_bytes", "the shares of its leases"),
        )
    }
    gauges = {
        name: Gauge(f"appliance_device_{name}", text, _LABELS, registry=registry) for name, text in _GAUGES.items()
    }
    query = select(DeviceRow, NodeRow.name).join(NodeRow, NodeRow.id == DeviceRow.node_id)
    rows = (await session.execute(query)).all()
    for (vendor, state, simulated), count in Counter((row.vendor, row.state, row.simulated) for row, _ in rows).items():
        states.labels(vendor, state, str(simulated).lower()).set(count)
    for row, node in rows:
        labels = (node, row.id, row.uuid, row.model)
        told = {name: getattr(row, name) for name in memory if name != "memory_claimed_bytes"} | (row.gauges or {})
        told["memory_claimed_bytes"] = row.memory_bytes * row.leased // WHOLE
        for name, gauge in (memory | gauges).items():
            if told.get(name) is not None:
                gauge.labels(*labels).set(told[name])
    return generate_latest(registry)
