"""How far an import is, shared between the thread that works and the loop that reports; and the way to stop it."""

from __future__ import annotations

import threading
from enum import StrEnum
from typing import Final

from appliance.kernel.clock import Clock

STALLED_S: Final = 600.0
"""Without one block in this time the storage hangs, and the import is given up."""


class Phase(StrEnum):
    queued = "queued"
    copying = "copying"
    checking = "checking"
    storing = "storing"


class ImportStopped(Exception):
    """Someone deleted the version, or the process ends; what is half made is cleared away later."""


class Progress:
    """Bytes of the import. Written by one thread, read by another: each member is one word."""

    def __init__(self) -> None:
        self.phase = Phase.queued
        self.bytes_done = 0
        self.bytes_total = 0
        self._stop = threading.Event()

    def begin(self, phase: Phase, total: int) -> None:
        self.check()
        self.phase, self.bytes_done, self.bytes_total = phase, 0, total

    def advance(self, amount: int) -> None:
        """Count `amount` bytes more; raises `ImportStopped` where that was asked for."""
        self.check()
        self.bytes_done += amount

    def stop(self) -> None:
        self._stop.set()

    def check(self) -> None:
        if self._stop.is_set():
            raise ImportStopped


class Stall:
    """Notices that a `Progress` stands still."""

    def __init__(self, clock: Clock, progress: Progress) -> None:
        self._clock, self._progress = clock, progress
        self._seen = self._look()
        self._since = clock.monotonic()

    def is_over(self) -> bool:
        """Whether nothing has moved for `STALLED_S`; waiting for a free thread is not standing still."""
        now, look = self._clock.monotonic(), self._look()
        if look != self._seen or self._progress.phase is Phase.queued:
            self._seen, self._since = look, now
        return now - self._since >= STALLED_S

    def _look(self) -> tuple[Phase, int]:
        return self._progress.phase, self._progress.bytes_done
