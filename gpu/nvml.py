"""The devices that NVIDIA's driver knows, as one JSON document on stdout. Run as a process of its own.

A driver may hang in a system call that no signal ends; the process that asks it must be one that nobody needs.
`gpu.probe` starts this, waits with a deadline and reads the answer; the alarm ends it should nobody wait.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from typing import Any

import pynvml

LIFETIME_S = 60


def main() -> int:
    signal.alarm(LIFETIME_S)
    try:
        pynvml.nvmlInit()
        answer = {"driver_version": _text(pynvml.nvmlSystemGetDriverVersion()), "devices": _devices()}
    except pynvml.NVMLError as error:
        answer = {"error": f"NVML: {error}"}
    json.dump(answer, sys.stdout)
    return 0


def _devices() -> list[dict[str, Any]]:
    return [_device(index) for index in range(pynvml.nvmlDeviceGetCount())]


def _device(index: int) -> dict[str, Any]:
    """One device; what keeps it from being used is its `problem`. One that answers nothing has only that."""
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        uuid = _text(pynvml.nvmlDeviceGetUUID(handle))
    except pynvml.NVMLError as error:
        return {"vendor": "nvidia", "index": index, "uuid": "", "problem": f"NVML: {error}"}
    memory = _optional(lambda: pynvml.nvmlDeviceGetMemoryInfo(handle).total)
    mig = _optional(lambda: pynvml.nvmlDeviceGetMigMode(handle)[0])
    capability = _optional(lambda: pynvml.nvmlDeviceGetCudaComputeCapability(handle))
    return {
        "vendor": "nvidia",
        "index": index,
        "uuid": uuid,
        "model": _text(_optional(lambda: pynvml.nvmlDeviceGetName(handle)) or "unknown"),
        "minor": _optional(lambda: pynvml.nvmlDeviceGetMinorNumber(handle)),
        "pci_address": _text(_optional(lambda: pynvml.nvmlDeviceGetPciInfo(handle).busId) or ""),
        "memory_bytes": memory or 0,
        "compute_capability": ".".join(str(part) for part in capability) if capability else None,
        "problem": _problem(memory, mig),
    }


def _problem(memory: int | None, mig: int | None) -> str | None:
    if mig:
        return "MIG mode is on: the device cannot be leased as a whole; turn it off with `nvidia-smi -mig 0`"
    return None if memory else "the driver does not tell the device's memory"


def _optional(read: Callable[[], Any]) -> Any:
    """What a device may not support, or not answer now, is None."""
    try:
        return read()
    except pynvml.NVMLError:
        return None


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


if __name__ == "__main__":
    sys.exit(main())
