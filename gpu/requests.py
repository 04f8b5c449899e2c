"""What is asked of placement, and what it answers. Sizes are bytes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from enum import StrEnum

from msgspec import Struct, field

from gpu.states import WHOLE


class Strategy(StrEnum):
    """`pack` keeps large holes whole; `spread` puts the replicas of a deployment on as many nodes as there are."""

    pack = "pack"
    spread = "spread"


class PlacementRequest(Struct, frozen=True, kw_only=True):
    """One replica's place: `devices` equal ones of one node, with `device_memory_bytes` on each; or, where
    `device_share` is less than 100, that many percent of one device.

    `vendors` are those allowed, the preferred first; empty allows every one. `excluded_models` maps the models of
    devices that may not be used to the reason, as the capability matrix gives it. `node_labels` are those that the node
    must have. `siblings` counts the replicas of the same deployment by node, `warm_nodes` have the model's files
    at hand. `other_pools` are those that could be asked for instead. `holders` are the ids of its tenant and itself, as
    far as devices are reserved for them now.
    """

    pool_id: str
    devices: int = 0
    device_share: int = WHOLE
    vendors: tuple[str, ...] = ()
    excluded_models: Mapping[str, str] = field(default_factory=dict)
    device_memory_bytes: int = 0
    cpus: float
    memory_bytes: int
    node_labels: Mapping[str, str] = field(default_factory=dict)
    strategy: Strategy = Strategy.pack
    siblings: Mapping[str, int] = field(default_factory=dict)
    warm_nodes: frozenset[str] = frozenset()
    other_pools: tuple[str, ...] = ()
    holders: frozenset[str] = frozenset()

    @property
    def is_shared(self) -> bool:
        """Whether it leaves others a part of its device."""
        return self.devices > 0 and self.device_share < WHOLE

    @property
    def needs(self) -> Hashable:
        """What decides whether it fits anywhere: equal for requests that fit in the same places."""
        return (
            self.pool_id,
            self.devices,
            self.device_share,
            frozenset(self.vendors),
            frozenset(self.excluded_models),
            self.device_memory_bytes,
            self.cpus,
            self.memory_bytes,
            frozenset(self.node_labels.items()),
            self.holders,
        )


class Plan(Struct, frozen=True):
    """Where it fits; devices in the order of the driver's index."""

    node_id: str
    device_ids: tuple[str, ...]


class Cause(StrEnum):
    """Why a node or device does not fit; the ones about devices name devices, the others nodes."""

    no_pool = "no_pool"
    no_node = "no_node"
    node_state = "node_state"
    node_cordoned = "node_cordoned"
    node_labels = "node_labels"
    node_cpus = "node_cpus"
    node_memory = "node_memory"
    device_count = "device_count"
    device_vendor = "device_vendor"
    device_model = "device_model"
    device_state = "device_state"
    device_cordoned = "device_cordoned"
    device_reserved = "device_reserved"
    device_held = "device_held"
    device_memory = "device_memory"


class Reason(Struct, frozen=True, kw_only=True):
    """One cause with every node or device that it rules out, by id."""

    cause: Cause
    nodes: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    text: str


class Change(StrEnum):
    """What would make room, in the order of what it costs."""

    uncordon_device = "uncordon_device"
    uncordon_node = "uncordon_node"
    end_reservation = "end_reservation"
    other_pool = "other_pool"
    less_device_memory = "less_device_memory"
    fewer_devices = "fewer_devices"
    stop_replicas = "stop_replicas"
    less_memory = "less_memory"


class Remedy(Struct, frozen=True, kw_only=True):
    """One change, with what it is about: ids of nodes, devices, replicas or a pool, or an amount (bytes, devices)."""

    change: Change
    subjects: tuple[str, ...] = ()
    amount: int | None = None
    text: str


class Rejection(Struct, frozen=True):
    """`sentence` is for a person and names the first thing to change.

    `reasons` are complete for each node: with all those that name the node or its devices removed, the request fits
    there. `remedies` are single changes after which it fits, the cheapest first.
    """

    sentence: str
    reasons: tuple[Reason, ...]
    remedies: tuple[Remedy, ...] = ()
