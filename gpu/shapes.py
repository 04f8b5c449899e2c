"""Nodes that are alike: all that placement weighs of a node but its name. Pure.

A fleet is bought in batches, and most of its nodes hold nothing, or the same as others. What a request would get of a
node is worked out once for each shape, however many nodes have it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from gpu.groups import Group, groups_of

if TYPE_CHECKING:
    from gpu.requests import PlacementRequest
    from gpu.snapshot import DeviceView, NodeView


class Shape:
    """`device_count` is of all devices; `groups` are, by pool, the equal ones that have room, whose ids are those of
    the node that was found first to be so: `positions` says where they stand in `NodeView.ordered`. `remembered` is
    what placement has worked out.
    """

    __slots__ = (
        "__weakref__",
        "cpus",
        "device_count",
        "groups",
        "is_open",
        "labels",
        "memory_free",
        "pool_id",
        "positions",
        "remembered",
    )

    def __init__(self, node: NodeView) -> None:
        self.pool_id = node.pool_id
        self.is_open = node.is_open
        self.cpus = node.cpus
        self.memory_free = node.memory_free
        self.labels = node.labels
        self.device_count = len(node.ordered)
        self.groups: Mapping[str, tuple[Group, ...]] = groups_of(node.pool_id, node.ordered)
        self.positions = {device.id: position for position, device in enumerate(node.ordered)}
        self.remembered: dict[int, Any] = {}

    def has_room(self, request: PlacementRequest) -> bool:
        """Whether the request fits, apart from devices."""
        return (
            self.is_open
            and self.cpus >= request.cpus
            and self.memory_free >= request.memory_bytes
            and all(self.labels.get(name) == value for name, value in request.node_labels.items())
        )


def shape_of(node: NodeView) -> Shape:
    """The same object for nodes that are alike, for as long as any of them is known."""
    key = _key(node)
    shape = _shapes.get(key)
    if shape is None:
        shape = _shapes[key] = Shape(node)
    return shape


_shapes: WeakValueDictionary[Hashable, Shape] = WeakValueDictionary()


def _key(node: NodeView) -> Hashable:
    return (
        node.pool_id,
        node.is_open,
        node.cpus,
        node.memory_free,
        frozenset(node.labels.items()),
        tuple(_devices(node.ordered)),
    )


def _devices(devices: Iterable[DeviceView]) -> Iterable[Hashable]:
    """Each device by what placement weighs of it; one that is closed by its place alone. Domains are named by their
    first member: their numbers follow from the devices' names.
    """
    first: dict[tuple[int, int], int] = {}
    for position, device in enumerate(devices):
        if not device.is_open:
            yield None
            continue
        domains = tuple(first.setdefault((level, number), position) for level, number in enumerate(device.domains))
        shares = tuple(sorted(lease.share for lease in device.leases))
        yield device.vendor, device.model, device.pool_id, device.memory_bytes, device.memory_foreign, domains, shares
