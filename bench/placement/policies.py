"""What placement is compared with, under the same conditions: first fit and best fit.

Both take places that `gpu.placement` could take too. First fit: the first node, by name, that has room, and its first
devices. Best fit: the node, or for a share the device, that keeps the least.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from gpu.placement import find
from gpu.requests import PlacementRequest, Plan
from gpu.snapshot import ComputeSnapshot, DeviceView, NodeView
from gpu.states import WHOLE

Policy = Callable[[ComputeSnapshot, PlacementRequest], Plan | None]


def first_fit(snapshot: ComputeSnapshot, request: PlacementRequest) -> Plan | None:
    return next((plan for _, plan in _places(snapshot, request)), None)


def best_fit(snapshot: ComputeSnapshot, request: PlacementRequest) -> Plan | None:
    best = min(_places(snapshot, request), key=lambda place: place[0], default=None)
    return None if best is None else best[1]


POLICIES: dict[str, Policy] = {"ours": find, "first fit": first_fit, "best fit": best_fit}


def _places(snapshot: ComputeSnapshot, request: PlacementRequest) -> Iterator[tuple[int, Plan]]:
    """Each with what its device (for a share) or its node (for whole devices) would keep free, in percent."""
    for node in sorted(snapshot.nodes, key=lambda node: node.name):
        if node.memory_free < request.memory_bytes or node.cpus < request.cpus:
            continue
        fitting = _fitting(node, request)
        if request.device_share < WHOLE:
            for device in fitting:
                yield WHOLE - device.leased - request.device_share, Plan(node.id, (device.id,))
        elif len(fitting) >= request.devices:
            kept = (len(fitting) - request.devices) * WHOLE
            yield kept, Plan(node.id, tuple(device.id for device in fitting[: request.devices]))


def _fitting(node: NodeView, request: PlacementRequest) -> Sequence[DeviceView]:
    return [
        device
        for device in node.devices
        if device.leased + request.device_share <= WHOLE
        and device.usable(request.device_share) >= request.device_memory_bytes
    ]
