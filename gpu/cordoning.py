"""Cordons and drains of nodes and devices: what a person says of them, beside the state that a probe sees.

Cordoned: nothing new is placed there, what runs stays. Draining: cordoned, and what runs there goes elsewhere too.
Who cordons a device locks its node first, as whoever takes a lease there does: of the two, one sees the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.clock import Clock
from appliance.kernel.errors import NotFound
from gpu.schemas import Cordon
from gpu.states import Disposition
from gpu.tables import DeviceLeaseRow, DeviceRow, NodeClaimRow, NodeRow

_LOCK: Final = {"populate_existing": True}


async def lock_node(session: AsyncSession, reference: str) -> NodeRow:
    """The node with this name or id, locked until the transaction ends: nobody takes a place there meanwhile."""
    found = select(NodeRow).where((NodeRow.id == reference) | (NodeRow.name == reference))
    row = await session.scalar(found.with_for_update().execution_options(**_LOCK))
    if row is None:
        raise NotFound(f"there is no node {reference!r}")
    return row


async def lock_device(session: AsyncSession, device_id: str) -> DeviceRow:
    """The device, with its node locked before it."""
    known = await session.get(DeviceRow, device_id)
    if known is None:
        raise NotFound(f"there is no device {device_id!r}")
    await lock_node(session, known.node_id)
    locked = select(DeviceRow).where(DeviceRow.id == device_id).with_for_update()
    return (await session.scalars(locked.execution_options(**_LOCK))).one()


async def dispose(
    session: AsyncSession, clock: Clock, row: NodeRow | DeviceRow, disposition: Disposition, reason: str | None = None
) -> None:
    """Open, cordon or drain a locked node or device; `reason` is needed but for opening it. The instant since when it
    is closed stays while it is closed, whatever else changes.
    """
    is_open = disposition is Disposition.open
    row.cordoned_at = None if is_open else row.cordoned_at or clock.now()
    row.cordoned = None if is_open else reason
    row.draining = disposition is Disposition.draining
    await session.flush()


def shown(row: NodeRow | DeviceRow) -> Cordon | None:
    """What is told of a node or device that is closed."""
    if row.cordoned is None or row.cordoned_at is None:
        return None
    return Cordon(reason=row.cordoned, since=row.cordoned_at, draining=row.draining)


async def on_draining(session: AsyncSession) -> dict[str, str]:
    """The replicas that are to leave because their node or a device of theirs is drained, each with why: in words for
    tenants, who read neither the node's name nor what an administrator wrote.
    """
    nodes = select(NodeClaimRow.replica_id).join(NodeRow, NodeRow.id == NodeClaimRow.node_id).where(NodeRow.draining)
    found = dict.fromkeys(await session.scalars(nodes), "its node is drained for maintenance")
    devices = (
        select(DeviceLeaseRow.replica_id, DeviceRow.model, DeviceRow.index)
        .join(DeviceRow, DeviceRow.id == DeviceLeaseRow.device_id)
        .where(DeviceRow.draining)
        .order_by(DeviceRow.id)
    )
    for replica, model, index in await session.execute(devices):
        found.setdefault(replica, f"its device {index} ({model}) is drained for maintenance")
    return found


async def replicas_on_node(session: AsyncSession, node_id: str) -> Sequence[str]:
    """The ids of the replicas that hold something of the node."""
    query = select(NodeClaimRow.replica_id).where(NodeClaimRow.node_id == node_id).order_by(NodeClaimRow.replica_id)
    return (await session.scalars(query)).all()


async def replicas_on_device(session: AsyncSession, device_id: str) -> Sequence[str]:
    query = select(DeviceLeaseRow.replica_id).where(DeviceLeaseRow.device_id == device_id)
    return (await session.scalars(query.order_by(DeviceLeaseRow.replica_id))).all()
