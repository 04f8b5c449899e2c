"""Whether a device may still be trusted, from what its driver tells. Pure."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from gpu.vendors.readings import DeviceReading, ProcessUse

APPLICATION_XIDS: Final = frozenset({13, 31, 43, 45, 68, 109})
"""Errors that a program causes, not the device: those that NVIDIA's own device plugin for Kubernetes passes over
(https://docs.nvidia.com/deploy/xid-errors). Any other is a reason to fence: what is not known is not harmless.
"""
_XIDS: Final = {
    48: "an uncorrectable memory error",
    62: "a halt of an internal micro-controller",
    63: "a memory row to be remapped",
    64: "a memory row that could not be remapped",
    74: "an NVLink error",
    79: "the device has fallen off the bus",
    92: "a high rate of corrected memory errors",
    94: "a contained memory error",
    95: "an uncontained memory error",
    119: "no answer of the device's system processor",
    120: "a fault of the device's system processor",
}


def trouble(device: DeviceReading, ecc_cleared: int) -> str | None:
    """Why the device is to be fenced, or None. `ecc_cleared` uncorrected errors were known and accepted before."""
    reasons = [device.problem] if device.problem is not None else []
    uncorrected = device.gauges.ecc_uncorrected or 0
    if uncorrected > ecc_cleared:
        reasons.append(f"{uncorrected - ecc_cleared} uncorrected memory errors (ECC)")
    fatal = sorted({xid for xid in device.xids if xid not in APPLICATION_XIDS})
    reasons.extend(f"XID {xid}: {_XIDS.get(xid, 'an error of the device')}" for xid in fatal)
    return "; ".join(reasons) or None


def foreign_bytes(processes: Collection[ProcessUse] | None, ours: Collection[int] | None) -> int | None:
    """The memory of processes whose pids are not `ours`; None where that cannot be told of all of it."""
    if processes is None or ours is None:
        return None
    total = 0
    for process in processes:
        if process.pid not in ours:
            if process.memory_bytes is None:
                return None
            total += process.memory_bytes
    return total
