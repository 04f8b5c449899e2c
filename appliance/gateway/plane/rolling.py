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
    """Begun with the workers that run; `step` it until `done`."""

    def __init__(self, home: Path, pool: Pool, sockets: SocketSet, log: Log) -> None:
        self._home = home
        self._pool = pool
        self._sockets = sockets
        self._log = log
        self._waiting = sorted(
            (each for each in pool.workers.values() if not each.draining), key=lambda each: each.index
        )
        self._new: WorkerProcess | None = None
        log.info("roll.started", workers=[worker.index for worker in self._waiting])

    @property
    def done(self) -> bool:
        return not self._waiting

    def step(self) -> None:
        if self.done:
            return
        old = self._waiting[0]
        if old.seat is None or self._pool.workers.get(old.index) is not old:  # it died, or its seat is gone
            self._next()
        elif self._new is None or self._pool.workers.get(self._new.index) is not self._new:
            self._new = self._pool.start(old.seat)
        elif self._sockets.has_all(self._new) and self._applied(self._new) >= self._applied(old):
            self._pool.drain(old)
            self._next()

    def _next(self) -> None:
        del self._waiting[0]
        self._new = None
        if self.done:
            self._log.info("roll.finished")

    def _applied(self, worker: WorkerProcess) -> int:
        """The version of the snapshot that it applies, -1 if it does not tell."""
        try:
            return read_status(status_path(self._home, worker.index)).applied_version
        except (OSError, ValueError):
            return -1
