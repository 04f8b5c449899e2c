"""Processes of the data plane, found by their pid files and held by a pidfd: a reused pid is never signalled."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Self

SUPERVISOR = "appliance.gateway.plane.supervisor"
WORKER = "appliance.gateway.plane.worker"


class PlaneProcess:
    """A process that lived when it was found. Close it."""

    def __init__(self, pid: int, descriptor: int) -> None:
        self.pid = pid
        self._descriptor = descriptor

    @classmethod
    def find(cls, pid_file: Path, module: str, home: Path) -> Self | None:
        """The process that wrote the file, if it lives and runs `module` for `home`.

        Between the file and the pidfd the pid may come to name another process; its command line tells.
        """
        try:
            process = cls.hold(int(pid_file.read_text(encoding="ascii")))
        except (OSError, ValueError):  # no file, not yet written, or no such process
            return None
        if _runs(process.pid, module, home):
            return process
        process.close()
        return None

    @classmethod
    def hold(cls, pid: int) -> Self:
        """`ProcessLookupError` if there is no such process."""
        return cls(pid, os.pidfd_open(pid))

    def signal(self, number: signal.Signals) -> None:
        try:
            signal.pidfd_send_signal(self._descriptor, number)
        except ProcessLookupError:
            return

    async def ended(self, timeout: float) -> bool:
        """Wait for its end, at most `timeout` seconds; whether it came."""
        loop = asyncio.get_running_loop()
        end = asyncio.Event()
        loop.add_reader(self._descriptor, end.set)
        try:
            async with asyncio.timeout(timeout):
                await end.wait()
        except TimeoutError:
            return False
        finally:
            loop.remove_reader(self._descriptor)
        return True

    def close(self) -> None:
        os.close(self._descriptor)


def supervisor(home: Path) -> PlaneProcess | None:
    return PlaneProcess.find(home / "run" / "supervisor.pid", SUPERVISOR, home)


def workers(home: Path) -> list[PlaneProcess]:
    found = (PlaneProcess.find(path, WORKER, home) for path in sorted((home / "run").glob("worker-*.pid")))
    return [process for process in found if process is not None]


async def end(processes: Sequence[PlaneProcess], number: signal.Signals, timeout: float) -> None:
    """Signal all, wait for all, close all."""
    try:
        for process in processes:
            process.signal(number)
        await asyncio.gather(*(process.ended(timeout) for process in processes))
    finally:
        for process in processes:
            process.close()


def _runs(pid: int, module: str, home: Path) -> bool:
    """A zombie has no command line, so it does not run anything."""
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return module.encode() in arguments and os.fsencode(home) in arguments
