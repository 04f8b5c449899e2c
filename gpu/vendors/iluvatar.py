"""Iluvatar's devices through IXML. It tells no links faster than PCIe and partitions nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ctypes import c_uint, c_void_p
from itertools import permutations
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from gpu.states import Vendor
from gpu.vendors.gate import numa_node
from gpu.vendors.ixml import Health, Ixml, IxmlError, IxmlUnavailable
from gpu.vendors.readings import DeviceGauges, DeviceLink, DeviceReading, LinkKind, ProcessUse, Reading

T = TypeVar("T")
_MILLI: Final = 1000
_CORE_CLOCK, _MEMORY_CLOCK = c_uint(1), c_uint(2)
_DISTANCES: Final = {
    0: LinkKind.board,
    10: LinkKind.pix,
    20: LinkKind.pxb,
    30: LinkKind.phb,
    40: LinkKind.node,
    50: LinkKind.sys,
}
_FAULTS: Final = {
    Health.SYSTEM_HUB: "the system hub",
    Health.MEMORY_CONTROLLER: "the memory controller",
    Health.OVER_TEMPERATURE: "too high a temperature",
    Health.OVER_VOLTAGE: "too high a voltage",
    Health.ECC: "uncorrectable memory errors (ECC)",
    Health.MEMORY: "the memory",
    Health.PCIE: "the PCIe link",
}


class IluvatarDriver:
    vendor = Vendor.iluvatar

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._library: Ixml | None = None
        self._uuids: dict[int, str] = {}

    def read(self) -> Reading:
        try:
            library = self._library = self._library or Ixml()
            count = library.number("nvmlDeviceGetCount_v2")
            devices = [self._device(library, index) for index in range(count)]
            return Reading(
                vendor=Vendor.iluvatar,
                driver_version=_optional(library.text, "nvmlSystemGetDriverVersion"),
                sdk_version=_version(_optional(library.cuda_version)),
                library_version=_optional(library.text, "nvmlSystemGetNVMLVersion"),
                simulated=library.simulated,
                devices=self._completed(library, devices),
            )
        except (IxmlError, IxmlUnavailable) as error:
            return Reading(vendor=Vendor.iluvatar, error=str(error))

    def _device(self, library: Ixml, index: int) -> DeviceReading:
        try:
            handle = library.handle(index)
            uuid = library.text("nvmlDeviceGetUUID", handle)
            pci = library.pci_address(handle)
            total, used = library.memory(handle)
        except IxmlError as error:
            return DeviceReading(index=index, uuid="", lost=True, problem=str(error))
        self._uuids[index] = uuid
        return DeviceReading(
            index=index,
            uuid=uuid,
            model=_optional(library.text, "nvmlDeviceGetName", handle) or "unknown",
            minor=_optional(library.number, "nvmlDeviceGetMinorNumber", handle),
            pci_address=pci,
            numa_node=numa_node(pci, self._root),
            memory_bytes=total,
            memory_used_bytes=used,
            processes=_processes(library, handle),
            compute_capability=_optional(library.compute_capability, handle),
            gauges=_gauges(library, handle),
            problem=_problem(_optional(library.health, handle), total),
        )

    def _completed(self, library: Ixml, devices: list[DeviceReading]) -> tuple[DeviceReading, ...]:
        """With the links, and with the names that devices had when they still answered."""
        handles = {device.uuid: library.handle(device.index) for device in devices if device.uuid}
        links = _links(library, handles)
        return tuple(
            msgspec.structs.replace(device, links=links[device.uuid])
            if device.uuid
            else msgspec.structs.replace(device, uuid=self._former(device.index, handles))
            for device in devices
        )

    def _former(self, index: int, answered: Mapping[str, c_void_p]) -> str:
        uuid = self._uuids.get(index, "")
        return "" if uuid in answered else uuid


def _processes(library: Ixml, handle: c_void_p) -> tuple[ProcessUse, ...] | None:
    found = _optional(library.processes, handle)
    return None if found is None else tuple(ProcessUse(pid, used) for pid, used in sorted(found))


def _gauges(library: Ixml, handle: c_void_p) -> DeviceGauges:
    def number(symbol: str, *arguments: c_uint) -> int | None:
        return _optional(library.number, symbol, handle, *arguments)

    rates = _optional(library.utilization, handle)
    power, limit = number("nvmlDeviceGetPowerUsage"), number("nvmlDeviceGetPowerManagementLimit")
    errors = _optional(library.ecc_errors, handle)
    return DeviceGauges(
        utilisation_percent=rates.gpu if rates else None,
        memory_utilisation_percent=rates.memory if rates else None,
        temperature_c=number("nvmlDeviceGetTemperature", c_uint(0)),
        power_w=None if power is None else power / _MILLI,
        power_limit_w=None if limit is None else limit / _MILLI,
        clock_mhz=number("nvmlDeviceGetClockInfo", _CORE_CLOCK),
        memory_clock_mhz=number("nvmlDeviceGetClockInfo", _MEMORY_CLOCK),
        ecc_corrected=errors[0] if errors else None,
        ecc_uncorrected=errors[1] if errors else None,
    )


def _links(library: Ixml, handles: Mapping[str, c_void_p]) -> dict[str, tuple[DeviceLink, ...]]:
    found: dict[str, list[DeviceLink]] = {uuid: [] for uuid in handles}
    for one, other in permutations(handles, 2):
        distance = _optional(library.distance, handles[one], handles[other])
        if distance in _DISTANCES:
            found[one].append(DeviceLink(other, _DISTANCES[distance]))
    return {uuid: tuple(ways) for uuid, ways in found.items()}


def _problem(health: Health | None, total: int) -> str | None:
    if health:
        known = [what for bit, what in _FAULTS.items() if bit in health]
        return f"the driver reports a fault of {', '.join(known) or f'an unknown kind ({health.value:#x})'}"
    return None if total else "the driver does not tell the device's memory"


def _version(number: int | None) -> str | None:
    """As NVML writes it: 10.2 is 10020."""
    return None if not number else f"{number // 1000}.{number % 1000 // 10}"


def _optional(read: Callable[..., T], *arguments: Any, **named: Any) -> T | None:
    """What a device does not support, or not answer now, is None."""
    try:
        return read(*arguments, **named)
    except IxmlError:
        return None
