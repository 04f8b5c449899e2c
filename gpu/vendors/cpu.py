"""CPUs: no device that is leased, but what a node computes with where it has none.

Files: proc(5), Documentation/ABI/stable/sysfs-devices-node of the kernel.
"""

from __future__ import annotations

import platform
from pathlib import Path

from gpu.states import Vendor
from gpu.vendors.readings import Reading

_NAMES = ("model name", "Processor", "cpu model", "cpu")
"""Of the processor in /proc/cpuinfo, by architecture."""


class CpuDriver:
    vendor = Vendor.cpu

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def read(self) -> Reading:
        try:
            return Reading(
                vendor=Vendor.cpu,
                driver_version=platform.release(),
                processor=self._processor(),
                numa_nodes=len(list((self._root / "sys/devices/system/node").glob("node[0-9]*"))) or None,
            )
        except OSError as error:
            return Reading(vendor=Vendor.cpu, error=f"the processors cannot be read: {error}")

    def _processor(self) -> str:
        text = (self._root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        members = dict(line.partition(":")[::2] for line in reversed(text.splitlines()))
        named = {name.strip(): value.strip() for name, value in members.items()}
        return next((named[name] for name in _NAMES if named.get(name)), platform.machine())
