"""Replacing all workers by new ones, one after the other, without a request's noticing.

The new worker gets the old one's seat and accepts from the same sockets; when it has applied the snapshot that the
old one applies the old one drains: it accepts no more, answers what it has, and ends. A new worker that dies before
that is started again, and nothing is drained meanwhile.
"""

from __future__ import annotations

from pathlib import Path

from appliance.gateway.plane.log import Log
from appliance.gateway.plane.paths import status_path
from appliance.gateway.plane.pool import Pool, WorkerProcess
from appliance.gateway.plane.socket_set import SocketSet
from appliance.gateway.plane.status import read_status


class Roll:
    """Replaces every worker that was adopted; `step` it until `done`."""

    def __init__(self, home: Path, pool: Pool, sockets: SocketSet, log: Log) -> None:
        self._home = home
        self._pool = pool
        self._sockets = sockets
        self._log = log
        self._new: WorkerProcess | None = None
        self.done = False
        log.info("roll.started", workers=[worker.index for worker in self._old()])

    def step(self) -> None:
        if self.done:
            return
        old = next(iter(self._old()), None)
        if old is None:
            if not self._pool.strangers:  # who is still to be adopted is still to be replaced
                self.done = True
                self._log.info("roll.finished")
            return
        new = self._new
        if new is None or self._pool.workers.get(new.index) is not new or new.seat != old.seat:
            self._new = None if old.seat is None else self._pool.start(old.seat)
        elif self._sockets.has_all(new) and self._applied(new) >= self._applied(old):
            self._pool.drain(old)

    def _old(self) -> list[WorkerProcess]:
        adopted = [each for each in self._pool.workers.values() if each.adopted and each.seat is not None]
        return sorted(adopted, key=lambda each: each.index)

    def _applied(self, worker: WorkerProcess) -> int:
        """The version of the snapshot that it applies, -1 if it does not tell."""
        try:
            return read_status(status_path(self._home, worker.index)).applied_version
        except (OSError, ValueError):
            return -1
