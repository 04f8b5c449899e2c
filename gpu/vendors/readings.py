"""What a vendor's library tells of its devices at one moment. Sizes are bytes; None is what it does not tell."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from gpu.states import Vendor


class LinkKind(StrEnum):
    """How two devices of a node reach each other, the nearest first.

    `nvlink` is direct or by way of switches; `board`: one board; `pix`: one PCIe switch; `pxb`: several switches;
    `phb`: one host bridge; `node`: bridges of one NUMA node; `sys`: between NUMA nodes.
    """

    nvlink = "nvlink"
    board = "board"
    pix = "pix"
    pxb = "pxb"
    phb = "phb"
    node = "node"
    sys = "sys"


class DeviceLink(Struct, frozen=True):
    """The way to the device `peer` (a UUID); `nvlinks` counts the active ones."""

    peer: str
    kind: LinkKind
    nvlinks: int = 0


class ProcessUse(Struct, frozen=True):
    """A process that computes on the device, and what it holds of its memory."""

    pid: int
    memory_bytes: int | None


class MigInstance(Struct, frozen=True, kw_only=True):
    """A part of an NVIDIA device that is partitioned; the name tells its profile (`... MIG 1g.10gb`)."""

    uuid: str
    name: str
    gpu_instance: int
    compute_instance: int
    memory_bytes: int | None
    memory_used_bytes: int | None


class DeviceGauges(Struct, frozen=True, kw_only=True):
    """What changes all the time. Errors are counted since the driver was loaded."""

    utilisation_percent: int | None = None
    memory_utilisation_percent: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None


class DeviceReading(Struct, frozen=True, kw_only=True):
    """One device. `lost`: it does not answer; then its `uuid` is empty where it never did since the driver was opened.

    `problem` says why it may not be used as it is now. `xids` are the error events that came since the last reading.
    `processes` None: the driver does not say who holds memory. `memory_used_bytes` is without the driver's reserve.
    """

    index: int
    uuid: str
    model: str = "unknown"
    minor: int | None = None
    pci_address: str = ""
    numa_node: int | None = None
    memory_bytes: int = 0
    memory_used_bytes: int | None = None
    processes: tuple[ProcessUse, ...] | None = None
    compute_capability: str | None = None
    gauges: DeviceGauges = DeviceGauges()
    links: tuple[DeviceLink, ...] = ()
    mig: tuple[MigInstance, ...] = ()
    xids: tuple[int, ...] = ()
    lost: bool = False
    problem: str | None = None


class Reading(Struct, frozen=True, kw_only=True):
    """Either `error`, and nothing is known, or every device that the vendor's driver lists.

    `simulated`: no hardware is behind it. `processor` is told of CPUs alone, with `numa_nodes`.
    """

    vendor: Vendor
    driver_version: str | None = None
    sdk_version: str | None = None
    library_version: str | None = None
    simulated: bool = False
    devices: tuple[DeviceReading, ...] = ()
    processor: str | None = None
    numa_nodes: int | None = None
    error: str | None = None
