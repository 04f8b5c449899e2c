"""The worker's end of the control socket."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path

from appliance.gateway.plane import control
from appliance.gateway.plane.acceptor import Acceptor
from appliance.gateway.plane.log import Log
from appliance.gateway.plane.paths import control_path


class ControlServer:
    """Takes one supervisor at a time; a later connection takes the earlier one's place."""

    def __init__(
        self,
        home: Path,
        index: int,
        loop: asyncio.AbstractEventLoop,
        acceptor: Acceptor,
        *,
        drain: Callable[[float], None],
        log: Log,
    ) -> None:
        self._path = control_path(home, index)
        self._loop = loop
        self._acceptor = acceptor
        self._drain = drain
        self._log = log
        self._server: socket.socket | None = None
        self._connection: socket.socket | None = None
        self._messages: asyncio.Queue[tuple[socket.socket, control.ToWorker, list[int]]] = asyncio.Queue()
        self._serving: asyncio.Task[None] | None = None
        self.draining = False
        """Told to a supervisor, which then gives the worker no sockets any more."""

    def start(self) -> None:
        self._server = control.listen(self._path)
        self._loop.add_reader(self._server, self._accept)
        self._serving = self._loop.create_task(self._serve())

    def close(self) -> None:
        self._disconnect()
        if self._serving is not None:
            self._serving.cancel()
        if self._server is not None:
            self._loop.remove_reader(self._server)
            self._server.close()
            self._path.unlink(missing_ok=True)

    def _accept(self) -> None:
        if self._server is None:
            return
        try:
            connection, _ = self._server.accept()
        except OSError:
            return
        while self._connection is not None and self._read():
            """What the supervisor before said last counts."""
        self._disconnect()
        connection.setblocking(False)
        self._connection = connection
        self._loop.add_reader(connection, self._read)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._loop.remove_reader(self._connection)
            self._connection.close()
            self._connection = None

    def _read(self) -> bool:
        """Take one message; whether there was one."""
        connection = self._connection
        if connection is None:
            return False
        try:
            received = control.receive_to_worker(connection)
        except BlockingIOError:
            return False
        except (OSError, ValueError) as error:
            self._log.error("control.failed", reason=str(error))
            received = None
        if received is None:
            self._disconnect()
            return False
        message, descriptors = received
        self._messages.put_nowait((connection, message, descriptors))
        return True

    async def _serve(self) -> None:
        """One message after the other, in order."""
        while True:
            connection, message, descriptors = await self._messages.get()
            match message:
                case control.Hello():
                    self._answer(connection)
                case control.Listen(listeners):
                    for listener, descriptor in zip(listeners, descriptors, strict=True):
                        await self._acceptor.add(listener, socket.socket(fileno=descriptor))
                case control.Unlisten(ids):
                    for listener_id in ids:
                        await self._acceptor.remove(listener_id)
                case control.Drain(grace_s):
                    self._drain(grace_s)

    def _answer(self, connection: socket.socket) -> None:
        held = self._acceptor.held()
        batches = [held[at : at + control.BATCH] for at in range(0, len(held), control.BATCH)] or [[]]
        for number, batch in enumerate(batches, start=1):
            answer = control.Held(
                pid=os.getpid(),
                draining=self.draining,
                last=number == len(batches),
                listeners=[listener for listener, _ in batch],
            )
            try:
                control.send(connection, answer, [kept.fileno() for _, kept in batch])
            except OSError as error:
                self._log.error("control.failed", reason=str(error))
                return
