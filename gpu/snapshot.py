"""The compute of one moment, immutable: what placement reads. Made by `gpu.reading`.

A node holds its devices, so that what a decision changes is one node and all the others stay the same objects, with
what placement has worked out of them (`gpu.shapes`). The order of nodes and devices means nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct

from gpu.fragmentation import Size
from gpu.shapes import Shape, shape_of
from gpu.states import WHOLE, DeviceState, NodeState

if TYPE_CHECKING:
    from gpu.requests import PlacementRequest


class PoolView(Struct, frozen=True):
    id: str
    name: str


class DeviceKind(NamedTuple):
    """Devices that are the same to a model."""

    vendor: str
    model: str
    compute_capability: str | None


class LeaseView(Struct, frozen=True, gc=False):
    """A replica's hold of a device; `share` is percent, 100 excludes everyone else."""

    replica_id: str
    share: int = WHOLE


class DeviceView(Struct, frozen=True, kw_only=True, gc=False):
    """`memory_foreign` is held by processes that are no replica's. `pool_id` None: the device is in its node's pool.

    `domains` are the device's places in the node's topology, from the tightest (see `gpu.topology`); devices with the
    same number at the same position are linked that well. Empty where the driver does not tell. `reserved` is the id of
    the tenant or replica that the device is kept for now.
    """

    id: str
    node_id: str
    vendor: str
    model: str
    index: int
    uuid: str
    minor: int | None = None
    memory_bytes: int
    memory_foreign: int = 0
    compute_capability: str | None = None
    domains: tuple[int, ...] = ()
    state: DeviceState = DeviceState.healthy
    reason: str | None = None
    cordoned: str | None = None
    pool_id: str | None = None
    reserved: str | None = None
    leases: tuple[LeaseView, ...] = ()

    @property
    def is_open(self) -> bool:
        """Whether anything new may come here at all."""
        return self.state is DeviceState.healthy and self.cordoned is None and self.reserved is None

    @property
    def is_free(self) -> bool:
        return self.is_open and not self.leases

    @property
    def leased(self) -> int:
        """Percent of the device that replicas hold."""
        return sum(lease.share for lease in self.leases)

    def usable(self, share: int) -> int:
        """Bytes that a replica which gets `share` percent would find; 0 where so much is not left. An engine on a part
        of a device takes its part of the whole, so that it has to be there; one on a whole device takes what is left.
        """
        leased = self.leased
        if leased + share > WHOLE:
            return 0
        left = self.memory_bytes - self.memory_foreign - -(-self.memory_bytes * leased // WHOLE)
        part = self.memory_bytes * share // WHOLE
        return part if part <= left else max(0, left) if share == WHOLE else 0


@dataclass(frozen=True, kw_only=True)
class NodeView:
    """`cpus` are shared by the node's replicas, each capped; memory is claimed and never promised twice.

    `cordoned` is why a person takes nothing new there, None where it is open.
    """

    id: str
    name: str
    pool_id: str
    state: NodeState = NodeState.ready
    reason: str | None = None
    cordoned: str | None = None
    cpus: float
    memory_bytes: int
    memory_claimed: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    devices: tuple[DeviceView, ...] = ()

    @property
    def memory_free(self) -> int:
        return self.memory_bytes - self.memory_claimed

    @property
    def is_open(self) -> bool:
        return self.state is NodeState.ready and self.cordoned is None

    def has_labels(self, labels: Mapping[str, str]) -> bool:
        return all(self.labels.get(name) == value for name, value in labels.items())

    def has_room(self, request: PlacementRequest) -> bool:
        """Whether the request fits, apart from devices."""
        return self.shape.has_room(request)

    def devices_in(self, pool_id: str) -> tuple[DeviceView, ...]:
        """Those that belong to the pool: a single device may be in another than its node."""
        return tuple(device for device in self.devices if (device.pool_id or self.pool_id) == pool_id)

    def serves(self, pool_id: str) -> bool:
        """Whether the node, or a device of it, is in the pool."""
        return self.pool_id == pool_id or any(device.pool_id == pool_id for device in self.devices)

    @cached_property
    def kinds(self) -> frozenset[DeviceKind]:
        return frozenset(DeviceKind(device.vendor, device.model, device.compute_capability) for device in self.devices)

    @cached_property
    def ordered(self) -> tuple[DeviceView, ...]:
        """The devices by the driver's index."""
        return tuple(sorted(self.devices, key=lambda device: (device.index, device.id)))

    @cached_property
    def shape(self) -> Shape:
        """What placement weighs of the node."""
        return shape_of(self)

    @cached_property
    def sizes(self) -> Counter[tuple[int, int]]:
        """How many replicas hold how many of its devices, and which share (percent) of each."""
        held = Counter(lease for device in self.devices for lease in device.leases)
        return Counter((devices, lease.share) for lease, devices in held.items())


@dataclass(frozen=True)
class ComputeSnapshot:
    """`mix` is what is asked for on this platform: placement keeps room for it where it has a choice."""

    pools: tuple[PoolView, ...]
    nodes: tuple[NodeView, ...]
    mix: tuple[Size, ...] = ()

    @property
    def devices(self) -> Iterable[DeviceView]:
        return (device for node in self.nodes for device in node.devices)

    @cached_property
    def kinds(self) -> frozenset[DeviceKind]:
        """Of every device that there is."""
        return frozenset[DeviceKind]().union(*(node.kinds for node in self.nodes))

    @cached_property
    def shapes(self) -> Mapping[Shape, list[NodeView]]:
        """The nodes that are alike."""
        found: dict[Shape, list[NodeView]] = defaultdict(list)
        for node in self.nodes:
            found[node.shape].append(node)
        return found

    @cached_property
    def positions(self) -> Mapping[str, int]:
        """Where in `nodes` the node with an id is."""
        return {node.id: position for position, node in enumerate(self.nodes)}

    def with_node(self, node: NodeView) -> ComputeSnapshot:
        """The same with this node in place of the one that has its id."""
        position = self.positions[node.id]
        changed = ComputeSnapshot(self.pools, (*self.nodes[:position], node, *self.nodes[position + 1 :]), self.mix)
        changed.__dict__["positions"] = self.positions  # as it was: no node moved
        return changed
