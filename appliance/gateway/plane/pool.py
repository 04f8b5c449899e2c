"""The supervisor's view of its workers: starting, adopting, telling, noticing their end.

A worker has a number, which is its own as long as it lives (its lock, spool, slots, sockets), and a seat: which of
the node's listening sockets it accepts from. While a worker is being replaced two have one seat; one that drains has
none.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from appliance.gateway.plane import control
from appliance.gateway.plane.adoption import Adopted, Adoption, is_free
from appliance.gateway.plane.log import Log
from appliance.gateway.plane.paths import control_path, status_path
from appliance.gateway.plane.schemas.listeners import Listener
from appliance.gateway.plane.status import read_status

CONTROL_S: Final = 2.0
HUNG_S: Final = 20.0
"""A heartbeat this old, seen twice, means that the worker hangs."""
_HEARTBEAT_CHECK_S: Final = 5.0
_MIN_BACKOFF_S: Final = 0.5
_MAX_BACKOFF_S: Final = 10.0


class WorkerProcess:
    """One worker that runs: a child of ours or of the supervisor before us."""

    def __init__(self, index: int, seat: int | None, pid: int, child: subprocess.Popen[bytes] | None) -> None:
        self.index = index
        self.seat = seat
        self.pid = pid
        self.draining = False
        self.served = child is None
        """Whether it ever got as far as to listen for us."""
        self.connection: socket.socket | None = None
        self.told: dict[str, Listener] = {}
        """The listeners that it was told to accept on."""
        self._child = child
        self._pidfd = os.pidfd_open(pid)
        self._suspect = False
        self._checked = time.monotonic()

    @property
    def adopted(self) -> bool:
        return self._child is None

    def fileno(self) -> int:
        """Becomes readable when the process ends."""
        return self._pidfd

    def ended(self) -> bool:
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        if not poller.poll(0):
            return False
        if self._child is not None:
            self._child.wait()
        else:  # ours all the same if this process was the supervisor before, by another program
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, os.WNOHANG)
        return True

    def signal(self, number: signal.Signals) -> None:
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            return

    def send(self, message: control.ToWorker, descriptors: list[int] | None = None) -> bool:
        """False if it could not be told; the connection is then made anew."""
        if self.connection is None:
            return False
        try:
            control.send(self.connection, message, descriptors)
        except OSError:
            self.disconnect()
            return False
        return True

    def disconnect(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def close(self) -> None:
        self.disconnect()
        os.close(self._pidfd)

    def hangs(self, home: Path) -> bool:
        """Whether its heartbeat stood still at two looks (one alone may follow a suspended machine)."""
        now = time.monotonic()
        if now - self._checked < _HEARTBEAT_CHECK_S:
            return False
        self._checked = now
        try:
            status = read_status(status_path(home, self.index))
        except (OSError, ValueError):
            return False
        if status.pid != self.pid:  # of the worker before; this one is still to write its own
            return False
        stale = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - status.heartbeat > HUNG_S * 1e9
        hung = stale and self._suspect
        self._suspect = stale
        return hung


class Pool:
    """Workers by number."""

    def __init__(self, home: Path, grace_s: float, log: Log) -> None:
        self._home = home
        self._grace_s = grace_s
        self._log = log
        self.workers: dict[int, WorkerProcess] = {}
        self._backoff: dict[int, float] = {}
        self._not_before: dict[int, float] = {}
        """By seat, as is `_number`, which its last worker had."""
        self._number: dict[int, int] = {}
        self._adoption = Adoption(home, log)

    def adopt(self, wait_s: float) -> list[tuple[int, Listener, socket.socket]]:
        """Take over the workers that run and answer within `wait_s` seconds; the listening sockets that they hold, by
        seat.
        """
        found: list[tuple[int, Listener, socket.socket]] = []
        for adopted in self._adoption.adopt(self.workers, wait_s):
            found += self._take_over(adopted)
        return found

    def _take_over(self, adopted: Adopted) -> list[tuple[int, Listener, socket.socket]]:
        index, held = adopted.number, adopted.held
        try:
            worker = WorkerProcess(index, None, adopted.pid, None)
        except OSError as error:  # it has ended since
            self._log.error("worker.not_adopted", worker=index, reason=str(error))
            adopted.connection.close()
            _close(held)
            return []
        adopted.connection.settimeout(CONTROL_S)
        worker.connection = adopted.connection
        worker.draining = adopted.draining
        worker.told = {listener.id: listener for listener, _ in held}
        self.workers[index] = worker
        self._log.info("worker.adopted", worker=index, worker_pid=adopted.pid, listeners=len(held))
        if adopted.draining:
            _close(held)
            return []
        seat = worker.seat = self._free_seat()
        self._number[seat] = index
        return [(seat, listener, each) for listener, each in held]

    @property
    def strangers(self) -> int:
        """How many workers run that are still to be adopted."""
        return self._adoption.strangers

    def _free_seat(self) -> int:
        taken = {worker.seat for worker in self.workers.values()}
        return next(seat for seat in itertools.count() if seat not in taken)

    def start_missing(self, count: int) -> None:
        """A worker for each seat below `count` that has none, and is not kept for one that is still to be adopted."""
        taken = {worker.seat for worker in self.workers.values()}
        missing = [seat for seat in range(count) if seat not in taken]
        for seat in missing[: max(len(missing) - self.strangers, 0)]:
            self.start(seat)

    def start(self, seat: int) -> WorkerProcess | None:
        """One worker more for this seat; None if that has to wait (after a worker that died early, or a lock)."""
        now = time.monotonic()
        if now < self._not_before.get(seat, 0.0):
            return None
        number = self._number.get(seat, seat)
        if number in self.workers:
            number = next(each for each in itertools.count() if each not in self.workers)
        if not is_free(self._home, number):
            self._not_before[seat] = now + 1.0
            return None
        command = [sys.executable, "-m", "appliance.gateway.plane.worker"]
        command += ["--home", str(self._home), "--index", str(number), "--grace", str(self._grace_s)]
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)  # noqa: S603 - our own
        worker = self.workers[number] = WorkerProcess(number, seat, child.pid, child)
        self._number[seat] = number
        self._log.info("worker.spawned", worker=number, worker_pid=child.pid)
        return worker

    def reap(self) -> list[WorkerProcess]:
        """The workers that have ended."""
        ended = [worker for worker in self.workers.values() if worker.ended()]
        for worker in ended:
            del self.workers[worker.index]
            worker.close()
            if worker.seat is None:
                continue
            backoff = 0.0
            if not worker.served:  # it would die again at once: what it starts from is at fault
                backoff = min(max(2 * self._backoff.get(worker.seat, 0.0), _MIN_BACKOFF_S), _MAX_BACKOFF_S)
            self._backoff[worker.seat] = backoff
            self._not_before[worker.seat] = time.monotonic() + backoff
            self._log.error("worker.died", worker=worker.index, worker_pid=worker.pid, backoff_s=backoff)
        self._reap_strangers()
        return ended

    def uses_again(self, ended: WorkerProcess) -> bool:
        """Whether the next worker of its seat gets its number, and so takes over what it has left."""
        return ended.seat is not None and self._number.get(ended.seat) == ended.index

    def _reap_strangers(self) -> None:
        """Children that ended while this process became another program, and were not adopted."""
        known = {worker.pid for worker in self.workers.values()}
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
                if ended.si_pid in known:
                    return  # at the next call
                os.waitpid(ended.si_pid, os.WNOHANG)

    def connect(self) -> None:
        """To workers that were started and now listen for us."""
        for worker in self.workers.values():
            if worker.connection is not None:
                continue
            try:
                connection = control.connect(control_path(self._home, worker.index), CONTROL_S)
            except OSError:
                continue
            connection.settimeout(CONTROL_S)
            worker.connection = connection
            worker.served = True
            worker.told = {}

    def kill_hung(self) -> None:
        for worker in self.workers.values():
            if worker.hangs(self._home):
                self._log.error("worker.hung_killed", worker=worker.index, worker_pid=worker.pid)
                worker.signal(signal.SIGKILL)

    def drain(self, worker: WorkerProcess) -> None:
        if worker.draining:
            return
        worker.draining = True
        worker.seat = None
        if not worker.send(control.Drain(self._grace_s)):
            worker.signal(signal.SIGTERM)


def _close(held: list[tuple[Listener, socket.socket]]) -> None:
    for _, each in held:
        each.close()
