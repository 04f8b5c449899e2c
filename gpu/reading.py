"""Reads the compute of this moment from the database, and only what has changed since it was read last.

Every change of a node, of a device on it or of a lease there gives the node's row another `revision`, which the
database's own triggers draw at random (see the migration that made them): what was seen within a transaction that was
rolled back is never taken for what came after. Where another transaction commits between two statements, a node may be
newer than its revision; then it is read again the next time.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Row, bindparam, func, literal, select, union_all
from sqlalchemy.ext.asyncio import AsyncSession

from gpu.fragmentation import Size
from gpu.snapshot import ComputeSnapshot, DeviceView, LeaseView, NodeView, PoolView
from gpu.states import WHOLE, DeviceState, NodeState
from gpu.tables import DeviceLeaseRow, DeviceRow, NodeRow, PoolRow
from gpu.topology import domains
from gpu.vendors.readings import LinkKind

_FEW: Final = 200
"""Nodes that are asked for by id; where more have changed, all are read."""
_USUAL: Final = {(devices, WHOLE): 1 for devices in (1, 2, 4, 8)}
_PARTS: Final = 32
_CLOSE: Final = 8
_NODE: Final[tuple[Any, ...]] = (
    NodeRow.id,
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
        self._nodes: dict[str, NodeView] = {}
        self._revisions: frozenset[str] = frozenset()
        self._sizes: Counter[tuple[int, int]] = Counter()
        self._mix = _mix({})

    async def read(self, session: AsyncSession) -> ComputeSnapshot:
        """The compute as this transaction sees it, read as plain rows: objects of the session may be older."""
        (_, told), *rows = await session.execute(_STATE)
        pools = tuple(PoolView(pool_id, name) for pool_id, name in rows)
        revisions = frozenset((told or "").split(",")) - {""}
        before = self._revisions
        changed, gone = _ids(revisions - before), _ids(before - revisions)
        fresh = await _read_nodes(session, changed) if changed else {}
        for node_id in gone | changed:
            if (node := self._nodes.pop(node_id, None)) is not None:
                self._sizes.subtract(node.sizes)
        for node_id, node in fresh.items():
            self._nodes[node_id] = node
            self._sizes.update(node.sizes)
        self._revisions = revisions
        self._mix = _unless_close(self._mix, _mix(self._sizes))
        return ComputeSnapshot(pools, tuple(self._nodes.values()), self._mix)


_STATE: Final = union_all(
    select(literal(""), func.aggregate_strings(NodeRow.id + " " + NodeRow.revision, ",")),
    select(PoolRow.id, PoolRow.name),
)
"""The revisions of all nodes in one text, which is a tenth of the work of a row for each; then the pools."""
_NODES: Final[Any] = select(*_NODE)
_DEVICES: Final[Any] = select(*DEVICE, DeviceLeaseRow.replica_id, DeviceLeaseRow.share).outerjoin(
    DeviceLeaseRow, DeviceLeaseRow.device_id == DeviceRow.id
)
_THESE: Final[Any] = bindparam("ids", expanding=True)
_THESE_NODES: Final[Any] = _NODES.where(NodeRow.id.in_(_THESE))
_THESE_DEVICES: Final[Any] = _DEVICES.where(DeviceRow.node_id.in_(_THESE))


def _ids(revisions: Iterable[str]) -> set[str]:
    return {revision.partition(" ")[0] for revision in revisions}


async def _read_nodes(session: AsyncSession, node_ids: Collection[str]) -> dict[str, NodeView]:
    if len(node_ids) <= _FEW:
        these = {"ids": list(node_ids)}
        node_rows = (await session.execute(_THESE_NODES, these)).all()
        device_rows = (await session.execute(_THESE_DEVICES, these)).all()
    else:
        node_rows = (await session.execute(_NODES)).all()
        device_rows = (await session.execute(_DEVICES)).all()
    rows_by_node: dict[str, dict[str, Row[Any]]] = defaultdict(dict)
    held: dict[str, list[LeaseView]] = defaultdict(list)
    for row in device_rows:
        rows_by_node[row.node_id][row.id] = row
        if row.replica_id is not None:
            held[row.id].append(LeaseView(row.replica_id, row.share))
    leases = {device_id: sorted(found, key=lambda lease: lease.replica_id) for device_id, found in held.items()}
    return {
        row.id: _node(row, device_views(rows_by_node[row.id].values(), leases))
        for row in node_rows
        if row.id in node_ids
    }


def _mix(held: Mapping[tuple[int, int], int]) -> tuple[Size, ...]:
    """The sizes of what holds devices now, by their part of all, beside the usual ones."""
    weights = Counter(_USUAL)
    total = sum(held.values())
    for size, number in held.items():
        weights[size] += round(_PARTS * number / total) if total else 0
    return tuple(Size(devices, share, weight) for (devices, share), weight in sorted(weights.items()) if weight)


def _unless_close(kept: tuple[Size, ...], mix: tuple[Size, ...]) -> tuple[Size, ...]:
    """`mix`, but for what is nearly the same the one that was kept, for which placement remembers its answers."""
    before, now = ({size[:2]: size.weight for size in sizes} for sizes in (kept, mix))
    distance = sum(abs(before.get(size, 0) - now.get(size, 0)) for size in before.keys() | now.keys())
    return kept if distance <= _CLOSE else mix


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
