"""Leases: placement's plan, made true in the caller's transaction, rechecked against the database.

The database decides races: the CHECKs of `devices.leased` and `nodes.memory_claimed`. What a plan
assumed and no longer holds raises `PlacementLost`, after which nothing of the attempt is left in the transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete, func, select, true, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.clock import Clock
from gpu import reservations
from gpu.errors import PlacementLost
from gpu.reading import DEVICE, SnapshotReader, device_views
from gpu.requests import PlacementRequest, Plan
from gpu.snapshot import ComputeSnapshot, DeviceView, LeaseView
from gpu.states import DeviceState, NodeState
from gpu.tables import DeviceLeaseRow, DeviceRow, NodeClaimRow, NodeRow


async def take(session: AsyncSession, clock: Clock, replica_id: str, plan: Plan, request: PlacementRequest) -> None:
    """Lease the plan's devices and claim the node's memory for `replica_id`, all or nothing.

    Raises `PlacementLost` where a device, the memory or the node is no longer free, or where the replica already
    has a place.
    """
    await session.flush()
    try:
        async with session.begin_nested():
            await _claim_node(session, replica_id, plan.node_id, request)
            await _check_devices(session, clock, plan, request)
            session.add_all(
                DeviceLeaseRow(
                    device_id=device_id, replica_id=replica_id, share=request.device_share, taken_at=clock.now()
                )
                for device_id in sorted(plan.device_ids)
            )
            await session.flush()
    except IntegrityError as error:
        raise PlacementLost(
            f"a device planned for replica {replica_id} was leased by another; plan again", cause=str(error.orig)
        ) from error


async def release(session: AsyncSession, replica_id: str) -> None:
    """Give everything of `replica_id` back; one that holds nothing is fine. The node's row is locked before those of
    its devices, as in `take`.
    """
    claims = await session.execute(
        delete(NodeClaimRow)
        .where(NodeClaimRow.replica_id == replica_id)
        .returning(NodeClaimRow.node_id, NodeClaimRow.memory_bytes)
    )
    for node_id, memory_bytes in claims.all():
        await session.execute(
            update(NodeRow)
            .where(NodeRow.id == node_id)
            .values(memory_claimed=NodeRow.memory_claimed - memory_bytes)
            .execution_options(synchronize_session=False)
        )
    await session.execute(delete(DeviceLeaseRow).where(DeviceLeaseRow.replica_id == replica_id))


async def snapshot(session: AsyncSession) -> ComputeSnapshot:
    """All of the compute, read afresh; who decides often keeps a `SnapshotReader`."""
    return await SnapshotReader().read(session)


async def devices_of(session: AsyncSession, replica_id: str) -> Sequence[DeviceView]:
    """The devices that a replica holds, by the driver's index: what its launch is given. `leases` tells of it alone."""
    query: Any = (
        select(*DEVICE, DeviceLeaseRow.share)
        .join(DeviceLeaseRow, DeviceLeaseRow.device_id == DeviceRow.id)
        .where(DeviceLeaseRow.replica_id == replica_id)
    )
    rows = (await session.execute(query)).all()
    return device_views(rows, {row.id: [LeaseView(replica_id, row.share)] for row in rows})


async def on_unfit_devices(session: AsyncSession) -> dict[str, str]:
    """The replicas that hold a device which is fenced or gone, each with the first such device's reason."""
    query = (
        select(DeviceLeaseRow.replica_id, DeviceRow.model, DeviceRow.index, DeviceRow.state, DeviceRow.reason)
        .join(DeviceRow, DeviceRow.id == DeviceLeaseRow.device_id)
        .where(DeviceRow.state.in_([DeviceState.fenced.value, DeviceState.absent.value]))
        .order_by(DeviceRow.id)
    )
    found: dict[str, str] = {}
    for replica_id, model, index, state, reason in await session.execute(query):
        found.setdefault(replica_id, f"its device {index} ({model}) is {state}: {reason}")
    return found


async def _claim_node(session: AsyncSession, replica_id: str, node_id: str, request: PlacementRequest) -> None:
    """The node's row is locked by this until the transaction ends, which puts concurrent takes in a queue."""
    grown = await session.execute(
        update(NodeRow)
        .where(NodeRow.id == node_id, NodeRow.state == NodeState.ready, NodeRow.cordoned.is_(None))
        .where(true() if request.devices else NodeRow.pool_id == request.pool_id)
        .where(NodeRow.memory_claimed + request.memory_bytes <= NodeRow.memory_bytes)
        .values(memory_claimed=NodeRow.memory_claimed + request.memory_bytes)
        .execution_options(synchronize_session=False)
    )
    if grown.rowcount != 1:  # type: ignore[attr-defined]  # the result of an UPDATE is a CursorResult
        raise PlacementLost(f"node {node_id} has no room for replica {replica_id} any more; plan again")
    if await session.scalar(select(NodeClaimRow.node_id).where(NodeClaimRow.replica_id == replica_id)) is not None:
        raise PlacementLost(f"replica {replica_id} has a place already; release it first")
    claim = NodeClaimRow(replica_id=replica_id, node_id=node_id, cpus=request.cpus, memory_bytes=request.memory_bytes)
    session.add(claim)


async def _check_devices(session: AsyncSession, clock: Clock, plan: Plan, request: PlacementRequest) -> None:
    """The node's row is locked by now, and whoever cordons, moves or reserves a device locks it first: what is read
    here holds until the transaction ends.
    """
    fit = (
        select(DeviceRow.id)
        .join(NodeRow, NodeRow.id == DeviceRow.node_id)
        .where(DeviceRow.id.in_(plan.device_ids), DeviceRow.node_id == plan.node_id)
        .where(DeviceRow.state == DeviceState.healthy, DeviceRow.cordoned.is_(None))
        .where(func.coalesce(DeviceRow.pool_id, NodeRow.pool_id) == request.pool_id)
    )
    missing = set(plan.device_ids) - set((await session.scalars(fit)).all())
    if missing:
        raise PlacementLost(f"device {min(missing)} is no longer healthy, open and in the pool; plan again")
    if kept := await reservations.kept_for_others(session, clock.now(), plan.device_ids, request.holders):
        raise PlacementLost(f"device {min(kept)} is reserved for others; plan again")
