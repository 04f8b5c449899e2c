"""The gateway's supervisor: owns every listening socket, keeps the workers running, survives its own death.

One level-triggered loop: look at the manifest, the workers and the sockets, and do what is missing. It never touches
a request. Killed and started again, it adopts the workers that run and gets the sockets back from them.

SIGTERM ends all in order. SIGHUP takes over new code: the supervisor replaces itself by the program that is on the
disk, adopts its workers, and then replaces them one after the other. Signals that come meanwhile wait for that program.

    python -m appliance.gateway.plane.supervisor --home DIR [--workers N] [--grace SECONDS] [--roll]
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from appliance.gateway.plane.adoption import ANSWER_S
from appliance.gateway.plane.log import Log
from appliance.gateway.plane.meter import recover
from appliance.gateway.plane.paths import (
    forget_worker,
    pid_path,
    prepare,
    snapshot_directory,
    supervisor_pid_path,
    take_lock,
    take_worker_lock,
    worker_indexes,
)
from appliance.gateway.plane.pool import Pool
from appliance.gateway.plane.rolling import Roll
from appliance.gateway.plane.snapshot import SnapshotReader
from appliance.gateway.plane.socket_set import SocketSet
from appliance.gateway.plane.upkeep import Upkeep

TICK_S: Final = 0.1
_KILL_AFTER_S: Final = 3.0
_ALREADY_RUNNING: Final = 3
_MODULE: Final = "appliance.gateway.plane.supervisor"
_ROLL: Final = "--roll"
_SOCKETS: Final = "--sockets"
"""From the program before to the next one in the same process: the descriptors of its listening sockets."""
_SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})


class Supervisor:
    def __init__(self, home: Path, *, workers: int | None, grace_s: float, log: Log) -> None:
        self._home = home
        self._fixed_workers = workers
        self._count = 0
        self._grace_s = grace_s
        self._log = log
        self._snapshot = SnapshotReader(snapshot_directory(home), frozenset({"listeners"}))
        self._pool = Pool(home, grace_s, log)
        self._sockets = SocketSet(home, log)
        self._upkeep = Upkeep(home, log)
        self._stopping = False
        self._renewing = False
        self._roll: Roll | None = None
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self, *, roll: bool, inherited: Sequence[int] = ()) -> None:
        """Until SIGTERM or SIGINT; then all workers have ended. `roll`: replace those that run now."""
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        signal.signal(signal.SIGHUP, self._renew)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        self._adopt(ANSWER_S)
        self._sockets.inherit(inherited)
        self._recover_unowned()
        self._upkeep.start()
        self._log.info("supervisor.started", adopted=len(self._pool.workers))
        if roll:
            self._roll = Roll(self._home, self._pool, self._sockets, self._log)
        while not self._stopping:
            try:
                self._reconcile()
            except OSError as error:  # no descriptors, no memory, a full disk: what runs goes on, the next tick tries
                self._log.error("supervisor.step_failed", reason=str(error))
            self._wait()
            if self._renewing and self._is_whole():
                self._become_the_new_program()
        self._upkeep.stop()
        self._drain()

    def _adopt(self, wait_s: float) -> None:
        for seat, listener, held in self._pool.adopt(wait_s):
            self._sockets.adopt(seat, listener, held)

    def _renew(self, _number: int, _frame: FrameType | None) -> None:
        self._renewing = True

    def _is_whole(self) -> bool:
        """Whether every seat's sockets are in a worker's hands, too: then they survive this program."""
        seated = [worker for worker in self._pool.workers.values() if worker.seat is not None]
        is_rolling = self._roll is not None and not self._roll.done
        return not is_rolling and len(seated) >= self._count > 0 and all(map(self._sockets.has_all, seated))

    def _become_the_new_program(self) -> None:
        """The process stays the same: its pid, its children, its listening sockets; all else is closed."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # until the next program can take them
        arguments = [argument for argument in sys.argv[1:] if not argument.startswith((_ROLL, _SOCKETS))]
        descriptors = ",".join(map(str, self._sockets.keep_over_exec()))
        self._log.info("supervisor.renewing")
        try:
            if not self._stopping:
                program = [sys.executable, "-m", _MODULE, *arguments, _ROLL, f"{_SOCKETS}={descriptors}"]
                os.execv(sys.executable, program)  # noqa: S606 - our own
        except OSError as error:
            self._log.error("supervisor.not_renewed", reason=str(error))
        self._renewing = False
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True

    def _wait(self) -> None:
        """Until the next tick, a signal, or a worker's end."""
        poller = select.poll()
        poller.register(self._wake_read, select.POLLIN)
        for worker in self._pool.workers.values():
            poller.register(worker.fileno(), select.POLLIN)
        for descriptor, _ in poller.poll(1000 * TICK_S):
            if descriptor == self._wake_read:
                os.read(self._wake_read, 512)

    def _reconcile(self) -> None:
        self._snapshot.poll()
        for ended in self._pool.reap():
            if not self._pool.uses_again(ended):
                self._recover(ended.index)
        self._adopt(0.0)
        snapshot = self._snapshot.current
        if snapshot is not None:
            self._upkeep.settings = snapshot.listeners.settings
            count = self._count = self._fixed_workers or max(snapshot.listeners.workers, 1)
            self._pool.start_missing(count)
            for worker in list(self._pool.workers.values()):
                if worker.seat is not None and worker.seat >= count:
                    self._pool.drain(worker)
            if self._roll is not None:
                self._roll.step()
            self._pool.connect()
            self._pool.kill_hung()
            self._sockets.reconcile(snapshot.listeners.listeners, count)
            self._sockets.tell(self._pool.workers.values())
        version = snapshot.version if snapshot is not None else 0
        self._sockets.report(version, len(self._pool.workers), self._snapshot.error)

    def _recover_unowned(self) -> None:
        """What is left by workers that died while we were away; they may not be started again under their numbers."""
        for index in worker_indexes(self._home / "gateway" / "spool"):
            self._recover(index)

    def _recover(self, index: int) -> None:
        lock = take_worker_lock(self._home, index)
        if lock is None:
            return
        try:
            recover(self._home, index, self._log)
            forget_worker(self._home, index)
        except OSError as error:
            self._log.error("usage.not_recovered", worker=index, reason=str(error))
        finally:
            os.close(lock)

    def _drain(self) -> None:
        self._adopt(ANSWER_S)
        self._log.info("supervisor.draining", grace_s=self._grace_s, workers=len(self._pool.workers))
        indexes = list(self._pool.workers)
        for worker in self._pool.workers.values():
            self._pool.drain(worker)
        self._sockets.close()
        deadline = time.monotonic() + self._grace_s + _KILL_AFTER_S
        while self._pool.workers:
            if time.monotonic() > deadline:
                for worker in self._pool.workers.values():
                    self._log.error("worker.killed", worker=worker.index, worker_pid=worker.pid)
                    worker.signal(signal.SIGKILL)
                deadline = time.monotonic() + _KILL_AFTER_S
            self._wait()
            self._pool.reap()
        for index in indexes:
            self._recover(index)
            pid_path(self._home, index).unlink(missing_ok=True)
        self._log.info("supervisor.stopped")


def main() -> int:
    parser = argparse.ArgumentParser(prog="appliance-gateway-supervisor")
    parser.add_argument("--home", type=Path, required=True, help="APPLIANCE_HOME")
    parser.add_argument("--workers", type=int, help="instead of the number that the snapshot gives")
    parser.add_argument("--grace", type=float, default=30.0, help="seconds to finish requests in after SIGTERM")
    parser.add_argument(_ROLL, action="store_true", help="replace the workers that run by new ones")
    parser.add_argument(_SOCKETS, default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    home = arguments.home.resolve()
    log = Log(process="gateway-supervisor")
    prepare(home)
    if take_lock(home / "run" / "supervisor.lock") is None:  # held until the process ends
        log.error("supervisor.already_running", home=str(home))
        return _ALREADY_RUNNING
    pid_file = supervisor_pid_path(home)
    pid_file.write_text(f"{os.getpid()}\n")
    try:
        inherited = [int(each) for each in arguments.sockets.split(",") if each]
        supervisor = Supervisor(home, workers=arguments.workers, grace_s=arguments.grace, log=log)
        supervisor.run(roll=arguments.roll, inherited=inherited)
    finally:
        pid_file.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
