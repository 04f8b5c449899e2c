"""Writes what a probe saw: the node, and the state of each of its devices.

A device that is not seen is never free: `stale` where its driver did not answer, `absent` where it did and no longer
lists the device. One that is unwell, or fell off the bus, is `fenced`, and stays so until a person clears it, whatever
the driver says. What was measured is forgotten as soon as it is not seen any more.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Final

import msgspec
from msgspec import Struct
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.clock import Clock
from appliance.kernel.ids import new_id
from gpu.defaults import pool_for_new_node
from gpu.health import foreign_bytes, trouble
from gpu.machine import Machine
from gpu.states import DeviceState, NodeState, Vendor
from gpu.tables import DeviceRow, NodeRow
from gpu.vendors.readings import DeviceReading, Reading

SIMULATED: Final = " (simulated)"
"""Ends the model of a device that no hardware is behind, so that it is told wherever the model is."""


class Change(Struct, frozen=True):
    """A device that is new (`before` None) or whose state is another."""

    device_id: str
    before: DeviceState | None
    after: DeviceState
    reason: str | None


async def record_node(session: AsyncSession, clock: Clock, node_id: str | None, machine: Machine) -> NodeRow:
    """The node's row, up to date; found by its id, else by its name, else made.

    Where less memory is left than replicas have claimed, the row keeps what they claim and says so.
    """
    row = await session.get(NodeRow, node_id) if node_id is not None else None
    if row is None:
        row = await session.scalar(select(NodeRow).where(NodeRow.name == machine.name))
    if row is None:
        row = NodeRow(id=node_id or new_id("nod"), memory_claimed=0, created_at=clock.now())
        row.pool_id = await pool_for_new_node(session, clock)
        session.add(row)
    row.name, row.state, row.reason = machine.name, NodeState.ready.value, None
    row.cpus, row.boot_id, row.seen_at = machine.cpus, machine.boot_id, clock.now()
    row.memory_bytes = max(machine.memory_bytes, row.memory_claimed)
    if row.memory_bytes > machine.memory_bytes:
        row.reason = f"replicas claim {row.memory_claimed} bytes of memory, {machine.memory_bytes} are left"
    await session.flush()
    return row


async def record_devices(
    session: AsyncSession, clock: Clock, node: NodeRow, readings: Sequence[Reading], ours: Collection[int] | None = ()
) -> list[Change]:
    """Bring the node's device rows to what `readings` say; what became different is returned.

    A vendor without a reading has no hardware here. `ours` are the pids of this appliance's replicas,
    None where nobody can tell.
    """
    by_vendor = {reading.vendor: reading for reading in readings}
    if (cpu := by_vendor.get(Vendor.cpu)) is not None and cpu.error is None:
        node.processor, node.numa_nodes = cpu.processor, cpu.numa_nodes
    rows = (await session.scalars(select(DeviceRow).where(DeviceRow.node_id == node.id))).all()
    seen = {device.uuid: (reading, device) for reading in readings for device in reading.devices if device.uuid}
    changes = [_miss(row, by_vendor.get(Vendor(row.vendor))) for row in rows if row.uuid not in seen]
    known = {row.uuid: row for row in await _rows_by_uuid(session, seen)}
    for uuid, (reading, device) in seen.items():
        row = known.get(uuid)
        if row is None and device.lost:
            continue
        if row is None:
            row = DeviceRow(id=new_id("dev"), uuid=uuid, created_at=clock.now(), state="", ecc_cleared=0)
            session.add(row)
        row.node_id = node.id
        changes.append(_lose(row, device) if device.lost else _see(row, reading, device, ours, clock.now()))
    await session.flush()
    return [change for change in changes if change.before is not change.after]


async def _rows_by_uuid(session: AsyncSession, uuids: Iterable[str]) -> Iterable[DeviceRow]:
    """By UUID and not by node: a card may have been moved to this one."""
    return await session.scalars(select(DeviceRow).where(DeviceRow.uuid.in_(list(uuids))))


def _see(
    row: DeviceRow, reading: Reading, device: DeviceReading, ours: Collection[int] | None, now: datetime
) -> Change:
    row.vendor, row.simulated = reading.vendor.value, reading.simulated
    row.model = device.model + (SIMULATED if reading.simulated else "")
    row.index, row.minor, row.pci_address = device.index, device.minor, device.pci_address
    row.numa_node, row.seen_at = device.numa_node, now
    row.memory_bytes, row.compute_capability = device.memory_bytes, device.compute_capability
    row.driver_version, row.sdk_version = reading.driver_version, reading.sdk_version
    row.memory_used_bytes = device.memory_used_bytes
    row.memory_foreign_bytes = foreign_bytes(device.processes, ours)
    row.gauges = msgspec.to_builtins(device.gauges)
    row.links, row.mig = msgspec.to_builtins(device.links), msgspec.to_builtins(device.mig)
    row.ecc_cleared = min(row.ecc_cleared, device.gauges.ecc_uncorrected or 0)  # the count begins anew with the driver
    before = DeviceState(row.state) if row.state else None
    if before is not DeviceState.fenced:
        reason = trouble(device, row.ecc_cleared)
        row.state, row.reason = (DeviceState.fenced if reason else DeviceState.healthy).value, reason
    return Change(row.id, before, DeviceState(row.state), row.reason)


def _lose(row: DeviceRow, device: DeviceReading) -> Change:
    """It is listed and does not answer: what is known of it stays, and nothing of it is trusted."""
    _forget_measurements(row)
    before = DeviceState(row.state)
    if before is not DeviceState.fenced:
        row.state, row.reason = DeviceState.fenced.value, device.problem
    return Change(row.id, before, DeviceState(row.state), row.reason)


def _miss(row: DeviceRow, reading: Reading | None) -> Change:
    """A driver that was opened when the device was lost already does not know its UUID, only its index."""
    devices = reading.devices if reading is not None else ()
    nameless = {device.index: device for device in devices if not device.uuid}
    if row.index in nameless:
        return _lose(row, nameless[row.index])
    _forget_measurements(row)
    before = DeviceState(row.state)
    error = reading.error if reading is not None else None
    silent = error or next((device.problem for device in nameless.values()), None)
    if before is not DeviceState.fenced:
        state = DeviceState.stale if silent else DeviceState.absent
        row.state, row.reason = state.value, silent or "the driver no longer lists the device"
    return Change(row.id, before, DeviceState(row.state), row.reason)


def _forget_measurements(row: DeviceRow) -> None:
    row.memory_used_bytes = row.memory_foreign_bytes = row.gauges = None
