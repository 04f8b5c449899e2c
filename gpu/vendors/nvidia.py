"""NVIDIA's devices through NVML (nvidia-ml-py).

NVML, https://docs.nvidia.com/deploy/nvml-api: an enumeration holds from `nvmlInit` on; a device that has fallen off the
bus answers NVML_ERROR_GPU_IS_LOST, to its UUID too, which is why the UUIDs seen before are remembered.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pynvml

from gpu.states import Vendor
from gpu.vendors import nvlink
from gpu.vendors.gate import numa_node
from gpu.vendors.readings import DeviceGauges, DeviceReading, MigInstance, ProcessUse, Reading
from gpu.vendors.xids import XidWatch

T = TypeVar("T")
_MILLI = 1000


class NvidiaDriver:
    vendor = Vendor.nvidia

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._uuids: dict[int, str] = {}
        self._watch: XidWatch | None = None

    def read(self) -> Reading:
        try:
            if self._watch is None:
                pynvml.nvmlInit()
            handles = self._handles()
            self._watch = self._watch or XidWatch.begin(handle for handle in handles.values() if handle is not None)
            return Reading(
                vendor=Vendor.nvidia,
                driver_version=text(pynvml.nvmlSystemGetDriverVersion()),
                sdk_version=cuda_version(_optional(pynvml.nvmlSystemGetCudaDriverVersion)),
                library_version=_text(pynvml.nvmlSystemGetNVMLVersion),
                simulated=hasattr(pynvml.nvmlLib, "simulated_fleet"),
                devices=self._devices(handles, self._watch),
            )
        except pynvml.NVMLError as error:
            return Reading(vendor=Vendor.nvidia, error=f"NVML: {error}")

    def _handles(self) -> dict[int, Any]:
        """By the driver's index; None where a device does not answer."""
        return {index: _optional(_reached, index) for index in range(pynvml.nvmlDeviceGetCount())}

    def _devices(self, handles: dict[int, Any], watch: XidWatch) -> tuple[DeviceReading, ...]:
        devices = [self._device(index, handle) for index, handle in handles.items()]
        answered = {device.uuid: handles[device.index] for device in devices if device.uuid}
        links = nvlink.links(answered)
        xids = watch.take()
        return tuple(
            msgspec.structs.replace(device, links=links.get(device.uuid, ()), xids=xids.get(device.uuid, ()))
            if device.uuid
            else self._recognised(device, answered)
            for device in devices
        )

    def _recognised(self, lost: DeviceReading, answered: dict[str, Any]) -> DeviceReading:
        uuid = self._uuids.get(lost.index, "")
        return lost if uuid in answered else msgspec.structs.replace(lost, uuid=uuid)

    def _device(self, index: int, handle: Any) -> DeviceReading:
        try:
            if handle is None:
                handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            uuid = text(pynvml.nvmlDeviceGetUUID(handle))
            pci = text(pynvml.nvmlDeviceGetPciInfo(handle).busId)
            memory = _memory(handle)
        except pynvml.NVMLError as error:
            return DeviceReading(index=index, uuid="", lost=True, problem=f"NVML: {error}")
        self._uuids[index] = uuid
        capability = _optional(pynvml.nvmlDeviceGetCudaComputeCapability, handle)
        return DeviceReading(
            index=index,
            uuid=uuid,
            model=_text(pynvml.nvmlDeviceGetName, handle) or "unknown",
            minor=_optional(pynvml.nvmlDeviceGetMinorNumber, handle),
            pci_address=pci,
            numa_node=numa_node(pci, self._root),
            memory_bytes=memory[0] if memory else 0,
            memory_used_bytes=memory[1] if memory else None,
            processes=_processes(handle),
            compute_capability=".".join(map(str, capability)) if capability else None,
            gauges=_gauges(handle),
            mig=_mig(handle),
            problem=_problem(handle, memory),
        )


def _reached(index: int) -> Any:
    """The handle of a device that tells its name; raises NVMLError for one that is lost."""
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    pynvml.nvmlDeviceGetUUID(handle)
    return handle


def _memory(handle: Any) -> tuple[int, int] | None:
    """Total, and used without what the driver reserves; drivers before 510 count that as used."""
    memory = _optional(pynvml.nvmlDeviceGetMemoryInfo, handle, version=pynvml.nvmlMemory_v2)
    memory = memory or _unless_unsupported(pynvml.nvmlDeviceGetMemoryInfo, handle)
    return (memory.total, memory.used) if memory else None


def _processes(handle: Any) -> tuple[ProcessUse, ...] | None:
    """Those that compute, draw, or both, each once."""
    computing = _optional(pynvml.nvmlDeviceGetComputeRunningProcesses, handle)
    if computing is None:
        return None
    drawing = _optional(pynvml.nvmlDeviceGetGraphicsRunningProcesses, handle) or []
    by_pid = {process.pid: process.usedGpuMemory for process in (*drawing, *computing)}
    return tuple(ProcessUse(pid, used) for pid, used in sorted(by_pid.items()))


def _gauges(handle: Any) -> DeviceGauges:
    rates = _optional(pynvml.nvmlDeviceGetUtilizationRates, handle)
    power = _optional(pynvml.nvmlDeviceGetPowerUsage, handle)
    limit = _optional(pynvml.nvmlDeviceGetPowerManagementLimit, handle)
    return DeviceGauges(
        utilisation_percent=rates.gpu if rates else None,
        memory_utilisation_percent=rates.memory if rates else None,
        temperature_c=_temperature(handle),
        power_w=None if power is None else power / _MILLI,
        power_limit_w=None if limit is None else limit / _MILLI,
        clock_mhz=_optional(pynvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_SM),
        memory_clock_mhz=_optional(pynvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_MEM),
        ecc_corrected=_ecc(handle, pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED),
        ecc_uncorrected=_ecc(handle, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED),
    )


def _temperature(handle: Any) -> int | None:
    """The first of the calls is to go with CUDA 14, the second came with driver 560."""
    for read in (pynvml.nvmlDeviceGetTemperature, pynvml.nvmlDeviceGetTemperatureV):
        found: int | None = _optional(read, handle, pynvml.NVML_TEMPERATURE_GPU)
        if found is not None:
            return found
    return None


def _ecc(handle: Any, kind: int) -> int | None:
    return _optional(pynvml.nvmlDeviceGetTotalEccErrors, handle, kind, pynvml.NVML_VOLATILE_ECC)


def _mig(handle: Any) -> tuple[MigInstance, ...]:
    if not _mig_mode(handle):
        return ()
    most = _optional(pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0
    found = (_optional(_mig_instance, handle, i) for i in range(most))
    return tuple(instance for instance in found if instance is not None)


def _mig_instance(device: Any, place: int) -> MigInstance:
    """Raises NVMLError where the place is empty."""
    handle = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(device, place)
    memory = _optional(pynvml.nvmlDeviceGetMemoryInfo, handle)
    return MigInstance(
        uuid=text(pynvml.nvmlDeviceGetUUID(handle)),
        name=_text(pynvml.nvmlDeviceGetName, handle) or "unknown",
        gpu_instance=pynvml.nvmlDeviceGetGpuInstanceId(handle),
        compute_instance=pynvml.nvmlDeviceGetComputeInstanceId(handle),
        memory_bytes=memory.total if memory else None,
        memory_used_bytes=memory.used if memory else None,
    )


def _mig_mode(handle: Any) -> bool:
    mode = _optional(pynvml.nvmlDeviceGetMigMode, handle)
    return bool(mode and mode[0])


def _problem(handle: Any, memory: tuple[int, int] | None) -> str | None:
    if _mig_mode(handle):
        return "MIG mode is on: the device cannot be leased as a whole; turn it off with `nvidia-smi -mig 0`"
    remapped = _optional(pynvml.nvmlDeviceGetRemappedRows, handle)
    if remapped and remapped[3]:
        return "the device has no spare memory rows left: a row with errors could not be remapped"
    return None if memory and memory[0] else "the driver does not tell the device's memory"


def _optional(read: Callable[..., T], *arguments: Any, **named: Any) -> T | None:
    """What a device does not support, or not answer now, is None."""
    try:
        return read(*arguments, **named)
    except pynvml.NVMLError:
        return None


def _unless_unsupported(read: Callable[..., T], *arguments: Any) -> T | None:
    """As `_optional`, but a device that is lost raises."""
    try:
        return read(*arguments)
    except pynvml.NVMLError_NotSupported:
        return None


def _text(read: Callable[..., str | bytes], *arguments: Any) -> str | None:
    value = _optional(read, *arguments)
    return None if value is None else text(value)


def text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def cuda_version(number: int | None) -> str | None:
    """NVML writes 12.8 as 12080."""
    return None if not number else f"{number // 1000}.{number % 1000 // 10}"
