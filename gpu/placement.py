"""Placement: pure, deterministic, and independent of the order in which the snapshot lists things.

A replica goes to one node and takes equal devices (vendor and model). Among the places that fit, in this order:
the preferred vendor, the smallest devices that suffice, the node that keeps the fewest of them free (so that large
holes stay whole), a node without devices for what needs none, the node with the least free memory, the name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from msgspec.structs import replace

from gpu.explanation import explain
from gpu.requests import PlacementRequest, Plan, Rejection
from gpu.snapshot import ComputeSnapshot, DeviceView, NodeView
from gpu.states import NodeState

_Rank = tuple[int, int, int, int, str, str]


def place(snapshot: ComputeSnapshot, request: PlacementRequest) -> Plan | Rejection:
    """Where the request fits best, or why it fits nowhere. Linear in the snapshot."""
    nodes = {node.id: node for node in snapshot.nodes if node.pool_id == request.pool_id}
    devices: dict[str, list[DeviceView]] = defaultdict(list)
    for device in snapshot.devices:
        if device.node_id in nodes:
            devices[device.node_id].append(device)
    fits = (fit for node in nodes.values() for fit in _fits(node, devices[node.id], request))
    best = min(fits, default=None, key=lambda fit: fit[0])
    if best is not None:
        return best[1]
    pool = next((pool for pool in snapshot.pools if pool.id == request.pool_id), None)
    return explain(pool, list(nodes.values()), devices, request)


def after(snapshot: ComputeSnapshot, replica_id: str, request: PlacementRequest, plan: Plan) -> ComputeSnapshot:
    """The snapshot once `plan` was carried out, so that several replicas are planned in one round."""
    taken = frozenset(plan.device_ids)
    return ComputeSnapshot(
        pools=snapshot.pools,
        nodes=tuple(
            replace(node, memory_claimed=node.memory_claimed + request.memory_bytes)
            if node.id == plan.node_id
            else node
            for node in snapshot.nodes
        ),
        devices=tuple(
            replace(device, holder=replica_id) if device.id in taken else device for device in snapshot.devices
        ),
    )


def _fits(node: NodeView, devices: Sequence[DeviceView], request: PlacementRequest) -> Iterator[tuple[_Rank, Plan]]:
    if node.state is not NodeState.ready or node.cpus < request.cpus or node.memory_free < request.memory_bytes:
        return
    if request.devices == 0:
        yield (0, 0, len(devices), node.memory_free, node.name, ""), Plan(node.id, ())
        return
    equal: dict[tuple[str, str], list[DeviceView]] = defaultdict(list)
    for device in devices:
        if device.is_free and _suits(device, request):
            equal[device.vendor, device.model].append(device)
    for (vendor, model), group in equal.items():
        if len(group) >= request.devices:
            group.sort(key=lambda device: (device.memory_bytes, device.memory_foreign, device.index, device.id))
            chosen = sorted(group[: request.devices], key=lambda device: (device.index, device.id))
            preference = request.vendors.index(vendor) if request.vendors else 0
            left = len(group) - request.devices
            largest = max(device.memory_bytes for device in chosen)
            rank = (preference, largest, left, node.memory_free, node.name, f"{vendor} {model}")
            yield rank, Plan(node.id, tuple(device.id for device in chosen))


def _suits(device: DeviceView, request: PlacementRequest) -> bool:
    return (
        (not request.vendors or device.vendor in request.vendors)
        and device.model not in request.excluded_models
        and device.memory_usable >= request.device_memory_bytes
    )
