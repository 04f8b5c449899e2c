"""Single changes that would make a request fit which fits nowhere now, the cheapest first. Pure.

Each is tried before it is told: after the change, and nothing else, placement finds a place.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from msgspec.structs import replace as with_changed

from gpu.requests import Change, PlacementRequest, Plan, Remedy
from gpu.snapshot import ComputeSnapshot, DeviceView, NodeView
from gpu.wording import compared, counted, gib

Find = Callable[[ComputeSnapshot, PlacementRequest], Plan | None]


def remedies(snapshot: ComputeSnapshot, request: PlacementRequest, find: Find) -> Iterator[Remedy]:
    """At most one of each kind."""
    for seek in _SEEKERS:
        remedy = seek(snapshot, request, find)
        if remedy is not None:
            yield remedy


def _uncordoned_device(snapshot: ComputeSnapshot, request: PlacementRequest, find: Find) -> Remedy | None:
    cordoned = {device.id for device in snapshot.devices if device.cordoned is not None}
    plan = find(_with_nodes(snapshot, _open_devices), request) if cordoned else None
    subjects = tuple(id_ for id_ in plan.device_ids if id_ in cordoned) if plan is not None else ()
    if plan is None or not subjects:
        return None
    text = f"lift the cordon of {counted(len(subjects), 'device')}"
    return Remedy(change=Change.uncordon_device, subjects=subjects, text=text)


def _uncordoned_node(snapshot: ComputeSnapshot, request: PlacementRequest, find: Find) -> Remedy | None:
    if not any(node.cordoned is not None for node in snapshot.nodes):
        return None
    plan = find(_with_nodes(snapshot, lambda node: replace(node, cordoned=None)), request)
    if plan is None:
        return None
    return Remedy(change=Change.uncordon_node, subjects=(plan.node_id,), text="lift the cordon of a node")


def _ended_reservation(snapshot: ComputeSnapshot, request: PlacementRequest, find: Find) -> Remedy | None:
    reserved = {device.id for device in snapshot.devices if device.reserved is not None}
    plan = find(_with_nodes(snapshot, _released_devices), request) if reserved else None
    subjects = tuple(id_ for id_ in plan.device_ids if id_ in reserved) if plan is not None else ()
    if plan is None or not subjects:
        return None
    text = f"end the reservation of {counted(len(subjects), 'device')}"
    return Remedy(change=Change.end_reservation, subjects=subjects, text=text)


def _other_pool(snapshot: ComputeSnapshot, request: PlacementRequest, find: Find) -> Remedy | None:
    names = {pool.id: pool.name for pool in snapshot.pools}
    for pool_id in sorted(request.other_pools, key=lambda pool_id: names.get(pool_id, "")):
        if pool_id in names and find(snapshot, with_changed(request, pool_id=pool_id)) is not None:
            return Remedy(change=Change.other_pool, subjects=(pool_id,), text=f"use pool {names[pool_id]}")
    return None


def _less_device_memory(snapshot: ComputeSnapshot, request: PlacementRequest, find: Find) -> Remedy | None:
    if request.devices == 0 or request.device_memory_bytes == 0:
        return None
    anything = with_changed(request, device_memory_bytes=0)
    most = max((_largest(node, anything) for node in snapshot.nodes if node.has_room(request)), default=0)
    if most == 0 or find(snapshot, with_changed(request, device_memory_bytes=most)) is None:
        return None
    _, has = compared(request.device_memory_bytes, most)
    return Remedy(
        change=Change.less_device_memory,
        amount=most,
        text=f"need at most {has} on each device, such as by a smaller context",
    )


def _fewer_devices(snapshot: ComputeSnapshot, request: PlacementRequest, find: Find) -> Remedy | None:
    """The model as a whole takes what it takes: on fewer devices, more on each. What could be split over so many can
    be over a number that divides it.
    """
    total = request.devices * request.device_memory_bytes
    for devices in (number for number in range(request.devices - 1, 0, -1) if request.devices % number == 0):
        each = -(-total // devices)
        if find(snapshot, with_changed(request, devices=devices, device_memory_bytes=each)) is not None:
            text = f"use {counted(devices, 'device')}" + (f" with {gib(each)} on each" if each else "")
            return Remedy(change=Change.fewer_devices, amount=devices, text=text)
    return None


def _stopped_replicas(snapshot: ComputeSnapshot, request: PlacementRequest, find: Find) -> Remedy | None:
    """Of the nodes, the one where the fewest replicas have to go."""
    if request.devices == 0:
        return None
    best: tuple[int, str, tuple[str, ...]] | None = None
    for node in snapshot.nodes:
        if node.has_room(request):
            for holders in _evictions(node, request):
                candidate = (len(holders), node.name, holders)
                best = candidate if best is None else min(best, candidate)
    if best is None:
        return None
    count, _, holders = best
    freed = _with_nodes(snapshot, lambda node: _without(node, frozenset(holders)))
    if find(freed, request) is None:
        return None
    return Remedy(change=Change.stop_replicas, subjects=holders, text=f"stop {counted(count, 'replica')} on one node")


def _less_memory(snapshot: ComputeSnapshot, request: PlacementRequest, find: Find) -> Remedy | None:
    if find(snapshot, with_changed(request, memory_bytes=0)) is None:
        return None
    for free in sorted({node.memory_free for node in snapshot.nodes if node.is_open}, reverse=True):
        if 0 < free < request.memory_bytes and find(snapshot, with_changed(request, memory_bytes=free)) is not None:
            _, has = compared(request.memory_bytes, free)
            return Remedy(change=Change.less_memory, amount=free, text=f"need at most {has} of the node's memory")
    return None


_SEEKERS: Final = (
    _uncordoned_device,
    _uncordoned_node,
    _ended_reservation,
    _other_pool,
    _less_device_memory,
    _fewer_devices,
    _stopped_replicas,
    _less_memory,
)


def _with_nodes(snapshot: ComputeSnapshot, change: Callable[[NodeView], NodeView]) -> ComputeSnapshot:
    return ComputeSnapshot(snapshot.pools, tuple(change(node) for node in snapshot.nodes), snapshot.mix)


def _open_devices(node: NodeView) -> NodeView:
    if all(device.cordoned is None for device in node.devices):
        return node
    return replace(node, devices=tuple(with_changed(device, cordoned=None) for device in node.devices))


def _released_devices(node: NodeView) -> NodeView:
    if all(device.reserved is None for device in node.devices):
        return node
    return replace(node, devices=tuple(with_changed(device, reserved=None) for device in node.devices))


def _without(node: NodeView, replicas: frozenset[str]) -> NodeView:
    if not any(lease.replica_id in replicas for device in node.devices for lease in device.leases):
        return node
    return replace(
        node,
        devices=tuple(
            with_changed(device, leases=tuple(lease for lease in device.leases if lease.replica_id not in replicas))
            for device in node.devices
        ),
    )


def _admissible(node: NodeView, request: PlacementRequest) -> dict[tuple[str, str], list[DeviceView]]:
    """The open devices by vendor and model, whoever holds them."""
    found: dict[tuple[str, str], list[DeviceView]] = defaultdict(list)
    for device in node.devices_in(request.pool_id):
        is_allowed = not request.vendors or device.vendor in request.vendors
        if device.is_open and is_allowed and device.model not in request.excluded_models:
            found[device.vendor, device.model].append(device)
    return found


def _largest(node: NodeView, request: PlacementRequest) -> int:
    """The bytes on each device that a group of the node could give now; 0 for none."""
    best = 0
    for devices in _admissible(node, request).values():
        usable = sorted((device.usable(request.device_share) for device in devices), reverse=True)
        if len(usable) >= request.devices:
            best = max(best, usable[request.devices - 1])
    return best


class _Burden(NamedTuple):
    """What has to go from one device."""

    device_id: str
    replicas: tuple[str, ...]


def _evictions(node: NodeView, request: PlacementRequest) -> Iterator[tuple[str, ...]]:
    """For each group of equal devices that could do: the replicas to stop, those that free many devices first."""
    for devices in _admissible(node, request).values():
        least = max(1, request.device_memory_bytes)
        suitable = [device for device in devices if _empty(device).usable(request.device_share) >= least]
        if len(suitable) < request.devices:
            continue
        gone: set[str] = set()
        while (missing := request.devices - sum(_fits(device, request, gone) for device in suitable)) > 0:
            gone.update(_next_victims(suitable, request, gone, missing))
        if gone:
            yield tuple(sorted(gone))


def _next_victims(
    devices: Sequence[DeviceView], request: PlacementRequest, gone: set[str], missing: int
) -> tuple[str, ...]:
    """Of the devices that do not fit yet, who holds the one with the fewest holders; whole gangs before parts."""
    held: dict[str, int] = defaultdict(int)
    burdens: list[_Burden] = []
    for device in devices:
        if not _fits(device, request, gone):
            holders = tuple(sorted({lease.replica_id for lease in device.leases} - gone))
            burdens.append(_Burden(device.id, holders))
            for replica_id in holders:
                held[replica_id] += 1

    def cost(burden: _Burden) -> tuple[int, int, str]:
        frees = max(held[replica_id] for replica_id in burden.replicas)
        return len(burden.replicas), -min(missing, frees), burden.device_id

    return min(burdens, key=cost).replicas


def _fits(device: DeviceView, request: PlacementRequest, gone: set[str]) -> bool:
    kept = tuple(lease for lease in device.leases if lease.replica_id not in gone)
    return with_changed(device, leases=kept).usable(request.device_share) >= max(1, request.device_memory_bytes)


def _empty(device: DeviceView) -> DeviceView:
    return with_changed(device, leases=())
