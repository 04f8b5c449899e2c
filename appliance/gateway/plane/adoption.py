"""Taking over the workers that another supervisor has left.

Each is asked who it is and which sockets it holds. One that does not answer yet (it is just starting, or has no CPU)
is asked again or waited for, and keeps its place meanwhile; it goes on to serve. Only one that neither answers nor has
given a sign of life for long is ended.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from appliance.gateway.plane import control
from appliance.gateway.plane.log import Log
from appliance.gateway.plane.paths import control_path, pid_path, status_path, take_worker_lock, worker_indexes
from appliance.gateway.plane.schemas.listeners import Listener
from appliance.gateway.plane.status import read_status

ANSWER_S: Final = 2.0
"""How long the workers together may take to answer before a supervisor begins without them."""
_AGAIN_S: Final = 0.5
"""Between looks for workers that have not been adopted."""
_SILENT_S: Final = 10.0
_WORKER: Final = b"appliance.gateway.plane.worker"


class Adopted(NamedTuple):
    """`connection` is the control connection to it; the sockets are those that it holds."""

    number: int
    pid: int
    draining: bool
    connection: socket.socket
    held: list[tuple[Listener, socket.socket]]


class _Asked:
    """A worker that has not answered whole."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.held: list[tuple[Listener, socket.socket]] = []

    def close(self) -> None:
        for _, each in self.held:
            each.close()
        self.connection.close()


class Adoption:
    """`strangers` are the numbers of workers that run and have not been adopted."""

    def __init__(self, home: Path, log: Log) -> None:
        self._home = home
        self._log = log
        self._asked: dict[int, _Asked] = {}
        self._missed_since: dict[int, float] = {}
        self._look_at = 0.0

    @property
    def strangers(self) -> int:
        return len(self._missed_since)

    def adopt(self, own: Iterable[int], wait_s: float) -> list[Adopted]:
        """Those that have answered, after at most `wait_s` seconds. `own`: the workers that are known."""
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + _AGAIN_S
            self._look(frozenset(own))
        found: list[Adopted] = []
        while self._asked:
            poller = select.poll()
            indexes = {asked.connection.fileno(): index for index, asked in self._asked.items()}
            for descriptor in indexes:
                poller.register(descriptor, select.POLLIN)
            ready = poller.poll(1000 * max(now + wait_s - time.monotonic(), 0.0))
            if not ready:
                break
            found += [each for descriptor, _ in ready if (each := self._take(indexes[descriptor])) is not None]
        return found

    def _look(self, own: frozenset[int]) -> None:
        """Who runs and is not ours? Their locks tell."""
        for index in worker_indexes(self._home / "run", ".lock"):
            if index in own or is_free(self._home, index):
                self._missed_since.pop(index, None)
                continue
            since = self._missed_since.setdefault(index, time.monotonic())
            if index not in self._asked:
                self._ask(index)
            if time.monotonic() - since >= ANSWER_S:
                self._end_silent(index)

    def _ask(self, index: int) -> None:
        try:
            connection = control.connect(control_path(self._home, index), ANSWER_S)
        except OSError:  # it does not listen yet
            return
        try:
            control.send(connection, control.Hello())
        except OSError:
            connection.close()
            return
        self._asked[index] = _Asked(connection)

    def _take(self, index: int) -> Adopted | None:
        """A part of the answer has come."""
        asked = self._asked[index]
        try:
            answer, sockets = control.receive_held(asked.connection)
            asked.held += zip(answer.listeners, sockets, strict=True)
        except (OSError, ValueError) as error:
            self._log.error("worker.not_adopted", worker=index, reason=str(error))
            del self._asked[index]
            asked.close()
            return None
        if not answer.last:
            return None
        del self._asked[index]
        self._missed_since.pop(index, None)
        return Adopted(index, answer.pid, answer.draining, asked.connection, asked.held)

    def _end_silent(self, index: int) -> None:
        try:
            path = pid_path(self._home, index)
            pid = int(path.read_text())
            silent_s = min(time.time() - path.stat().st_mtime, self._since_heartbeat(index, pid))
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return
        if silent_s > _SILENT_S and _WORKER in command:
            self._log.error("worker.unresponsive_killed", worker=index, worker_pid=pid)
            os.kill(pid, signal.SIGKILL)

    def _since_heartbeat(self, index: int, pid: int) -> float:
        """Seconds; without end if it has not got as far as to have one."""
        try:
            status = read_status(status_path(self._home, index))
        except (OSError, ValueError):
            return float("inf")
        if status.pid != pid:
            return float("inf")
        return (time.clock_gettime_ns(time.CLOCK_BOOTTIME) - status.heartbeat) / 1e9


def is_free(home: Path, index: int) -> bool:
    """Whether no worker has this number."""
    lock = take_worker_lock(home, index)
    if lock is None:
        return False
    os.close(lock)
    return True
