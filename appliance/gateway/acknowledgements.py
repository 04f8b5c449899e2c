"""What the gateway's workers say of themselves: which snapshot they apply and how many requests they have running.

Read straight from their status files; nothing is kept, so nothing is stale. A worker counts while its process
lives (same pid and start time) and its heart beats; one that hangs is killed by the supervisor and sends nothing.

Where no worker lives, every version counts as acknowledged: nobody is there to send a request, and a worker that
starts reads the newest manifest before its first. Its status says version 0 until then, which acknowledges none.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from appliance.gateway.plane.wire import WorkerStatus, read_status, start_ticks

SILENCE_NS: Final = 30_000_000_000
"""Longer than the supervisor lets a worker hang before it kills it (see `plane.pool`)."""


class Acknowledgements:
    """`home` is APPLIANCE_HOME."""

    def __init__(self, home: Path) -> None:
        self._directory = home / "gateway" / "status"

    def live_workers(self) -> list[WorkerStatus]:
        found = (_read(path) for path in sorted(self._directory.glob("worker-*")))
        return [status for status in found if status is not None and _lives(status)]

    def acknowledged(self, version: int) -> bool:
        """Whether every live worker routes by `version` or a newer one."""
        return all(worker.applied_version >= version for worker in self.live_workers())

    def applied_version(self) -> int | None:
        """The oldest version that a live worker routes by; None without any."""
        return min((worker.applied_version for worker in self.live_workers()), default=None)

    def in_flight(self, replica_ids: Iterable[str]) -> int:
        """How many requests the live workers have at these replicas, or waiting for one of them."""
        wanted = set(replica_ids)
        return sum(
            sum(counts)
            for worker in self.live_workers()
            for replica_id, counts in worker.replicas.items()
            if replica_id in wanted
        )


def _read(path: Path) -> WorkerStatus | None:
    try:
        return read_status(path)
    except (FileNotFoundError, ValueError):  # a worker that ended, or was killed while it wrote
        return None


def _lives(status: WorkerStatus) -> bool:
    try:
        same = start_ticks(status.pid) == status.start_ticks
    except (FileNotFoundError, ProcessLookupError):
        return False
    return same and 0 <= time.clock_gettime_ns(time.CLOCK_BOOTTIME) - status.heartbeat < SILENCE_NS
