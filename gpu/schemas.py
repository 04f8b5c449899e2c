"""Compute as the management API shows and takes it. Sizes are bytes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from gpu.states import DeviceState, NodeState, Vendor
from gpu.vendors.readings import DeviceGauges, DeviceLink, MigInstance

ObjectName = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$(?!\n)",
        description="1 to 63 lower-case letters, digits and hyphens, no hyphen at either end",
    ),
]
Description = Annotated[str, Meta(max_length=500)]
DeviceCount = Annotated[int, Meta(ge=0, le=64)]
Cpus = Annotated[float, Meta(gt=0, le=4096)]
Memory = Annotated[int, Meta(ge=1, le=1 << 50)]
Storage = Annotated[int, Meta(ge=0, le=1 << 50)]


class DeviceGroup(Struct, frozen=True):
    """Equal devices of a pool. `free` ones are healthy and not leased."""

    vendor: Vendor
    model: str
    memory_bytes: int
    total: int
    free: int


class Pool(Struct, frozen=True, kw_only=True):
    id: str
    name: str
    description: str
    nodes: int
    devices: list[DeviceGroup]
    version: int
    created_at: datetime


class PoolCreate(Struct, frozen=True, forbid_unknown_fields=True):
    name: ObjectName
    description: Description = ""


class PoolUpdate(Struct, frozen=True, forbid_unknown_fields=True):
    name: ObjectName | UnsetType = UNSET
    description: Description | UnsetType = UNSET


class Node(Struct, frozen=True, kw_only=True):
    """`memory_bytes` is what replicas may claim, `memory_claimed` what they do."""

    id: str
    name: str
    pool_id: str
    state: NodeState
    reason: str | None
    cpus: float
    memory_bytes: int
    memory_claimed: int
    processor: str | None
    numa_nodes: int | None
    devices: int
    boot_id: str
    seen_at: datetime
    created_at: datetime


class NodeUpdate(Struct, frozen=True, forbid_unknown_fields=True):
    """`pool` is the name or id of the pool that the node moves to."""

    pool: str


class Device(Struct, frozen=True, kw_only=True):
    """`replica_id` is who leases it, `reason` why it is not healthy.

    `memory_used_bytes` is by all processes, `memory_foreign_bytes` by those that are not this appliance's; both and the
    `gauges` are null while they are not known. `simulated`: no hardware is behind it.
    """

    id: str
    node_id: str
    pool_id: str
    vendor: Vendor
    model: str
    uuid: str
    index: int
    minor: int | None
    pci_address: str
    memory_bytes: int
    compute_capability: str | None
    driver_version: str | None
    sdk_version: str | None
    numa_node: int | None
    simulated: bool
    memory_used_bytes: int | None
    memory_foreign_bytes: int | None
    gauges: DeviceGauges | None
    links: list[DeviceLink]
    mig: list[MigInstance]
    state: DeviceState
    reason: str | None
    replica_id: str | None
    seen_at: datetime


class DeviceFence(Struct, frozen=True, forbid_unknown_fields=True):
    reason: Annotated[str, Meta(min_length=1, max_length=500)]


class Flavor(Struct, frozen=True, kw_only=True):
    """What one replica gets. `device_vendor` null: of any vendor."""

    id: str
    name: str
    description: str
    device_vendor: Vendor | None
    devices: int
    cpus: float
    memory_bytes: int
    tmp_bytes: int
    version: int
    created_at: datetime


class FlavorCreate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: ObjectName
    description: Description = ""
    device_vendor: Vendor | None = None
    devices: DeviceCount = 0
    cpus: Cpus
    memory_bytes: Memory
    tmp_bytes: Storage = 1 << 30


class FlavorUpdate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is left out stays. Replicas that run keep what they have."""

    name: ObjectName | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    device_vendor: Vendor | UnsetType | None = UNSET
    devices: DeviceCount | UnsetType = UNSET
    cpus: Cpus | UnsetType = UNSET
    memory_bytes: Memory | UnsetType = UNSET
    tmp_bytes: Storage | UnsetType = UNSET
