"""Reads of compute: rows by name or id, and pages as the API shows them. Pools and flavors belong to no tenant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec
from sqlalchemy import ColumnElement, Select, and_, case, exists, func, or_, select, true
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from appliance.kernel.access import Access
from appliance.kernel.errors import NotFound
from appliance.kernel.pagination import Page, PageRequest
from gpu import cordoning
from gpu.schemas import Device, DeviceGroup, DeviceLease, Flavor, Node, Pool
from gpu.snapshot import DeviceKind
from gpu.states import DeviceState, NodeState, Vendor
from gpu.tables import DeviceLeaseRow, DeviceRow, FlavorRow, NodeClaimRow, NodeRow, PoolRow
from gpu.vendors.readings import DeviceGauges, DeviceLink, MigInstance

R = TypeVar("R", NodeRow, FlavorRow)
_NONE: Final[Mapping[str, str]] = {}
EVERY: Final = true()
"""The condition of the platform: pools that only some tenants may use are there for it."""


async def pool_row(session: AsyncSession, reference: str, usable: ColumnElement[bool] = EVERY) -> PoolRow:
    """By name or id; raises `NotFound`, also for one that is not `usable` for who asks."""
    row = await session.scalar(select(PoolRow).where(or_(PoolRow.id == reference, PoolRow.name == reference), usable))
    if row is None:
        raise NotFound(f"there is no pool {reference!r}")
    return row


async def lock_pool(session: AsyncSession, reference: str) -> PoolRow:
    """The same as it is now, locked until the transaction ends: nobody takes a place there meanwhile."""
    known = await pool_row(session, reference)
    locked = select(PoolRow).where(PoolRow.id == known.id).with_for_update(key_share=True)
    return (await session.scalars(locked.execution_options(populate_existing=True))).one()


async def node_row(session: AsyncSession, reference: str) -> NodeRow:
    return await _named(session, NodeRow, "node", reference)


async def flavor_row(session: AsyncSession, reference: str) -> FlavorRow:
    return await _named(session, FlavorRow, "flavor", reference)


async def device_row(session: AsyncSession, device_id: str) -> DeviceRow:
    row = await session.get(DeviceRow, device_id)
    if row is None:
        raise NotFound(f"there is no device {device_id!r}")
    return row


async def list_pools(
    session: AsyncSession, page: PageRequest, usable: ColumnElement[bool] = EVERY, *, labels: Mapping[str, str] = _NONE
) -> Page[Pool]:
    query = select(PoolRow).where(usable, *_labelled(PoolRow.labels, labels))
    rows = (await session.scalars(page.apply(query, PoolRow.id))).all()
    return page.page(await _pools(session, rows), [row.id for row in rows])


async def show_pool(session: AsyncSession, row: PoolRow) -> Pool:
    return (await _pools(session, [row]))[0]


async def list_nodes(
    session: AsyncSession, page: PageRequest, *, pool_id: str | None = None, labels: Mapping[str, str] = _NONE
) -> Page[Node]:
    query = select(NodeRow).where(*_labelled(NodeRow.labels, labels))
    if pool_id is not None:
        alone = select(DeviceRow.node_id).where(DeviceRow.pool_id == pool_id)
        query = query.where(or_(NodeRow.pool_id == pool_id, NodeRow.id.in_(alone)))
    rows = (await session.scalars(page.apply(query, NodeRow.id))).all()
    return page.page(await _nodes(session, rows), [row.id for row in rows])


def _labelled(column: InstrumentedAttribute[Any], labels: Mapping[str, str]) -> list[ColumnElement[bool]]:
    """The conditions that the JSON object in the column has these members."""
    return [column[key].as_string() == value for key, value in labels.items()]


async def show_node(session: AsyncSession, row: NodeRow) -> Node:
    return (await _nodes(session, [row]))[0]


async def list_devices(
    session: AsyncSession, page: PageRequest, *, node_id: str | None = None, pool_id: str | None = None
) -> Page[Device]:
    query = _device_query()
    if pool_id is not None:
        query = query.where(func.coalesce(DeviceRow.pool_id, NodeRow.pool_id) == pool_id)
    if node_id is not None:
        query = query.where(DeviceRow.node_id == node_id)
    devices = await _devices(session, page.apply(query, DeviceRow.id))
    return page.page(devices, [device.id for device in devices])


async def show_device(session: AsyncSession, row: DeviceRow) -> Device:
    return (await _devices(session, _device_query().where(DeviceRow.id == row.id)))[0]


async def device_kinds(session: AsyncSession, usable: ColumnElement[bool] = EVERY) -> list[DeviceKind]:
    """Of the pools that are `usable` for who asks, each once."""
    query = (
        select(DeviceRow.vendor, DeviceRow.model, DeviceRow.compute_capability)
        .join(NodeRow, NodeRow.id == DeviceRow.node_id)
        .join(PoolRow, PoolRow.id == func.coalesce(DeviceRow.pool_id, NodeRow.pool_id))
        .where(usable)
    )
    rows = await session.execute(query.distinct().order_by(DeviceRow.model, DeviceRow.vendor))
    return [DeviceKind(vendor, model, capability) for vendor, model, capability in rows]


async def list_flavors(session: AsyncSession, page: PageRequest) -> Page[Flavor]:
    rows = (await session.scalars(page.apply(select(FlavorRow), FlavorRow.id))).all()
    return page.page([show_flavor(row) for row in rows], [row.id for row in rows])


def show_flavor(row: FlavorRow) -> Flavor:
    return Flavor(
        id=row.id,
        name=row.name,
        description=row.description,
        device_vendor=Vendor(row.device_vendor) if row.device_vendor else None,
        devices=row.devices,
        device_share=row.device_share,
        cpus=row.cpus,
        memory_bytes=row.memory_bytes,
        tmp_bytes=row.tmp_bytes,
        version=row.version,
        created_at=row.created_at,
    )


async def _named(session: AsyncSession, table: type[R], kind: str, reference: str) -> R:
    """Names hold no underscore and ids do, so that one is never taken for the other."""
    row = await session.scalar(select(table).where((table.id == reference) | (table.name == reference)))
    if row is None:
        raise NotFound(f"there is no {kind} {reference!r}")
    return row


async def _pools(session: AsyncSession, rows: Sequence[PoolRow]) -> list[Pool]:
    ids = [row.id for row in rows]
    counts = select(NodeRow.pool_id, func.count()).where(NodeRow.pool_id.in_(ids)).group_by(NodeRow.pool_id)
    nodes = dict((await session.execute(counts)).all())
    groups: dict[str, list[DeviceGroup]] = {}
    for pool_id, vendor, model, memory_bytes, total, free in await session.execute(_group_query(ids)):
        groups.setdefault(pool_id, []).append(DeviceGroup(Vendor(vendor), model, memory_bytes, total, free))
    return [
        Pool(
            id=row.id,
            name=row.name,
            description=row.description,
            access=Access(row.access),
            labels=row.labels or {},
            nodes=nodes.get(row.id, 0),
            devices=groups.get(row.id, []),
            version=row.version,
            created_at=row.created_at,
        )
        for row in rows
    ]


def _group_query(pool_ids: Sequence[str]) -> Select[str, str, str, int, int, int]:
    pool = func.coalesce(DeviceRow.pool_id, NodeRow.pool_id)
    kind = (pool, DeviceRow.vendor, DeviceRow.model, DeviceRow.memory_bytes)
    is_free = and_(
        DeviceRow.state == DeviceState.healthy,
        DeviceRow.cordoned.is_(None),
        NodeRow.state == NodeState.ready,
        NodeRow.cordoned.is_(None),
        ~exists().where(DeviceLeaseRow.device_id == DeviceRow.id),
    )
    return (
        select(*kind, func.count(), func.sum(case((is_free, 1), else_=0)))
        .select_from(DeviceRow)
        .join(NodeRow, NodeRow.id == DeviceRow.node_id)
        .where(pool.in_(pool_ids))
        .group_by(*kind)
        .order_by(*kind)
    )


async def _nodes(session: AsyncSession, rows: Sequence[NodeRow]) -> list[Node]:
    ids = [row.id for row in rows]
    counts = select(DeviceRow.node_id, func.count()).where(DeviceRow.node_id.in_(ids)).group_by(DeviceRow.node_id)
    devices = dict((await session.execute(counts)).all())
    claims = select(NodeClaimRow.node_id, func.count()).where(NodeClaimRow.node_id.in_(ids))
    replicas = dict((await session.execute(claims.group_by(NodeClaimRow.node_id))).all())
    return [
        Node(
            id=row.id,
            name=row.name,
            pool_id=row.pool_id,
            state=NodeState(row.state),
            reason=row.reason,
            cordon=cordoning.shown(row),
            labels=row.labels or {},
            cpus=row.cpus,
            memory_bytes=row.memory_bytes,
            memory_claimed=row.memory_claimed,
            replicas=replicas.get(row.id, 0),
            processor=row.processor,
            numa_nodes=row.numa_nodes,
            devices=devices.get(row.id, 0),
            boot_id=row.boot_id,
            seen_at=row.seen_at,
            created_at=row.created_at,
        )
        for row in rows
    ]


def _device_query() -> Select[DeviceRow, str]:
    return select(DeviceRow, NodeRow.pool_id).join(NodeRow, NodeRow.id == DeviceRow.node_id)


async def _devices(session: AsyncSession, query: Select[DeviceRow, str]) -> list[Device]:
    rows = (await session.execute(query)).all()
    ids = [row.id for row, _ in rows]
    held = (
        select(DeviceLeaseRow.device_id, DeviceLeaseRow.replica_id, DeviceLeaseRow.share)
        .where(DeviceLeaseRow.device_id.in_(ids))
        .order_by(DeviceLeaseRow.taken_at, DeviceLeaseRow.replica_id)
    )
    leases: dict[str, list[DeviceLease]] = {}
    for device_id, replica_id, share in await session.execute(held):
        leases.setdefault(device_id, []).append(DeviceLease(replica_id, share))
    return [_device(row, pool_id, leases.get(row.id, [])) for row, pool_id in rows]


def _device(row: DeviceRow, node_pool_id: str, leases: list[DeviceLease]) -> Device:
    return Device(
        id=row.id,
        node_id=row.node_id,
        pool_id=row.pool_id or node_pool_id,
        node_pool_id=node_pool_id,
        vendor=Vendor(row.vendor),
        model=row.model,
        uuid=row.uuid,
        index=row.index,
        minor=row.minor,
        pci_address=row.pci_address,
        memory_bytes=row.memory_bytes,
        compute_capability=row.compute_capability,
        driver_version=row.driver_version,
        sdk_version=row.sdk_version,
        numa_node=row.numa_node,
        simulated=row.simulated,
        memory_used_bytes=row.memory_used_bytes,
        memory_foreign_bytes=row.memory_foreign_bytes,
        gauges=msgspec.convert(row.gauges, DeviceGauges) if row.gauges else None,
        links=msgspec.convert(row.links or [], list[DeviceLink]),
        mig=msgspec.convert(row.mig or [], list[MigInstance]),
        state=DeviceState(row.state),
        reason=row.reason,
        cordon=cordoning.shown(row),
        leased=row.leased,
        leases=leases,
        seen_at=row.seen_at,
    )
