"""Asks the drivers which devices there are, through child processes with a deadline.

A child that does not answer in time is killed and not waited for: a driver that hangs may keep it for ever. Until
it is gone no other is started, so that a hanging driver costs one process and not one per probe.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from gpu.machine import pci_vendors
from gpu.states import Vendor

DEADLINE_S = 15.0
NVIDIA_PCI_VENDOR = 0x10DE
_NVIDIA_NODES = ("dev/nvidiactl", "dev/dxg")


class FoundDevice(Struct, frozen=True, kw_only=True):
    """`uuid` is empty where the driver could not even tell that; `problem` says why it may not be used."""

    vendor: Vendor
    index: int
    uuid: str
    model: str = "unknown"
    minor: int | None = None
    pci_address: str = ""
    memory_bytes: int = 0
    compute_capability: str | None = None
    problem: str | None = None


class ProbeAnswer(Struct, frozen=True, kw_only=True):
    """Either `error`, and nothing is known, or every device that the driver lists."""

    driver_version: str | None = None
    devices: tuple[FoundDevice, ...] = ()
    error: str | None = None


def has_nvidia_hardware(root: Path = Path("/")) -> bool:
    """The gate: without hardware no library is loaded and no process started."""
    return NVIDIA_PCI_VENDOR in pci_vendors(root) or any((root / node).exists() for node in _NVIDIA_NODES)


class NvmlProbe:
    """`command` prints one `ProbeAnswer` as JSON."""

    def __init__(
        self,
        command: Sequence[str] = (sys.executable, "-m", "gpu.nvml"),
        *,
        deadline_s: float = DEADLINE_S,
        root: Path = Path("/"),
    ) -> None:
        self._command, self._deadline_s, self._root = command, deadline_s, root
        self._stuck: asyncio.subprocess.Process | None = None

    @property
    def hung_process(self) -> int | None:
        """The child that was killed at its deadline and is still there."""
        return self._stuck.pid if self._stuck is not None and self._stuck.returncode is None else None

    async def devices(self) -> ProbeAnswer:
        """Never raises and never takes much longer than the deadline."""
        if not has_nvidia_hardware(self._root):
            return ProbeAnswer()
        if (pid := self.hung_process) is not None:
            return ProbeAnswer(error=f"the NVIDIA driver hangs: process {pid} cannot be ended")
        try:
            child = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            return ProbeAnswer(error=f"the probe of NVIDIA devices does not start: {error}")
        return await self._answer(child)

    async def _answer(self, child: asyncio.subprocess.Process) -> ProbeAnswer:
        try:
            async with asyncio.timeout(self._deadline_s):
                output, _ = await child.communicate()
        except TimeoutError:
            child.kill()
            self._stuck = child
            return ProbeAnswer(error=f"the NVIDIA driver did not answer within {self._deadline_s:g} s")
        except asyncio.CancelledError:
            child.kill()
            raise
        if child.returncode != 0:
            return ProbeAnswer(error=f"the probe of NVIDIA devices ended with status {child.returncode}")
        try:
            return msgspec.json.decode(output, type=ProbeAnswer)
        except msgspec.DecodeError as error:
            return ProbeAnswer(error=f"the probe of NVIDIA devices answered nonsense: {error}")
