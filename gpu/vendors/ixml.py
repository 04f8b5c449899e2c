"""A binding of the few symbols of Iluvatar's management library (IXML) that the inventory needs.

The library has NVML's names and some of its own, after https://github.com/Deep-Spark/go-ixml (pkg/ixml/api.h of
IXML 4.2). It is opened under a handle of its own: on a host with both vendors the names mean functions of either.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from ctypes import Structure, byref, c_char, c_int, c_uint, c_ulonglong, c_void_p, create_string_buffer
from enum import IntFlag
from pathlib import Path
from typing import Any, Final

LIBRARY: Final = "libixml.so"
COREX_HOME: Final = "/usr/local/corex"
SUCCESS: Final = 0
NOT_SUPPORTED: Final = 3
INSUFFICIENT_SIZE: Final = 7
FUNCTION_NOT_FOUND: Final = 13
GPU_IS_LOST: Final = 15
_NAMES: Final = {
    1: "not initialised",
    2: "invalid argument",
    3: "not supported",
    4: "no permission",
    6: "not found",
    9: "the driver is not loaded",
    10: "timeout",
    13: "the library lacks the function",
    15: "the GPU is lost",
    16: "the GPU needs a reset",
    18: "the library and the driver are of different versions",
    999: "unknown error",
}
_TEXT: Final = 96


class Health(IntFlag):
    """`ixmlHealth...` of api.h."""

    SYSTEM_HUB = 0x01
    MEMORY_CONTROLLER = 0x02
    OVER_TEMPERATURE = 0x04
    OVER_VOLTAGE = 0x08
    ECC = 0x10
    MEMORY = 0x20
    PCIE = 0x40


class IxmlError(Exception):
    """A call failed; `code` is NVML's."""

    def __init__(self, code: int) -> None:
        super().__init__(f"IXML: {_NAMES.get(code, f'error {code}')}")
        self.code = code


class Memory(Structure):
    _fields_ = (("total", c_ulonglong), ("free", c_ulonglong), ("used", c_ulonglong))


class MemoryV2(Structure):
    _fields_ = (
        ("version", c_uint),
        ("total", c_ulonglong),
        ("reserved", c_ulonglong),
        ("free", c_ulonglong),
        ("used", c_ulonglong),
    )


class PciInfo(Structure):
    _fields_ = (
        ("bus_id_legacy", c_char * 16),
        ("domain", c_uint),
        ("bus", c_uint),
        ("device", c_uint),
        ("pci_device_id", c_uint),
        ("pci_subsystem_id", c_uint),
        ("bus_id", c_char * 32),
    )


class Utilization(Structure):
    _fields_ = (("gpu", c_uint), ("memory", c_uint))


class ProcessInfo(Structure):
    _fields_ = (("pid", c_uint), ("used_memory", c_ulonglong))


MEMORY_V2: Final = ctypes.sizeof(MemoryV2) | 2 << 24
"""NVML_STRUCT_VERSION(Memory, 2)."""


class Ixml:
    """The library, opened and initialised. Each call raises `IxmlError`."""

    def __init__(self) -> None:
        self._library = _open()
        self.simulated = hasattr(self._library, "simulated_fleet")
        self.call("nvmlInitWithFlags", c_uint(0))

    def call(self, symbol: str, *arguments: Any) -> None:
        try:
            function = getattr(self._library, symbol)
        except AttributeError:
            raise IxmlError(FUNCTION_NOT_FOUND) from None
        function.restype = c_int
        if (code := function(*arguments)) != SUCCESS:
            raise IxmlError(code)

    def number(self, symbol: str, *arguments: Any) -> int:
        value = c_uint()
        self.call(symbol, *arguments, byref(value))
        return value.value

    def text(self, symbol: str, *arguments: Any) -> str:
        value = create_string_buffer(_TEXT)
        self.call(symbol, *arguments, value, c_uint(_TEXT))
        return value.value.decode(errors="replace")

    def handle(self, index: int) -> c_void_p:
        value = c_void_p()
        self.call("nvmlDeviceGetHandleByIndex_v2", c_uint(index), byref(value))
        return value

    def memory(self, handle: c_void_p) -> tuple[int, int]:
        """Total and used, without what the driver reserves where the library can tell."""
        second = MemoryV2(version=MEMORY_V2)
        try:
            self.call("nvmlDeviceGetMemoryInfo_v2", handle, byref(second))
        except IxmlError as error:
            if error.code not in (NOT_SUPPORTED, FUNCTION_NOT_FOUND):
                raise
            first = Memory()
            self.call("nvmlDeviceGetMemoryInfo", handle, byref(first))
            return first.total, first.used
        return second.total, second.used

    def pci_address(self, handle: c_void_p) -> str:
        info = PciInfo()
        self.call("nvmlDeviceGetPciInfo_v3", handle, byref(info))
        return str(info.bus_id.decode(errors="replace"))

    def utilization(self, handle: c_void_p) -> Utilization:
        rates = Utilization()
        self.call("nvmlDeviceGetUtilizationRates", handle, byref(rates))
        return rates

    def compute_capability(self, handle: c_void_p) -> str:
        major, minor = c_int(), c_int()
        self.call("nvmlDeviceGetCudaComputeCapability", handle, byref(major), byref(minor))
        return f"{major.value}.{minor.value}"

    def cuda_version(self) -> int:
        return self.number("nvmlSystemGetCudaDriverVersion")

    def ecc_errors(self, handle: c_void_p) -> tuple[int, int]:
        """Corrected and uncorrected ones; the library writes the name so."""
        corrected, uncorrected = c_uint(), c_uint()
        self.call("ixmlDeviceGetEccErros", handle, byref(corrected), byref(uncorrected))
        return corrected.value, uncorrected.value

    def health(self, handle: c_void_p) -> Health:
        bits = c_ulonglong()
        self.call("ixmlDeviceGetHealth", handle, byref(bits))
        return Health(bits.value)

    def processes(self, handle: c_void_p) -> list[tuple[int, int]]:
        """Pid and bytes of those that compute; asked again while there come more than there was room for."""
        room = 16
        while True:
            count, found = c_uint(room), (ProcessInfo * room)()
            try:
                self.call("nvmlDeviceGetComputeRunningProcesses", handle, byref(count), found)
            except IxmlError as error:
                if error.code != INSUFFICIENT_SIZE:
                    raise
                room = count.value * 2
                continue
            return [(found[i].pid, found[i].used_memory) for i in range(count.value)]

    def distance(self, one: c_void_p, other: c_void_p) -> int:
        return self.number("nvmlDeviceGetTopologyCommonAncestor", one, other)


def _open() -> ctypes.CDLL:
    for place in _places():
        try:
            return ctypes.CDLL(place)
        except OSError:
            continue
    raise IxmlUnavailable(f"{LIBRARY} is not found; install Iluvatar's CoreX, or set COREX_HOME to where it is")


class IxmlUnavailable(Exception):
    """There is no library to ask."""


def _places() -> Iterator[str]:
    yield LIBRARY
    home = Path(os.environ.get("COREX_HOME", COREX_HOME))
    yield from (str(home / folder / LIBRARY) for folder in ("lib64", "lib"))
