"""The gate before any library: which accelerators the PCI bus shows, and whether there is a driver's node.

Files: sysfs-bus-pci (Documentation/ABI/testing/sysfs-bus-pci of the kernel), `vendor`, `class`, `numa_node`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from gpu.states import Vendor

PCI_VENDORS: Final = {Vendor.nvidia: 0x10DE, Vendor.iluvatar: 0x1E3E}
PCI_CLASSES: Final = ("0x03", "0x12")
"""Display controllers and processing accelerators; the first byte of a PCI device's class."""
_NODES: Final = {Vendor.nvidia: ("dev/nvidiactl", "dev/dxg"), Vendor.iluvatar: ("dev/itrctl",)}
"""Where a driver shows devices without a PCI bus that we see, as in a virtual machine or container."""
_BUS: Final = "sys/bus/pci/devices"


def pci_addresses(vendor: Vendor, root: Path = Path("/")) -> frozenset[str]:
    """The addresses, as in sysfs (`0000:1b:00.0`), of the vendor's accelerators."""
    wanted = PCI_VENDORS.get(vendor)
    return frozenset(
        device.name
        for device in (root / _BUS).glob("*")
        if _read(device / "class").startswith(PCI_CLASSES) and int(_read(device / "vendor") or "0", 16) == wanted
    )


def has_hardware(vendor: Vendor, root: Path = Path("/")) -> bool:
    """Without hardware no library is loaded and no process started. CPUs are always there."""
    if vendor is Vendor.cpu:
        return True
    return bool(pci_addresses(vendor, root)) or any((root / node).exists() for node in _NODES[vendor])


def has_nvidia_hardware() -> bool:
    return has_hardware(Vendor.nvidia)


def numa_node(pci_address: str, root: Path = Path("/")) -> int | None:
    """The NUMA node that the device at an address, as sysfs or NVML writes it, is attached to."""
    domain, _, rest = pci_address.lower().partition(":")
    text = _read(root / _BUS / f"{domain[-4:]}:{rest}" / "numa_node")
    return int(text) if text.isdigit() else None  # -1: the machine has one, or does not say


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""
