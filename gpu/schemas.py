"""Compute as the management API shows and takes it. Sizes are bytes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from appliance.kernel.access import Access
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
DeviceShare = Annotated[
    int, Meta(ge=1, le=100, description="percent of the one device, of which others get the rest; 100: of their own")
]
Cpus = Annotated[float, Meta(gt=0, le=4096)]
Memory = Annotated[int, Meta(ge=1, le=1 << 50)]
Storage = Annotated[int, Meta(ge=0, le=1 << 50)]


LabelKey = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9]([a-z0-9._/-]{0,61}[a-z0-9])?$(?!\n)",
        description="1 to 63 lower-case letters, digits, `.`, `_`, `/` and `-`, a letter or digit at either end",
    ),
]
LabelValue = Annotated[
    str,
    Meta(
        pattern=r"^([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?$(?!\n)",
        description="at most 63 letters, digits, `.`, `_` and `-`, a letter or digit at either end",
    ),
]
Labels = Annotated[dict[LabelKey, LabelValue], Meta(max_length=32, description="replaced as a whole")]
ClosingReason = Annotated[str, Meta(min_length=1, max_length=500)]


class Cordon(Struct, frozen=True):
    """Why nothing new is placed on a node or device, and since when. `draining`: what runs there goes elsewhere."""

    reason: str
    since: datetime
    draining: bool


class Closing(Struct, frozen=True, forbid_unknown_fields=True):
    """`reason` is shown to everyone who asks why nothing is placed there."""

    reason: ClosingReason


class DeviceGroup(Struct, frozen=True):
    """Equal devices of a pool. `free` ones are healthy, open for something new and not leased."""

    vendor: Vendor
    model: str
    memory_bytes: int
    total: int
    free: int


class Pool(Struct, frozen=True, kw_only=True):
    """`access` dedicated: only tenants with a grant may use it. `devices` are those of its nodes that were not moved to
    another pool, and single ones that were moved to this.
    """

    id: str
    name: str
    description: str
    access: Access
    labels: dict[str, str]
    nodes: int
    devices: list[DeviceGroup]
    version: int
    created_at: datetime


class PoolCreate(Struct, frozen=True, forbid_unknown_fields=True):
    name: ObjectName
    description: Description = ""
    access: Access = Access.public
    labels: Labels = {}


class PoolUpdate(Struct, frozen=True, forbid_unknown_fields=True):
    """What is left out stays."""

    name: ObjectName | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    access: Access | UnsetType = UNSET
    labels: Labels | UnsetType = UNSET


class Node(Struct, frozen=True, kw_only=True):
    """`memory_bytes` is what replicas may claim, `memory_claimed` what they do, `replicas` how many do. `cordon` is
    null while something new may be placed there.
    """

    id: str
    name: str
    pool_id: str
    state: NodeState
    reason: str | None
    cordon: Cordon | None
    labels: dict[str, str]
    cpus: float
    memory_bytes: int
    memory_claimed: int
    replicas: int
    processor: str | None
    numa_nodes: int | None
    devices: int
    boot_id: str
    seen_at: datetime
    created_at: datetime


class NodeUpdate(Struct, frozen=True, forbid_unknown_fields=True):
    """`pool` is the name or id of the pool that the node moves to. What is left out stays."""

    pool: str | UnsetType = UNSET
    labels: Labels | UnsetType = UNSET


class DeviceLease(Struct, frozen=True):
    """A replica's hold of a device: `share` is percent of it, 100 excludes everyone else."""

    replica_id: str
    share: int


class Device(Struct, frozen=True, kw_only=True):
    """`leases` are who holds it, `leased` how many percent they hold together, `reason` why it is not healthy.

    `memory_used_bytes` is by all processes, `memory_foreign_bytes` by those that are not this appliance's; both and the
    `gauges` are null while they are not known. `simulated`: no hardware is behind it.

    `pool_id` is the pool it is in, `node_pool_id` its node's: the two differ where the device alone was moved.
    """

    id: str
    node_id: str
    pool_id: str
    node_pool_id: str
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
    cordon: Cordon | None
    leased: int
    leases: list[DeviceLease]
    seen_at: datetime


class DeviceUpdate(Struct, frozen=True, forbid_unknown_fields=True):
    """`pool` is the name or id of the pool that the device alone moves to; null: back to its node's."""

    pool: str | None


class DeviceFence(Struct, frozen=True, forbid_unknown_fields=True):
    reason: Annotated[str, Meta(min_length=1, max_length=500)]


class Flavor(Struct, frozen=True, kw_only=True):
    """What one replica gets. `device_vendor` null: of any vendor."""

    id: str
    name: str
    description: str
    device_vendor: Vendor | None
    devices: int
    device_share: int
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
    device_share: DeviceShare = 100
    cpus: Cpus
    memory_bytes: Memory
    tmp_bytes: Storage = 1 << 30


class FlavorUpdate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is left out stays. Replicas that run keep what they have."""

    name: ObjectName | UnsetType = UNSET
    description: Description | UnsetType = UNSET
    device_vendor: Vendor | UnsetType | None = UNSET
    devices: DeviceCount | UnsetType = UNSET
    device_share: DeviceShare | UnsetType = UNSET
    cpus: Cpus | UnsetType = UNSET
    memory_bytes: Memory | UnsetType = UNSET
    tmp_bytes: Storage | UnsetType = UNSET
