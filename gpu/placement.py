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

from collections.abc import Hashable, Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import count
from typing import Final, NamedTuple

from msgspec.structs import replace as with_changed

from gpu.explanation import explain
from gpu.fragmentation import Size, fragmentation
from gpu.groups import Demand
from gpu.remedies import remedies
from gpu.requests import PlacementRequest, Plan, Rejection, Strategy
from gpu.snapshot import ComputeSnapshot, LeaseView, NodeView
from gpu.states import WHOLE

_Rank = tuple[int | str, ...]


def place(snapshot: ComputeSnapshot, request: PlacementRequest) -> Plan | Rejection:
    """Where the request fits best, or why it fits nowhere and what would help. Linear in the snapshot's nodes."""
    return find(snapshot, request) or rejection(snapshot, request)


def rejection(snapshot: ComputeSnapshot, request: PlacementRequest) -> Rejection:
    """Why the request fits nowhere, for one of which `find` told that."""
    return with_changed(explain(snapshot, request), remedies=tuple(remedies(snapshot, request, find)))


def find(snapshot: ComputeSnapshot, request: PlacementRequest) -> Plan | None:
    """Where the request fits best, None where it fits nowhere.

    What a node would give is remembered with it, so that most decisions weigh the few nodes that changed.
    """
    number = _number((request.needs, request.vendors, snapshot.mix))
    found = [node.remembered.get(number) for node in snapshot.nodes]
    if None in found:
        known = zip(snapshot.nodes, found, strict=True)
        found = [_remember(node, number, request, snapshot.mix) if fits is None else fits for node, fits in known]
    if request.strategy is Strategy.pack and not request.warm_nodes:
        best = min((fits[0] for fits in found if fits), default=None)
    else:
        pairs = zip(snapshot.nodes, found, strict=True)
        best = min((_ranked(fit, node, request) for node, fits in pairs for fit in fits or ()), default=None)
    return None if best is None else best.plan


class _Fit(NamedTuple):
    """What one group of a node would give. `rank` has the places of what the node alone does not tell at `_SIBLINGS`
    and `_COLD`.
    """

    rank: _Rank
    plan: Plan


_SIBLINGS: Final = 1
_COLD: Final = 5
_REMEMBERED: Final = 32
"""Kinds of requests that a node remembers its answers to."""


@lru_cache(maxsize=1024)
def _number(_: Hashable) -> int:
    """A number for each kind of request."""
    return next(_numbers)


_numbers: Final = count()


def _remember(node: NodeView, number: int, request: PlacementRequest, mix: tuple[Size, ...]) -> list[_Fit]:
    if len(node.remembered) >= _REMEMBERED:
        node.remembered.clear()
    fits = sorted(_fits(node, request, mix))
    node.remembered[number] = fits
    return fits


def _ranked(fit: _Fit, node: NodeView, request: PlacementRequest) -> _Fit:
    siblings = request.siblings.get(node.id, 0) if request.strategy is Strategy.spread else 0
    rank = list(fit.rank)
    rank[_SIBLINGS], rank[_COLD] = siblings, node.id not in request.warm_nodes
    return _Fit(tuple(rank), fit.plan)


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


def _fits(node: NodeView, request: PlacementRequest, mix: tuple[Size, ...]) -> Iterator[_Fit]:
    if not node.has_room(request):
        return
    if request.devices == 0:
        if node.pool_id == request.pool_id:
            yield _Fit((0, 0, 0, 0, 0, True, len(node.devices), 0, node.memory_free, node.name), Plan(node.id, ()))
        return
    demand = Demand(request.devices, request.device_share, request.device_memory_bytes)
    for group in node.groups.get(request.pool_id, ()):
        is_allowed = not request.vendors or group.vendor in request.vendors
        offer = group.offer(demand) if is_allowed and group.model not in request.excluded_models else None
        if offer is not None:
            preference = request.vendors.index(group.vendor) if request.vendors else 0
            is_share = demand.share < WHOLE
            device = (offer.begins, offer.gap) if is_share else (offer.largest, offer.tier)
            size = -offer.largest if is_share else offer.largest
            wasted = _wasted(offer.before, offer.after, mix)
            rank = (preference, 0, *device, wasted, True, offer.gap, size, node.memory_free, node.name)
            yield _Fit((*rank, group.vendor, group.model), Plan(node.id, offer.device_ids))


@lru_cache(maxsize=65536)
def _wasted(before: tuple[int, ...], after: tuple[int, ...], mix: tuple[Size, ...]) -> int:
    return fragmentation(after, mix) - fragmentation(before, mix)
