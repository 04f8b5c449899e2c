"""Another worker's table, and whether that worker lives."""

from __future__ import annotations

import os
import select
from pathlib import Path

from appliance.gateway.plane.limits import layout
from appliance.gateway.plane.limits.layout import BOOT, PID, START
from appliance.gateway.plane.status import start_ticks


class Peer:
    """One that is mapped; its writer is known by process id and start."""

    def __init__(self, path: Path, inode: int, boot: int) -> None:
        self.words = layout.map_table(path)
        self.inode = inode
        self.this_boot = self.words[BOOT] == boot
        self.alive = False
        self.pidfd: int | None = None
        self._process = (0, 0)

    def look(self, boot: int) -> None:
        """Whose table is it now?"""
        process = (self.words[PID], self.words[START])
        self.this_boot = self.words[BOOT] == boot
        if process == self._process:
            return
        self.close()
        self._process = process
        pid, started = process
        try:
            self.pidfd = os.pidfd_open(pid) if pid and self.this_boot else None
            self.alive = self.pidfd is not None and start_ticks(pid) == started and not ended([self.pidfd])
        except (FileNotFoundError, ProcessLookupError):
            self.alive = False

    def close(self) -> None:
        """Nobody is waited for any more."""
        self.alive = False
        if self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None


def ended(pidfds: list[int]) -> set[int]:
    """Those whose process has ended (it may still be waited for by its parent)."""
    poller = select.poll()
    for pidfd in pidfds:
        poller.register(pidfd, select.POLLIN)
    return {pidfd for pidfd, _ in poller.poll(0)}
