"""Asks the drivers which devices there are, through child processes with a deadline.

One child for each vendor whose hardware is there, kept between the probes: it listens for error events, and a driver
need not be opened anew each time. A child that does not answer in time is killed and not waited for: a driver that
hangs may keep it for ever. Until it is gone no other is started, so that a hanging driver costs one process.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from gpu.states import Vendor
from gpu.vendors.cpu import CpuDriver
from gpu.vendors.gate import has_hardware, pci_addresses
from gpu.vendors.readings import Reading

DEADLINE_S: Final = 15.0
_END_S: Final = 1.0
"""For a process that was killed to be gone, unless its driver hangs."""
_LARGEST_ANSWER: Final = 64 * 1024 * 1024
_PASSED_ON: Final = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "COREX_HOME", "LANG")
"""What a child gets of our environment; secrets in the rest are none of a driver's business."""
_TITLES: Final = {Vendor.nvidia: "NVIDIA", Vendor.iluvatar: "Iluvatar"}


class VendorProbe:
    """One vendor's child. `command` answers each line with one `Reading` as a line of JSON."""

    def __init__(
        self,
        vendor: Vendor,
        *,
        command: Sequence[str] | None = None,
        environment: dict[str, str] | None = None,
        deadline_s: float = DEADLINE_S,
        root: Path = Path("/"),
    ) -> None:
        self._vendor, self._deadline_s, self._root = vendor, deadline_s, root
        self._command = command or (sys.executable, "-m", "gpu.vendors.child", vendor.value, str(root))
        self._environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | (environment or {})
        self._child: asyncio.subprocess.Process | None = None
        self._stuck: asyncio.subprocess.Process | None = None
        self._addresses: frozenset[str] = frozenset()

    @property
    def hung_process(self) -> int | None:
        """The child that was killed at its deadline and is still there."""
        return self._stuck.pid if self._stuck is not None and self._stuck.returncode is None else None

    async def read(self) -> Reading | None:
        """What the driver says, None without hardware. Never raises, never takes much longer than the deadline."""
        addresses = await asyncio.to_thread(pci_addresses, self._vendor, self._root)
        if not await asyncio.to_thread(has_hardware, self._vendor, self._root):
            await self.close()
            return None
        if self._stuck is not None and not await _end(self._stuck):
            return self._error(f"the {self._title} driver hangs: process {self._stuck.pid} cannot be ended")
        self._stuck = None
        if addresses != self._addresses:
            await self.close()  # a driver lists what was there when it was opened
            self._addresses = addresses
        try:
            async with asyncio.timeout(self._deadline_s):
                return await self._ask()
        except TimeoutError:
            self._abandon()
            return self._error(f"the {self._title} driver did not answer within {self._deadline_s:g} s")
        except asyncio.CancelledError:
            self._abandon()
            raise

    async def close(self) -> None:
        """End the child, which has nothing to lose; one that cannot be ended is left."""
        child, self._child = self._child or self._stuck, None
        if child is not None:
            self._stuck = None if await _end(child) else child

    @property
    def _title(self) -> str:
        return _TITLES.get(self._vendor, self._vendor.value)

    async def _ask(self) -> Reading:
        try:
            child = self._child = self._child or await self._start()
        except OSError as error:
            return self._error(f"the probe of {self._title} devices does not start: {error}")
        answer = await _answer(child)
        if not answer.endswith(b"\n"):
            status = await child.wait()
            await self.close()
            return self._error(f"the probe of {self._title} devices ended with status {status}")
        try:
            reading = msgspec.json.decode(answer, type=Reading)
        except msgspec.DecodeError as error:
            await self.close()
            return self._error(f"the probe of {self._title} devices answered nonsense: {error}")
        if reading.error is not None:
            await self.close()
        return reading

    async def _start(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=self._environment,
            start_new_session=True,
            limit=_LARGEST_ANSWER,
        )

    def _abandon(self) -> None:
        if self._child is not None and self._child.returncode is None:
            self._child.kill()
            self._stuck = self._child
        self._child = None

    def _error(self, text: str) -> Reading:
        return Reading(vendor=self._vendor, error=text)


async def _end(child: asyncio.subprocess.Process) -> bool:
    """Whether it is gone, with its pipes."""
    if child.returncode is None:
        child.kill()
    try:
        async with asyncio.timeout(_END_S):
            await child.communicate()
    except TimeoutError:
        return False
    return True


async def _answer(child: asyncio.subprocess.Process) -> bytes:
    """One line, or what came before the child ended."""
    assert child.stdin is not None  # noqa: S101 - it was started with pipes
    assert child.stdout is not None  # noqa: S101
    try:
        child.stdin.write(b"\n")
        await child.stdin.drain()
    except (BrokenPipeError, ConnectionResetError):
        pass  # it has ended; what it said before may still be read
    return await child.stdout.readline()


class Probe:
    """Every vendor at the same time. `simulation` is a folder that stands for the machine: its `sys` in place of /sys,
    its `lib` before every other folder of libraries. What is read so is marked as simulated.
    """

    def __init__(self, *, deadline_s: float = DEADLINE_S, simulation: Path | None = None) -> None:
        self._simulated = simulation is not None
        root = simulation or Path("/")
        environment = {"LD_LIBRARY_PATH": str(root / "lib")} if simulation else {}
        self._cpu = CpuDriver()
        self._vendors = [
            VendorProbe(vendor, environment=environment, deadline_s=deadline_s, root=root)
            for vendor in (Vendor.nvidia, Vendor.iluvatar)
        ]

    async def readings(self) -> Sequence[Reading]:
        """Of each vendor whose hardware is there, and of the CPUs. Never raises."""
        cpu = await asyncio.to_thread(self._cpu.read)
        found = await asyncio.gather(*(vendor.read() for vendor in self._vendors))
        told = [
            msgspec.structs.replace(reading, simulated=True) if self._simulated else reading
            for reading in found
            if reading is not None
        ]
        return [cpu, *told]

    async def close(self) -> None:
        for vendor in self._vendors:
            await vendor.close()
