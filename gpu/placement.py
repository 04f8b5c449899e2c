"""Placement: pure, deterministic, and independent of the order in which the snapshot lists things.

A replica goes to one node and takes equal devices (vendor and model), or a share of one. Among the places that fit, in
this order:

1. the preferred vendor;
2. where replicas are to be spread, the node with the fewest of the same deployment;
3. for a share, a device that is shared already, the fullest; for whole devices, the smallest that suffice, then the
   best-linked group: one NVLink domain, one PCIe root, one NUMA node (`gpu.topology`);
4. what leaves the least that nobody could use, by the mix of sizes that are asked for (`gpu.fragmentation`);
5. a node that has the model's files already;
6. what keeps the least free beside it, so that large holes stay whole;
7. for a share that begins a device, the largest, which most others can join;
8. a node without devices for what needs none; the node with the least free memory; the name.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import count
from operator import itemgetter
from typing import Final, NamedTuple

from msgspec.structs import replace as with_changed

from gpu.explanation import explain
from gpu.fragmentation import Size, fragmentation
from gpu.groups import Demand
from gpu.remedies import remedies
from gpu.requests import PlacementRequest, Plan, Rejection, Strategy
from gpu.shapes import Shape
from gpu.snapshot import ComputeSnapshot, LeaseView, NodeView
from gpu.states import WHOLE

_Rank = tuple[int | str, ...]


def place(snapshot: ComputeSnapshot, request: PlacementRequest) -> Plan | Rejection:
    """Where the request fits best, or why it fits nowhere and what would help."""
    return find(snapshot, request) or rejection(snapshot, request)


def rejection(snapshot: ComputeSnapshot, request: PlacementRequest) -> Rejection:
    """Why the request fits nowhere, for one of which `find` told that."""
    return with_changed(explain(snapshot, request), remedies=tuple(remedies(snapshot, request, find)))


def find(snapshot: ComputeSnapshot, request: PlacementRequest) -> Plan | None:
    """Where the request fits best, None where it fits nowhere.

    What a node would give is remembered for all that are like it, so that a decision weighs some tens of shapes.
    """
    number = _number((request.needs, request.vendors, snapshot.mix))
    found = {shape: _fits_of(shape, number, request, snapshot.mix) for shape in snapshot.shapes}
    if request.strategy is Strategy.spread or request.warm_nodes:
        return _best_of_nodes(snapshot, request, found)
    least = min((fits[0].rank for fits in found.values() if fits), default=None)
    if least is None:
        return None
    tied = (shape for shape, fits in found.items() if fits and fits[0].rank == least)
    node = min((node for shape in tied for node in snapshot.shapes[shape]), key=lambda node: node.name)
    return _plan(node, found[node.shape][0])


class _Fit(NamedTuple):
    """What one group of a node of some shape would give. `rank` has the places of what the shape does not tell at
    `_SIBLINGS` and `_COLD`.
    """

    rank: _Rank
    vendor: str
    model: str
    positions: tuple[int, ...]


_SIBLINGS: Final = 1
_COLD: Final = 5
_REMEMBERED: Final = 64
"""Kinds of requests whose answers are remembered with a shape."""


@lru_cache(maxsize=1024)
def _number(_: Hashable) -> int:
    """A number for each kind of request."""
    return next(_numbers)


_numbers: Final = count()


def _fits_of(shape: Shape, number: int, request: PlacementRequest, mix: tuple[Size, ...]) -> list[_Fit]:
    """The best first."""
    fits: list[_Fit] | None = shape.remembered.get(number)
    if fits is None:
        if len(shape.remembered) >= _REMEMBERED:
            shape.remembered.clear()
        fits = shape.remembered[number] = sorted(_fits(shape, request, mix))
    return fits


def _best_of_nodes(
    snapshot: ComputeSnapshot, request: PlacementRequest, found: Mapping[Shape, list[_Fit]]
) -> Plan | None:
    """Where nodes that are alike differ all the same: by what else is there."""
    ranked = (
        (_ranked(fit, node, request), node.name, fit.vendor, fit.model, node, fit)
        for node in snapshot.nodes
        for fit in found[node.shape]
    )
    best = min(ranked, key=itemgetter(0, 1, 2, 3), default=None)
    return None if best is None else _plan(best[4], best[5])


def _ranked(fit: _Fit, node: NodeView, request: PlacementRequest) -> _Rank:
    siblings = request.siblings.get(node.id, 0) if request.strategy is Strategy.spread else 0
    rank = list(fit.rank)
    rank[_SIBLINGS], rank[_COLD] = siblings, node.id not in request.warm_nodes
    return tuple(rank)


def _plan(node: NodeView, fit: _Fit) -> Plan:
    return Plan(node.id, tuple(node.ordered[position].id for position in fit.positions))


def after(snapshot: ComputeSnapshot, replica_id: str, request: PlacementRequest, plan: Plan) -> ComputeSnapshot:
    """The snapshot once `plan` was carried out, so that several replicas are planned in one round."""
    node = snapshot.nodes[snapshot.positions[plan.node_id]]
    lease = LeaseView(replica_id, request.device_share)
    devices = tuple(
        with_changed(device, leases=(*device.leases, lease)) if device.id in plan.device_ids else device
        for device in node.devices
    )
    claimed = node.memory_claimed + request.memory_bytes
    return snapshot.with_node(replace(node, memory_claimed=claimed, devices=devices))


def _fits(shape: Shape, request: PlacementRequest, mix: tuple[Size, ...]) -> Iterator[_Fit]:
    if not shape.has_room(request):
        return
    if request.devices == 0:
        if shape.pool_id == request.pool_id:
            yield _Fit((0, 0, 0, 0, 0, True, shape.device_count, 0, shape.memory_free), "", "", ())
        return
    demand = Demand(request.devices, request.device_share, request.device_memory_bytes)
    for group in shape.groups.get(request.pool_id, ()):
        is_allowed = not request.vendors or group.vendor in request.vendors
        offer = group.offer(demand) if is_allowed and group.model not in request.excluded_models else None
        if offer is not None:
            preference = request.vendors.index(group.vendor) if request.vendors else 0
            is_share = demand.share < WHOLE
            device = (offer.begins, offer.gap) if is_share else (offer.largest, offer.tier)
            size = -offer.largest if is_share else offer.largest
            wasted = _wasted(offer.before, offer.after, mix)
            rank = (preference, 0, *device, wasted, True, offer.gap, size, shape.memory_free)
            positions = tuple(shape.positions[device_id] for device_id in offer.device_ids)
            yield _Fit(rank, group.vendor, group.model, positions)


@lru_cache(maxsize=65536)
def _wasted(before: tuple[int, ...], after: tuple[int, ...], mix: tuple[Size, ...]) -> int:
    return fragmentation(after, mix) - fragmentation(before, mix)
