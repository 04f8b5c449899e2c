"""The protocol that each vendor's binding keeps; `tests/gpu/test_vendors.py` holds each one to it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, assert_never

from gpu.states import Vendor
from gpu.vendors.readings import Reading


class Driver(Protocol):
    """One vendor's library. Used by one thread; may block for ever where the driver does."""

    vendor: Vendor

    def read(self) -> Reading:
        """Everything as it is now. What fails for one device is that device's `problem`; what fails for all is the
        reading's `error`. Raises nothing that a driver can cause.
        """
        ...


def open_driver(vendor: Vendor, root: Path = Path("/")) -> Driver:
    """The vendor's binding, imported only now: none is loaded on a machine that has no use for it."""
    match vendor:
        case Vendor.nvidia:
            from gpu.vendors.nvidia import NvidiaDriver  # noqa: PLC0415 - see above

            return NvidiaDriver(root)
        case Vendor.iluvatar:
            from gpu.vendors.iluvatar import IluvatarDriver  # noqa: PLC0415 - see above

            return IluvatarDriver(root)
        case Vendor.cpu:
            from gpu.vendors.cpu import CpuDriver  # noqa: PLC0415 - see above

            return CpuDriver(root)
        case _:
            assert_never(vendor)
