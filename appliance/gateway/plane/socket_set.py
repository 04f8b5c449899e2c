"""The listening sockets of the gateway, as the supervisor keeps them: one for each listener and seat of a worker.

A socket listens from the moment that a worker has it in hand: before that nothing could be lost with the supervisor,
nor wait for a worker that is still to start. From then on the supervisor's copy keeps the address bound and the accept
queue alive while the worker is replaced, and the worker's copy does while the supervisor is. When the supervisor
becomes another program it hands its copies on to itself (`keep_over_exec`, `inherit`), as a worker may die meanwhile.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from appliance.gateway.plane import control
from appliance.gateway.plane.listening import AddressUnavailable, bind_shared, is_at, listen, probe
from appliance.gateway.plane.log import Log
from appliance.gateway.plane.paths import listeners_report_path
from appliance.gateway.plane.pool import WorkerProcess
from appliance.gateway.plane.schemas.listeners import Listener, ListenersReport, ListenerStatus
from appliance.kernel.files import write_atomic

RETRY_S: Final = 1.0


class _Bound:
    """A listener with its sockets by seat."""

    __slots__ = ("error", "listener", "listening", "retry_at", "sockets")

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.sockets: dict[int, socket.socket] = {}
        self.listening = False
        """Whether a worker has, or had, any of them."""
        self.error: str | None = None
        self.retry_at = 0.0

    def close(self) -> None:
        for held in self.sockets.values():
            held.close()
        self.sockets.clear()
        self.listening = False


class SocketSet:
    def __init__(self, home: Path, log: Log) -> None:
        self._path = listeners_report_path(home)
        self._log = log
        self._bound: dict[str, _Bound] = {}
        self._spare: list[socket.socket] = []
        """Of the program before, until it is known what is desired."""
        self._workers = 0
        self._reported: ListenersReport | None = None

    def adopt(self, seat: int, listener: Listener, held: socket.socket) -> None:
        """One that a worker of the seat accepts from; it takes the place of one that was bound for the seat since."""
        bound = self._bound.setdefault(listener.id, _Bound(listener))
        if former := bound.sockets.pop(seat, None):
            former.close()
        bound.sockets[seat] = held
        bound.listening = True

    def keep_over_exec(self) -> list[int]:
        """Let the sockets outlive this program in its process; their descriptors. Children do not get them."""
        held = [each for bound in self._bound.values() for each in bound.sockets.values()]
        for each in held:
            each.set_inheritable(True)
        return [each.fileno() for each in held]

    def inherit(self, descriptors: Iterable[int]) -> None:
        """Take over what `keep_over_exec` kept, but for what came back from the workers."""
        known = {_inode(each) for bound in self._bound.values() for each in bound.sockets.values()}
        for descriptor in descriptors:
            try:
                spare = socket.socket(fileno=descriptor)
            except OSError as error:
                self._log.error("listener.not_inherited", descriptor=descriptor, reason=str(error))
                continue
            spare.set_inheritable(False)
            if _inode(spare) in known:
                spare.close()
            else:
                self._spare.append(spare)

    def reconcile(self, desired: Iterable[Listener], workers: int) -> None:
        """Bind what is missing, close what is not desired any more."""
        self._workers = workers
        wanted = {listener.id: listener for listener in desired}
        for listener_id, bound in list(self._bound.items()):
            listener = wanted.get(listener_id)
            if listener is None or (listener.host, listener.port) != (bound.listener.host, bound.listener.port):
                bound.close()
                del self._bound[listener_id]
                self._log.info("listener.released", listener=listener_id, port=bound.listener.port)
        for listener in wanted.values():
            bound = self._bound.setdefault(listener.id, _Bound(listener))
            bound.listener = listener
            for index in [index for index in bound.sockets if index >= workers]:
                bound.sockets.pop(index).close()
            if len(bound.sockets) < workers and time.monotonic() >= bound.retry_at:
                self._bind(bound, workers)
        for spare in self._spare:
            spare.close()
        self._spare.clear()

    def _bind(self, bound: _Bound, workers: int) -> None:
        listener = bound.listener
        self._take_spare(bound, workers)
        try:
            if not bound.sockets:
                probe(listener.host, listener.port)
            for index in range(workers):
                if index not in bound.sockets:
                    bound.sockets[index] = bind_shared(listener.host, listener.port)
        except AddressUnavailable as error:
            self._fail(bound, error)
            return
        bound.error = None
        self._log.info("listener.bound", listener=listener.id, host=listener.host, port=listener.port)

    def _take_spare(self, bound: _Bound, workers: int) -> None:
        for seat in range(workers):
            fitting = (each for each in self._spare if is_at(each, bound.listener.host, bound.listener.port))
            if seat not in bound.sockets and (spare := next(fitting, None)) is not None:
                self._spare.remove(spare)
                bound.sockets[seat] = spare

    def _fail(self, bound: _Bound, error: AddressUnavailable) -> None:
        bound.retry_at = time.monotonic() + RETRY_S
        if bound.error != error.strerror:
            self._log.error("listener.not_bound", listener=bound.listener.id, reason=error.strerror)
        bound.error = error.strerror

    def tell(self, workers: Iterable[WorkerProcess]) -> None:
        """Give each worker the sockets that it has not got, and take back what is gone."""
        for worker in workers:
            if worker.connection is None or worker.seat is None:
                continue
            gone = [
                listener_id
                for listener_id, told in worker.told.items()
                if (bound := self._bound.get(listener_id)) is None
                or worker.seat not in bound.sockets
                or (bound.listener.host, bound.listener.port) != (told.host, told.port)
            ]
            if gone and worker.send(control.Unlisten(gone)):
                for listener_id in gone:
                    del worker.told[listener_id]
            self._give(worker, worker.seat)

    def has_all(self, worker: WorkerProcess) -> bool:
        """Whether a worker accepts from every socket of its seat."""
        return worker.connection is not None and all(
            listener_id in worker.told for listener_id, bound in self._bound.items() if worker.seat in bound.sockets
        )

    def _give(self, worker: WorkerProcess, seat: int) -> None:
        missing = [
            bound
            for listener_id, bound in self._bound.items()
            if seat in bound.sockets and (listener_id not in worker.told or worker.told[listener_id] != bound.listener)
        ]
        for at in range(0, len(missing), control.BATCH):
            batch = missing[at : at + control.BATCH]
            message = control.Listen([bound.listener for bound in batch])
            if not worker.send(message, [bound.sockets[seat].fileno() for bound in batch]):
                return
            worker.told |= {bound.listener.id: bound.listener for bound in batch}
            for bound in batch:
                self._listen(bound, seat)

    def _listen(self, bound: _Bound, seat: int) -> None:
        """A worker has the socket. It is given up if another process listens there by now."""
        try:
            listen(bound.sockets[seat], bound.listener.host, bound.listener.port)
        except AddressUnavailable as error:
            bound.sockets.pop(seat).close()
            self._fail(bound, error)
        else:
            bound.listening = True

    def report(self, version: int, workers: int, snapshot_error: str) -> None:
        """Write `listeners.json` when it changed."""
        report = ListenersReport(
            version=version,
            supervisor_pid=os.getpid(),
            workers=workers,
            listeners=[
                ListenerStatus(
                    id=bound.listener.id,
                    host=bound.listener.host,
                    port=bound.listener.port,
                    bound=bound.listening and len(bound.sockets) >= self._workers,
                    error=bound.error,
                )
                for bound in self._bound.values()
            ],
            snapshot_error=snapshot_error or None,
        )
        if report == self._reported:
            return
        try:
            write_atomic(self._path, msgspec.json.encode(report))
        except OSError as error:
            self._log.error("report.not_written", reason=str(error))
            return
        self._reported = report

    def close(self) -> None:
        """Stop listening; the report goes with it."""
        for bound in self._bound.values():
            bound.close()
        self._bound.clear()
        self._path.unlink(missing_ok=True)


def _inode(each: socket.socket) -> int:
    """The same for all duplicates of one socket."""
    return os.fstat(each.fileno()).st_ino
