"""What is asked of placement, and what it answers. Sizes are bytes."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from msgspec import Struct, field


class PlacementRequest(Struct, frozen=True, kw_only=True):
    """One replica's place: `devices` equal ones of one node, with `device_memory_bytes` on each.

    `vendors` are those allowed, the preferred first; empty allows every one. `excluded_models` maps the models of
    devices that may not be used to the reason, as the capability matrix gives it.
    """

    pool_id: str
    devices: int = 0
    vendors: tuple[str, ...] = ()
    excluded_models: Mapping[str, str] = field(default_factory=dict)
    device_memory_bytes: int = 0
    cpus: float
    memory_bytes: int


class Plan(Struct, frozen=True):
    """Where it fits; devices in the order of the driver's index."""

    node_id: str
    device_ids: tuple[str, ...]


class Cause(StrEnum):
    """Why a node or device does not fit; the ones about devices name devices, the others nodes."""

    no_pool = "no_pool"
    no_node = "no_node"
    node_state = "node_state"
    node_cpus = "node_cpus"
    node_memory = "node_memory"
    device_count = "device_count"
    device_vendor = "device_vendor"
    device_model = "device_model"
    device_state = "device_state"
    device_held = "device_held"
    device_memory = "device_memory"


class Reason(Struct, frozen=True, kw_only=True):
    """One cause with every node or device that it rules out, by id."""

    cause: Cause
    nodes: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    text: str


class Rejection(Struct, frozen=True):
    """`sentence` is for a person and names the first thing to change.

    `reasons` are complete for each node: with all those that name the node or its devices removed, the request fits
    there.
    """

    sentence: str
    reasons: tuple[Reason, ...]
