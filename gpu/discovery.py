"""Writes what a probe saw: the node, and the state of each of its devices.

A device that is not seen is never free: `stale` where the driver did not answer, `absent` where it did and no
longer lists the device. `fenced` stays until a person clears it, whatever the driver says.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from msgspec import Struct
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.clock import Clock
from appliance.kernel.ids import new_id
from gpu.defaults import pool_for_new_node
from gpu.machine import Machine
from gpu.probe import FoundDevice, ProbeAnswer
from gpu.states import DeviceState, NodeState
from gpu.tables import DeviceRow, NodeRow


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


async def record_devices(session: AsyncSession, clock: Clock, node_id: str, answer: ProbeAnswer) -> list[Change]:
    """Bring the node's device rows to what `answer` says; what became different is returned."""
    rows = (await session.scalars(select(DeviceRow).where(DeviceRow.node_id == node_id))).all()
    named = {device.uuid: device for device in answer.devices if device.uuid}
    changes = [_miss(row, answer) for row in rows if row.uuid not in named]
    known = {row.uuid: row for row in await _rows_by_uuid(session, named)}
    for uuid, found in named.items():
        row = known.get(uuid)
        if row is None:
            row = DeviceRow(id=new_id("dev"), uuid=uuid, created_at=clock.now(), state="")
            session.add(row)
        changes.append(_see(row, node_id, found, answer.driver_version, clock.now()))
    await session.flush()
    return [change for change in changes if change.before is not change.after]


async def _rows_by_uuid(session: AsyncSession, uuids: Iterable[str]) -> Iterable[DeviceRow]:
    """By UUID and not by node: a card may have been moved to this one."""
    return await session.scalars(select(DeviceRow).where(DeviceRow.uuid.in_(list(uuids))))


def _see(row: DeviceRow, node_id: str, found: FoundDevice, driver_version: str | None, now: datetime) -> Change:
    before = DeviceState(row.state) if row.state else None
    row.node_id, row.vendor, row.model = node_id, found.vendor.value, found.model
    row.index, row.minor, row.pci_address = found.index, found.minor, found.pci_address
    row.memory_bytes, row.compute_capability = found.memory_bytes, found.compute_capability
    row.driver_version, row.seen_at = driver_version, now
    if found.problem is not None and before is not DeviceState.fenced:
        row.state, row.reason = DeviceState.fenced.value, found.problem
    elif before is not DeviceState.fenced:
        row.state, row.reason = DeviceState.healthy.value, None
    return Change(row.id, before, DeviceState(row.state), row.reason)


def _miss(row: DeviceRow, answer: ProbeAnswer) -> Change:
    before = DeviceState(row.state)
    silent = answer.error or next((device.problem for device in answer.devices if not device.uuid), None)
    if before is not DeviceState.fenced:
        state = DeviceState.stale if silent else DeviceState.absent
        row.state, row.reason = state.value, silent or "the driver no longer lists the device"
    return Change(row.id, before, DeviceState(row.state), row.reason)
