"""Changes of pools, nodes, devices and flavors. The caller writes the audit row.

An error leaves the transaction to be rolled back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from msgspec import UNSET, structs
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.clock import Clock
from appliance.kernel.errors import BadInput, InUse, NameTaken
from appliance.kernel.ids import new_id
from gpu.schemas import FlavorCreate, FlavorUpdate, PoolCreate, PoolUpdate
from gpu.states import WHOLE, DeviceState
from gpu.tables import DeviceLeaseRow, DeviceRow, FlavorRow, NodeClaimRow, NodeRow, PoolRow

Blockers = Callable[[AsyncSession, str], Awaitable[Sequence[str]]]
"""What keeps the flavor with this id from being deleted, each as a person calls it (`service 'chat'`)."""


async def create_pool(session: AsyncSession, clock: Clock, new: PoolCreate) -> PoolRow:
    row = PoolRow(
        id=new_id("pol"),
        name=new.name,
        description=new.description,
        access=new.access.value,
        labels=new.labels,
        version=1,
        created_at=clock.now(),
    )
    await _flush_named(session, row, "pool")
    return row


async def update_pool(session: AsyncSession, row: PoolRow, change: PoolUpdate) -> PoolRow:
    _assign(row, change)
    await _flush_named(session, row, "pool")
    return row


async def delete_pool(session: AsyncSession, row: PoolRow, blockers: Blockers) -> None:
    """Raises `InUse` while it has nodes, devices or users. Grants of it go with it."""
    nodes = await session.scalar(select(func.count()).where(NodeRow.pool_id == row.id))
    if nodes:
        raise InUse(f"pool {row.name} has {nodes} node(s); move them to another pool first")
    devices = await session.scalar(select(func.count()).where(DeviceRow.pool_id == row.id))
    if devices:
        raise InUse(f"pool {row.name} has {devices} device(s) of other pools' nodes; move them back first")
    if users := await blockers(session, row.id):
        raise InUse(f"pool {row.name} is used by {', '.join(users)}; delete or move them first")
    await session.delete(row)
    await session.flush()


async def move_node(session: AsyncSession, row: NodeRow, pool: PoolRow) -> NodeRow:
    """A locked node, with its devices but for those that were moved alone. Raises `InUse` while replicas run there:
    they were placed in its present pool.
    """
    replicas = await session.scalar(select(func.count()).where(NodeClaimRow.node_id == row.id))
    if replicas and row.pool_id != pool.id:
        raise InUse(f"{replicas} replica(s) run on node {row.name}; stop them before it moves to pool {pool.name}")
    row.pool_id = pool.id
    await session.flush()
    return row


async def move_device(session: AsyncSession, row: DeviceRow, pool: PoolRow | None) -> DeviceRow:
    """Put a locked device alone into a pool, None: back into its node's. Raises `InUse` while it is leased: who leases
    it was placed in its present pool.
    """
    node = await session.get_one(NodeRow, row.node_id)
    now, then = row.pool_id or node.pool_id, pool.id if pool is not None else node.pool_id
    holder = await session.scalar(select(DeviceLeaseRow.replica_id).where(DeviceLeaseRow.device_id == row.id).limit(1))
    if holder is not None and now != then:
        raise InUse(f"replica {holder} leases device {row.id}; drain the device before it moves to another pool")
    row.pool_id = None if then == node.pool_id else then
    await session.flush()
    return row


async def label_node(session: AsyncSession, row: NodeRow, labels: Mapping[str, str]) -> NodeRow:
    row.labels = dict(labels)
    await session.flush()
    return row


async def fence_device(session: AsyncSession, row: DeviceRow, reason: str) -> DeviceRow:
    """No new lease until `clear_device`; the replica that holds it is drained and replaced."""
    row.state, row.reason = DeviceState.fenced.value, reason
    await session.flush()
    return row


async def clear_device(session: AsyncSession, row: DeviceRow) -> DeviceRow:
    """Lift a fence, with the errors that are known now accepted. The device is `stale` until the next probe has seen
    it; what is still wrong then fences it anew.
    """
    if row.state == DeviceState.fenced:
        row.ecc_cleared = max(row.ecc_cleared, (row.gauges or {}).get("ecc_uncorrected") or 0)
        row.state, row.reason = DeviceState.stale.value, "cleared; not yet probed again"
        await session.flush()
    return row


async def create_flavor(session: AsyncSession, clock: Clock, new: FlavorCreate) -> FlavorRow:
    row = FlavorRow(id=new_id("flv"), version=1, created_at=clock.now(), **structs.asdict(new))
    _check_devices(row)
    await _flush_named(session, row, "flavor")
    return row


async def update_flavor(session: AsyncSession, row: FlavorRow, change: FlavorUpdate, blockers: Blockers) -> FlavorRow:
    """Raises `InUse` for other devices while services use it: their arguments and counts are for those that it has."""
    before = _devices_of(row)
    _assign(row, change)
    if _devices_of(row) != before and (users := await blockers(session, row.id)):
        raise InUse(
            f"flavor {row.name} is used by {', '.join(users)}, which were published for its devices; make another"
        )
    _check_devices(row)
    await _flush_named(session, row, "flavor")
    return row


async def delete_flavor(session: AsyncSession, row: FlavorRow, blockers: Blockers) -> None:
    """Raises `InUse` with what uses it."""
    users = await blockers(session, row.id)
    if users:
        raise InUse(f"flavor {row.name} is used by {', '.join(users)}; delete them or choose another flavor there")
    await session.delete(row)
    await session.flush()


def _assign(row: PoolRow | FlavorRow, change: PoolUpdate | FlavorUpdate) -> None:
    for name, value in structs.asdict(change).items():
        if value is not UNSET:
            setattr(row, name, value)
    row.version += 1


def _devices_of(row: FlavorRow) -> tuple[str | None, int, int]:
    return row.device_vendor, row.devices, row.device_share


def _check_devices(row: FlavorRow) -> None:
    if row.devices == 0 and row.device_vendor not in (None, "cpu"):
        raise BadInput(
            f"a flavor without devices cannot ask for vendor {row.device_vendor!r}; set devices to 1 or more"
        )
    if row.devices > 0 and row.device_vendor == "cpu":
        raise BadInput("vendor 'cpu' stands for running without devices; set devices to 0 or choose another vendor")
    if row.device_share < WHOLE and row.devices != 1:
        raise BadInput(f"a share of {row.device_share} % is of one device; set devices to 1 or device_share to 100")


async def _flush_named(session: AsyncSession, row: PoolRow | FlavorRow, kind: str) -> None:
    """Write the row; its name's unique constraint is the only one that valid input can break."""
    name = row.name
    session.add(row)
    try:
        await session.flush()
    except IntegrityError as error:
        raise NameTaken(f"there is a {kind} named {name!r} already; choose another name") from error
