"""Placement: pure, deterministic, and independent of the order in which the snapshot lists things.

A replica goes to one node and takes equal devices (vendor and model), or a share of one. Among the places that fit, in
this order:

1. the preferred vendor;
2. where replicas are to be spread, the node with the fewest of the same deployment;
3. the smallest devices that suffice;
4. the best-linked group: one NVLink domain, one PCIe root, one NUMA node (`gpu.topology`);
5. what leaves the least that nobody could use, by the mix of sizes that are asked for (`gpu.fragmentation`);
6. a node that has the model's files already;
7. what keeps the fewest devices free beside it, so that large holes stay whole;
8. a node without devices for what needs none; the node with the least free memory; the name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from msgspec.structs import replace as with_changed

from gpu.explanation import explain
from gpu.fragmentation import fragmentation
from gpu.groups import Demand, Offer
from gpu.remedies import remedies
from gpu.requests import PlacementRequest, Plan, Rejection, Strategy
from gpu.snapshot import ComputeSnapshot, LeaseView, NodeView

_Rank = tuple[int | str, ...]


def place(snapshot: ComputeSnapshot, request: PlacementRequest) -> Plan | Rejection:
    """Where the request fits best, or why it fits nowhere and what would help. Linear in the snapshot's nodes."""
    plan = find(snapshot, request)
    if plan is not None:
        return plan
    rejection = explain(snapshot, request)
    return with_changed(rejection, remedies=tuple(remedies(snapshot, request, find)))


def find(snapshot: ComputeSnapshot, request: PlacementRequest) -> Plan | None:
    """Where the request fits best, None where it fits nowhere."""
    best = min(_fits(snapshot, request), default=None)
    return None if best is None else best[1]


def place_all(
    snapshot: ComputeSnapshot, requests: Iterable[tuple[str, PlacementRequest]]
) -> tuple[dict[str, Plan], Rejection | None]:
    """A gang, all or nothing: a plan for each replica by its id, or none and why the first that fits nowhere does not.

    The largest are placed first, whatever the order of `requests`.
    """
    plans: dict[str, Plan] = {}
    for replica_id, request in sorted(requests, key=lambda pair: _bulk(*pair)):
        plan = place(snapshot, request)
        if isinstance(plan, Rejection):
            return {}, plan
        plans[replica_id] = plan
        snapshot = after(snapshot, replica_id, request, plan)
    return plans, None


def _bulk(replica_id: str, request: PlacementRequest) -> tuple[int, int, int, str]:
    return -request.devices * request.device_share, -request.device_memory_bytes, -request.memory_bytes, replica_id


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


def _fits(snapshot: ComputeSnapshot, request: PlacementRequest) -> Iterator[tuple[_Rank, Plan]]:
    grown: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}
    demand = Demand(request.devices, request.device_share, request.device_memory_bytes)

    def waste(offer: Offer) -> int:
        rooms = (offer.before, offer.after)
        if rooms not in grown:
            grown[rooms] = fragmentation(offer.after, snapshot.mix) - fragmentation(offer.before, snapshot.mix)
        return grown[rooms]

    for node in snapshot.nodes:
        if not _has_room(node, request):
            continue
        siblings = request.siblings.get(node.id, 0) if request.strategy is Strategy.spread else 0
        cold = node.id not in request.warm_nodes
        if request.devices == 0:
            if node.pool_id == request.pool_id:
                yield (
                    (0, siblings, 0, 0, 0, cold, len(node.devices), node.memory_free, node.name, ""),
                    Plan(node.id, ()),
                )
            continue
        for group in node.groups.get(request.pool_id, ()):
            is_allowed = not request.vendors or group.vendor in request.vendors
            offer = group.offer(demand) if is_allowed and group.model not in request.excluded_models else None
            if offer is not None:
                preference = request.vendors.index(group.vendor) if request.vendors else 0
                rank = (
                    preference,
                    siblings,
                    offer.largest,
                    offer.tier,
                    waste(offer),
                    cold,
                    len(offer.after),
                    node.memory_free,
                    node.name,
                    f"{group.vendor} {group.model}",
                )
                yield rank, Plan(node.id, offer.device_ids)


def _has_room(node: NodeView, request: PlacementRequest) -> bool:
    return (
        node.is_open
        and node.cpus >= request.cpus
        and node.memory_free >= request.memory_bytes
        and all(node.labels.get(name) == value for name, value in request.node_labels.items())
    )
