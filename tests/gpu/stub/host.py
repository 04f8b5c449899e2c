"""A simulated host: what `fleet.c` answers from, as a typed model that writes itself as a folder.

`write(folder)` makes `fleet`, `sys/bus/pci/devices` and, once the libraries are linked in, a whole simulation as the
setting `compute.simulation` takes it. Written again, a running program sees the change at its next call.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from appliance.kernel.files import write_atomic
from gpu.states import Vendor
from gpu.vendors.gate import PCI_VENDORS

GIB = 1024**3
SWITCH = -1
"""The peer of a link that ends at an NVLink switch."""


@dataclass
class SimulatedMig:
    gpu_instance: int
    compute_instance: int
    memory_bytes: int
    uuid: str
    name: str
    used_bytes: int = 0


@dataclass
class SimulatedDevice:
    """`state` is ok, lost or hang. Errors are (corrected, uncorrected); `xids` came in this order."""

    slot: int
    uuid: str
    name: str
    pci: str
    minor: int
    memory_bytes: int
    capability: tuple[int, int]
    numa_node: int
    reserved_bytes: int = 0
    state: str = "ok"
    processes: dict[int, int] | None = field(default_factory=dict)
    utilisation: tuple[int, int] = (0, 0)
    temperature: int = 34
    power_w: int = 70
    power_limit_w: int = 350
    clocks_mhz: tuple[int, int] = (1200, 1600)
    ecc: tuple[int, int] | None = (0, 0)
    remapped: tuple[int, int, int, int] | None = (0, 0, 0, 0)
    health: int = 0
    mig: list[SimulatedMig] | None = None
    nvlinks: list[int] = field(default_factory=list)
    distances: dict[int, int] = field(default_factory=dict)
    xids: list[tuple[int, int]] = field(default_factory=list)

    @property
    def used_bytes(self) -> int:
        return sum((self.processes or {}).values())

    def lines(self) -> Iterator[str]:
        yield f"uuid {self.uuid}"
        yield f"name {self.name}"
        yield f"state {self.state}"
        yield f"pci {self.pci}"
        yield f"minor {self.minor}"
        yield f"memory {self.memory_bytes} {self.reserved_bytes} {self.used_bytes}"
        yield f"capability {self.capability[0]} {self.capability[1]}"
        yield f"utilisation {self.utilisation[0]} {self.utilisation[1]}"
        yield f"temperature {self.temperature}"
        yield f"power {self.power_w * 1000}"
        yield f"power-limit {self.power_limit_w * 1000}"
        yield f"clock1 {self.clocks_mhz[0]}"
        yield f"clock2 {self.clocks_mhz[1]}"
        yield f"health {self.health}"
        if self.ecc is not None:
            yield f"ecc {self.ecc[0]} {self.ecc[1]}"
        if self.remapped is not None:
            yield "remapped " + " ".join(map(str, self.remapped))
        if self.processes is not None:
            yield "processes known"
            yield from (f"process {pid} {used}" for pid, used in self.processes.items())
        if self.mig is not None:
            yield "mig-mode 1"
            for part in self.mig:
                figures = f"{part.gpu_instance} {part.compute_instance} {part.memory_bytes} {part.used_bytes}"
                yield f"mig {figures} {part.uuid} {part.name}"
        yield from (f"nvlink {'switch' if peer == SWITCH else peer}" for peer in self.nvlinks)
        yield from (f"topology{peer} {level}" for peer, level in self.distances.items())
        yield from (f"xid {serial} {code}" for serial, code in self.xids)


@dataclass
class SimulatedDriver:
    """One vendor's part of a host. `state` is ok, hang, or the number of an NVML error."""

    vendor: Vendor
    version: str
    sdk: int
    library: str
    devices: list[SimulatedDevice]
    state: str = "ok"

    def lines(self) -> Iterator[str]:
        for member in (f"state {self.state}", f"driver {self.version}", f"sdk {self.sdk}", f"library {self.library}"):
            yield f"{self.vendor} - {member}"
        for device in sorted(self.devices, key=lambda device: device.slot):
            yield from (f"{self.vendor} {device.slot} {line} " for line in device.lines())


@dataclass
class SimulatedHost:
    name: str
    drivers: list[SimulatedDriver]
    _serial: int = 0

    def driver(self, vendor: Vendor) -> SimulatedDriver:
        return next(driver for driver in self.drivers if driver.vendor is vendor)

    def raise_xid(self, device: SimulatedDevice, code: int) -> None:
        self._serial += 1
        device.xids.append((self._serial, code))

    def write(self, folder: Path) -> None:
        """The buses first and the fleet at once, so that a device is on the bus before its driver lists it."""
        self._write_buses(folder / "sys/bus/pci/devices")
        lines = [line.rstrip() for driver in self.drivers for line in driver.lines()]
        write_atomic(folder / "fleet", ("\n".join(lines) + "\n").encode())

    def _write_buses(self, buses: Path) -> None:
        buses.mkdir(parents=True, exist_ok=True)
        wanted = {device.pci[4:].lower(): (driver, device) for driver in self.drivers for device in driver.devices}
        for place in buses.iterdir():
            if place.name not in wanted:
                shutil.rmtree(place)
        for address, (driver, device) in wanted.items():
            place = buses / address
            place.mkdir(exist_ok=True)
            (place / "vendor").write_text(f"{PCI_VENDORS[driver.vendor]:#06x}\n")
            (place / "class").write_text("0x030200\n" if driver.vendor is Vendor.nvidia else "0x120000\n")
            (place / "numa_node").write_text(f"{device.numa_node}\n")
