"""The compute of one moment, immutable: what placement reads. Made by `gpu.leasing.snapshot`."""

from __future__ import annotations

from msgspec import Struct

from gpu.states import DeviceState, NodeState


class PoolView(Struct, frozen=True):
    id: str
    name: str


class NodeView(Struct, frozen=True, kw_only=True):
    """`cpus` are shared by the node's replicas, each capped; memory is claimed and never promised twice. `cordoned` is
    why a person takes nothing new there, None where it is open.
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

    @property
    def memory_free(self) -> int:
        return self.memory_bytes - self.memory_claimed


class DeviceView(Struct, frozen=True, kw_only=True):
    """`holder` is the replica that leases the device; `memory_foreign` is held by processes that are no replica's.
    `pool_id` None: the device is in its node's pool.
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
    state: DeviceState = DeviceState.healthy
    reason: str | None = None
    cordoned: str | None = None
    pool_id: str | None = None
    holder: str | None = None

    @property
    def is_free(self) -> bool:
        return self.state is DeviceState.healthy and self.cordoned is None and self.holder is None

    @property
    def memory_usable(self) -> int:
        return max(0, self.memory_bytes - self.memory_foreign)


class ComputeSnapshot(Struct, frozen=True):
    """The order of the members means nothing."""

    pools: tuple[PoolView, ...]
    nodes: tuple[NodeView, ...]
    devices: tuple[DeviceView, ...]
