"""Rows of compute. The database itself guards the leases.

* I1: `devices.leased` is the sum of the shares of the device's leases, in percent; its CHECK keeps it within 100, so
  that a device which one replica holds whole has no other holder. Triggers keep the sum.
* `nodes.memory_claimed` is the sum of the node's claims; its CHECK keeps it within the node's memory.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, Float, ForeignKey, String, UniqueConstraint, false
from sqlalchemy.orm import Mapped, mapped_column

from appliance.kernel.tables import Base, Bytes, Id, Instant, Json, Name, Text, UtcDateTime


class PoolRow(Base):
    """A set of nodes, and of single devices of others, that replicas are placed on together. `access`: whether every
    tenant may use it, or those with a grant.
    """

    __tablename__ = "pools"

    id: Mapped[Id] = mapped_column(primary_key=True)
    name: Mapped[Name] = mapped_column(unique=True)
    description: Mapped[Text] = mapped_column(default="")
    access: Mapped[str] = mapped_column(String(16), default="public", server_default="public")
    labels: Mapped[Json]
    version: Mapped[int] = mapped_column(default=1)
    created_at: Mapped[Instant]


class NodeRow(Base):
    """A machine. `memory_bytes` is what replicas may claim: the machine's (or cgroup's) less a reserve.

    `revision` is drawn anew by triggers with each change of the node, its devices or their leases that placement reads.
    `cordoned` is why nothing new is placed there, since `cordoned_at`; NULL while it may be. `draining`: what runs
    there is to go elsewhere too. Devices have the same. All three are a person's, `state` is what a probe saw.
    """

    __tablename__ = "nodes"
    __table_args__ = (
        CheckConstraint("NOT draining OR cordoned IS NOT NULL", name="draining_is_cordoned"),
        CheckConstraint("memory_claimed >= 0", name="claims_not_negative"),
        CheckConstraint("memory_claimed <= memory_bytes", name="claims_within_memory"),
    )

    id: Mapped[Id] = mapped_column(primary_key=True)
    name: Mapped[Name] = mapped_column(unique=True)
    pool_id: Mapped[Id] = mapped_column(ForeignKey("pools.id"), index=True)
    state: Mapped[Name]
    reason: Mapped[str | None] = mapped_column(String())
    cpus: Mapped[float] = mapped_column(Float())
    memory_bytes: Mapped[Bytes]
    memory_claimed: Mapped[Bytes] = mapped_column(default=0)
    processor: Mapped[str | None] = mapped_column(String(128))
    numa_nodes: Mapped[int | None]
    labels: Mapped[Json]
    cordoned: Mapped[str | None] = mapped_column(String())
    cordoned_at: Mapped[datetime | None] = mapped_column(UtcDateTime())
    draining: Mapped[bool] = mapped_column(default=False, server_default=false())
    boot_id: Mapped[Name]
    seen_at: Mapped[Instant]
    created_at: Mapped[Instant]
    revision: Mapped[str] = mapped_column(String(36), default="", server_default="")


class DeviceRow(Base):
    """An accelerator, known by the UUID that its driver gives it. `index` is the driver's and may change.

    What is read anew at each probe (`memory_used_bytes`, `memory_foreign_bytes`, `gauges`) is NULL while it is not
    known; the foreign memory is that of processes that are not ours. `ecc_cleared` is how many uncorrected errors were
    known when a person last cleared the device: only what comes on top is a reason to fence it again.

    `pool_id` is the pool that the device alone was moved to; NULL: it is in its node's.
    """

    __tablename__ = "devices"
    __table_args__ = (
        UniqueConstraint("uuid"),
        CheckConstraint("NOT draining OR cordoned IS NOT NULL", name="draining_is_cordoned"),
        CheckConstraint("leased BETWEEN 0 AND 100", name="leased_once"),
    )

    id: Mapped[Id] = mapped_column(primary_key=True)
    node_id: Mapped[Id] = mapped_column(ForeignKey("nodes.id"), index=True)
    pool_id: Mapped[str | None] = mapped_column(String(24), ForeignKey("pools.id"), index=True)
    vendor: Mapped[Name]
    model: Mapped[Name]
    uuid: Mapped[Name]
    index: Mapped[int]
    minor: Mapped[int | None]
    pci_address: Mapped[Name]
    memory_bytes: Mapped[Bytes]
    compute_capability: Mapped[str | None] = mapped_column(String(16))
    driver_version: Mapped[str | None] = mapped_column(String(64))
    sdk_version: Mapped[str | None] = mapped_column(String(64))
    numa_node: Mapped[int | None]
    simulated: Mapped[bool] = mapped_column(default=False, server_default=false())
    memory_used_bytes: Mapped[Bytes | None]
    memory_foreign_bytes: Mapped[Bytes | None]
    ecc_cleared: Mapped[Bytes] = mapped_column(default=0, server_default="0")
    gauges: Mapped[Json]
    links: Mapped[Json]
    mig: Mapped[Json]
    cordoned: Mapped[str | None] = mapped_column(String())
    cordoned_at: Mapped[datetime | None] = mapped_column(UtcDateTime())
    draining: Mapped[bool] = mapped_column(default=False, server_default=false())
    leased: Mapped[int] = mapped_column(default=0, server_default="0")
    state: Mapped[Name]
    reason: Mapped[str | None] = mapped_column(String())
    seen_at: Mapped[Instant]
    created_at: Mapped[Instant]


class FlavorRow(Base):
    """What one replica gets. `device_vendor` None: of any vendor. CPUs are a cap and shared, memory is claimed.

    `device_share` is percent of the one device, whose rest others may have; 100: the devices are its own.
    """

    __tablename__ = "flavors"
    __table_args__ = (
        CheckConstraint("devices >= 0", name="devices_not_negative"),
        CheckConstraint("cpus > 0", name="some_cpu"),
        CheckConstraint("memory_bytes > 0", name="some_memory"),
        CheckConstraint("tmp_bytes >= 0", name="tmp_not_negative"),
        CheckConstraint("device_share BETWEEN 1 AND 100", name="share_is_percentage"),
        CheckConstraint("device_share = 100 OR devices = 1", name="share_of_one_device"),
    )

    id: Mapped[Id] = mapped_column(primary_key=True)
    name: Mapped[Name] = mapped_column(unique=True)
    description: Mapped[Text] = mapped_column(default="")
    device_vendor: Mapped[str | None] = mapped_column(String(32))
    devices: Mapped[int]
    device_share: Mapped[int] = mapped_column(default=100, server_default="100")
    cpus: Mapped[float] = mapped_column(Float())
    memory_bytes: Mapped[Bytes]
    tmp_bytes: Mapped[Bytes]
    version: Mapped[int] = mapped_column(default=1)
    created_at: Mapped[Instant]


class DeviceLeaseRow(Base):
    """Who holds how much of a device (invariant I1): `share` is percent of its memory, 100 excludes everyone else."""

    __tablename__ = "device_leases"
    __table_args__ = (CheckConstraint("share BETWEEN 1 AND 100", name="share_is_percentage"),)

    device_id: Mapped[Id] = mapped_column(ForeignKey("devices.id"), primary_key=True)
    replica_id: Mapped[Id] = mapped_column(primary_key=True, index=True)
    share: Mapped[int] = mapped_column(default=100, server_default="100")
    taken_at: Mapped[Instant]


class NodeClaimRow(Base):
    """What a replica takes of its node besides devices; counted in `nodes.memory_claimed`."""

    __tablename__ = "node_claims"
    __table_args__ = (CheckConstraint("memory_bytes >= 0", name="memory_not_negative"),)

    replica_id: Mapped[Id] = mapped_column(primary_key=True)
    node_id: Mapped[Id] = mapped_column(ForeignKey("nodes.id"), index=True)
    cpus: Mapped[float] = mapped_column(Float())
    memory_bytes: Mapped[Bytes]
