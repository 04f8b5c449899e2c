"""Reads the compute of this moment from the database, and only what has changed since it was read last.

Every change of a node, of a device on it or of a lease there gives the node's row another `revision`, which the
database's own triggers draw at random (see the migration that made them): what was seen within a transaction that was
rolled back is never taken for what came after. Where another transaction commits between two statements, a node may be
newer than its revision; then it is read again the next time.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Row, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from gpu.fragmentation import Size
from gpu.snapshot import ComputeSnapshot, DeviceView, LeaseView, NodeView, PoolView
from gpu.states import DeviceState, NodeState
from gpu.tables import DeviceLeaseRow, DeviceRow, FlavorRow, NodeRow, PoolRow
from gpu.topology import domains
from gpu.vendors.readings import LinkKind

_FEW: Final = 200
"""Nodes that are asked for by id; where more have changed, all are read."""
_NODE: Final[tuple[Any, ...]] = (
    NodeRow.id,
    NodeRow.revision,
    NodeRow.name,
    NodeRow.pool_id,
    NodeRow.state,
    NodeRow.reason,
    NodeRow.cordoned,
    NodeRow.cpus,
    NodeRow.memory_bytes,
    NodeRow.memory_claimed,
    NodeRow.labels,
)
DEVICE: Final[tuple[Any, ...]] = (
    DeviceRow.id,
    DeviceRow.node_id,
    DeviceRow.vendor,
    DeviceRow.model,
    DeviceRow.index,
    DeviceRow.uuid,
    DeviceRow.minor,
    DeviceRow.memory_bytes,
    DeviceRow.memory_foreign_bytes,
    DeviceRow.compute_capability,
    DeviceRow.numa_node,
    DeviceRow.links,
    DeviceRow.state,
    DeviceRow.reason,
    DeviceRow.cordoned,
    DeviceRow.pool_id,
)
"""What placement reads of a device: not the gauges."""


class SnapshotReader:
    """Keeps the nodes that it has read; one for each database."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, NodeView]] = {}

    async def read(self, session: AsyncSession) -> ComputeSnapshot:
        """The compute as this transaction sees it, read as plain rows: objects of the session may be older."""
        pools = await session.execute(select(PoolRow.id, PoolRow.name))
        revisions = (await session.execute(select(NodeRow.id, NodeRow.revision))).all()
        changed = [node_id for node_id, revision in revisions if not self._is_known(node_id, revision)]
        if changed or len(revisions) != len(self._known):
            fresh = await _read_nodes(session, changed) if changed else {}
            self._known = {
                node_id: fresh.get(node_id) or self._known[node_id]
                for node_id, _ in revisions
                if node_id in fresh or node_id in self._known
            }
        return ComputeSnapshot(
            pools=tuple(PoolView(pool_id, name) for pool_id, name in pools),
            nodes=tuple(node for _, node in self._known.values()),
            mix=await _mix(session),
        )

    def _is_known(self, node_id: str, revision: str) -> bool:
        known = self._known.get(node_id)
        return known is not None and known[0] == revision


async def _read_nodes(session: AsyncSession, node_ids: Collection[str]) -> dict[str, tuple[str, NodeView]]:
    nodes, devices = select(*_NODE), select(*DEVICE)
    leases = select(DeviceLeaseRow.device_id, DeviceLeaseRow.replica_id, DeviceLeaseRow.share)
    if len(node_ids) <= _FEW:
        nodes, devices = nodes.where(NodeRow.id.in_(node_ids)), devices.where(DeviceRow.node_id.in_(node_ids))
        leases = leases.join(DeviceRow, DeviceRow.id == DeviceLeaseRow.device_id).where(DeviceRow.node_id.in_(node_ids))
    node_rows = (await session.execute(nodes)).all()
    rows_by_node: dict[str, list[Row[Any]]] = defaultdict(list)
    for row in await session.execute(devices):
        rows_by_node[row.node_id].append(row)
    held: dict[str, list[LeaseView]] = defaultdict(list)
    for device_id, replica_id, share in await session.execute(leases.order_by(DeviceLeaseRow.replica_id)):
        held[device_id].append(LeaseView(replica_id, share))
    return {row.id: (row.revision, _node(row, device_views(rows_by_node[row.id], held))) for row in node_rows}


async def _mix(session: AsyncSession) -> tuple[Size, ...]:
    """The sizes of all flavors, and of what holds devices now."""
    counts: dict[tuple[int, int], int] = defaultdict(int)
    flavors = select(FlavorRow.devices, FlavorRow.device_share).where(FlavorRow.devices > 0)
    for devices, share in await session.execute(flavors):
        counts[devices, share] += 1
    each = (
        select(func.count().label("devices"), func.min(DeviceLeaseRow.share).label("share"))
        .group_by(DeviceLeaseRow.replica_id)
        .subquery()
    )
    held = select(each.c.devices, each.c.share, func.count()).group_by(each.c.devices, each.c.share)
    for devices, share, number in await session.execute(held):
        counts[devices, share] += number
    return tuple(Size(devices, share, weight) for (devices, share), weight in sorted(counts.items()))


def _node(row: Row[Any], devices: Iterable[DeviceView]) -> NodeView:
    return NodeView(
        id=row.id,
        name=row.name,
        pool_id=row.pool_id,
        state=NodeState(row.state),
        reason=row.reason,
        cordoned=row.cordoned,
        cpus=row.cpus,
        memory_bytes=row.memory_bytes,
        memory_claimed=row.memory_claimed,
        labels=row.labels or {},
        devices=tuple(devices),
    )


def device_views(rows: Iterable[Row[Any]], leases: Mapping[str, Sequence[LeaseView]]) -> list[DeviceView]:
    """Of one node's rows (`DEVICE`), with who holds them; by the driver's index."""
    rows = sorted(rows, key=lambda row: (row._mapping["index"], row.id))  # noqa: SLF001 - see `_device`
    places = domains({row.uuid: _links(row.links) for row in rows}, {row.uuid: row.numa_node for row in rows})
    return [_device(row, places[row.uuid], tuple(leases.get(row.id, ()))) for row in rows]


def _links(document: Any) -> dict[str, LinkKind]:
    parsed = json.loads(document) if isinstance(document, str) else document
    return {link["peer"]: LinkKind(link["kind"]) for link in parsed or ()}


def _device(row: Row[Any], places: tuple[int, ...], leases: tuple[LeaseView, ...]) -> DeviceView:
    return DeviceView(
        id=row.id,
        node_id=row.node_id,
        vendor=row.vendor,
        model=row.model,
        index=row._mapping["index"],  # noqa: SLF001 - a row is a tuple, whose `index` is a method
        uuid=row.uuid,
        minor=row.minor,
        memory_bytes=row.memory_bytes,
        memory_foreign=row.memory_foreign_bytes or 0,
        compute_capability=row.compute_capability,
        domains=places,
        state=DeviceState(row.state),
        reason=row.reason,
        cordoned=row.cordoned,
        pool_id=row.pool_id,
        leases=leases,
    )
