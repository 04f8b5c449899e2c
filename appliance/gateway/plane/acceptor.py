"""The listening sockets of one worker: accepting, TLS, handing duplicates back to the supervisor.

A listener that cannot be accepted on (its certificate is missing or wrong) is tried again until it can; if it is a
changed one, it goes on as it was until then.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Final, NamedTuple

from appliance.gateway.plane.certificates import Certificates, certificates_of
from appliance.gateway.plane.client_protocol import ClientConnection
from appliance.gateway.plane.connections import Bounded
from appliance.gateway.plane.context import Context
from appliance.gateway.plane.listening import BACKLOG
from appliance.gateway.plane.schemas.listeners import Listener
from appliance.gateway.plane.tls_transport import TlsTransport

_RELOAD_S: Final = 1.0


class _Accepting:
    """One listener that is being accepted on. `kept` is ours; the server has a duplicate."""

    __slots__ = ("certificates", "kept", "listener", "server")

    def __init__(
        self,
        listener: Listener,
        kept: socket.socket,
        server: asyncio.Server,
        certificates: Certificates | None,
    ) -> None:
        self.listener = listener
        self.kept = kept
        self.server = server
        self.certificates = certificates


class _Waiting(NamedTuple):
    """One that could not be accepted on so far, and why."""

    listener: Listener
    kept: socket.socket
    reason: str


class Acceptor:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._accepting: dict[str, _Accepting] = {}
        self._waiting: dict[str, _Waiting] = {}
        self._changing = asyncio.Lock()
        self._retrying: asyncio.Task[None] | None = None
        self._reload_at = 0.0

    def held(self) -> list[tuple[Listener, socket.socket]]:
        """One socket for each listener: those that it could not be accepted on yet, too."""
        held = {each.listener.id: (each.listener, each.kept) for each in self._accepting.values()}
        held |= {each.listener.id: (each.listener, each.kept) for each in self._waiting.values()}
        return list(held.values())

    async def add(self, listener: Listener, given: socket.socket) -> None:
        """Accept on `given`; it takes the place of the listener's former socket."""
        async with self._changing:
            self._forget_waiting(listener.id)
            await self._add(listener, given, "")

    async def _add(self, listener: Listener, given: socket.socket, known: str) -> None:
        """`known`: why it failed before, which is not told again."""
        try:
            certificates = certificates_of(listener)
            factory = protocol_factory(self._context, listener, certificates)
            server = await self._context.loop.create_server(factory, sock=given.dup(), backlog=BACKLOG)
        except OSError as error:
            reason = str(error)
            self._waiting[listener.id] = _Waiting(listener, given, reason)
            if reason != known:
                self._context.log.error(  # noqa: TRY400 - the reason says it all
                    "listener.failed", listener=listener.id, port=listener.port, reason=reason
                )
            return
        former = self._accepting.pop(listener.id, None)
        self._accepting[listener.id] = _Accepting(listener, given, server, certificates)
        if former is not None:
            former.server.close()
            former.kept.close()
        self._context.log.info("listener.accepting", listener=listener.id, host=listener.host, port=listener.port)

    async def _retry(self) -> None:
        async with self._changing:
            for listener, kept, reason in [self._waiting.pop(each) for each in list(self._waiting)]:
                await self._add(listener, kept, reason)

    async def remove(self, listener_id: str) -> None:
        """Accept what is queued, then no more."""
        async with self._changing:
            self._forget_waiting(listener_id)
            accepting = self._accepting.pop(listener_id, None)
            if accepting is None:
                return
            accepting.server.close()
            await self._accept_queued(accepting)
            accepting.kept.close()
        self._context.log.info("listener.closed", listener=listener_id)

    async def close(self) -> None:
        for listener_id in [*self._accepting, *self._waiting]:
            await self.remove(listener_id)

    def _forget_waiting(self, listener_id: str) -> None:
        if waiting := self._waiting.pop(listener_id, None):
            waiting.kept.close()

    def reload_certificates(self, now: float) -> None:
        """At most once a second: follow certificates that changed, and try again what could not be accepted on."""
        if now < self._reload_at:
            return
        self._reload_at = now + _RELOAD_S
        if self._waiting and (self._retrying is None or self._retrying.done()):
            self._retrying = self._context.loop.create_task(self._retry())
        for accepting in self._accepting.values():
            if accepting.certificates is None:
                continue
            try:
                if accepting.certificates.reload_if_changed():
                    self._context.log.info("certificate.reloaded", listener=accepting.listener.id)
            except OSError as error:
                self._context.log.error(  # noqa: TRY400 - the reason says it all
                    "certificate.rejected", listener=accepting.listener.id, reason=str(error)
                )

    async def _accept_queued(self, accepting: _Accepting) -> None:
        """Connections that the kernel has completed would be reset with the socket."""
        factory = protocol_factory(self._context, accepting.listener, accepting.certificates)
        while True:
            try:
                connection, _ = accepting.kept.accept()
            except OSError:
                return
            connection.setblocking(False)
            with contextlib.suppress(OSError):
                await self._context.loop.connect_accepted_socket(factory, connection)


def protocol_factory(
    context: Context, listener: Listener, certificates: Certificates | None
) -> Callable[[], asyncio.BaseProtocol]:
    """What the loop asks for each connection that it accepts."""

    def made() -> asyncio.BaseProtocol:
        connection = ClientConnection(context, listener)
        return connection if certificates is None else TlsTransport(context, certificates.context, connection)

    return lambda: Bounded(context.connections, made)
