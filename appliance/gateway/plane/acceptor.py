"""The listening sockets of one worker: accepting, TLS, handing duplicates back to the supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from pathlib import Path

from appliance.gateway.plane.client_protocol import connection_factory
from appliance.gateway.plane.context import Context
from appliance.gateway.plane.listening import BACKLOG
from appliance.gateway.plane.schemas import Listener, TlsFiles

_RELOAD_S = 1.0
_HANDSHAKE_S = 10.0


class Certificates:
    """A TLS context whose certificate follows its files. New handshakes get the new one, connections stay."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._seen = self._identity()
        self.context = self._load()

    def reload_if_changed(self) -> bool:
        """`OSError` (with `ssl.SSLError`) if the new files cannot be used; the old certificate stays."""
        seen = self._identity()
        if seen == self._seen:
            return False
        self._seen = seen
        self._load()  # a pair that does not match must not half replace the one in use
        self.context.load_cert_chain(self._files.certificate, self._files.key)
        return True

    def _identity(self) -> tuple[int, ...]:
        parts: list[int] = []
        for name in (self._files.certificate, self._files.key):
            with contextlib.suppress(FileNotFoundError):
                found = Path(name).stat()
                parts += [found.st_ino, found.st_mtime_ns, found.st_size]
        return tuple(parts)

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(self._files.certificate, self._files.key)
        return context


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


class Acceptor:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._accepting: dict[str, _Accepting] = {}
        self._reload_at = 0.0

    def held(self) -> list[tuple[Listener, socket.socket]]:
        return [(accepting.listener, accepting.kept) for accepting in self._accepting.values()]

    async def add(self, listener: Listener, given: socket.socket) -> None:
        """Accept on `given`; it takes the place of the listener's former socket."""
        certificates: Certificates | None = None
        try:
            certificates = Certificates(listener.tls) if listener.tls is not None else None
            server = await self._context.loop.create_server(
                connection_factory(self._context, listener),
                sock=given.dup(),
                ssl=certificates.context if certificates is not None else None,
                backlog=BACKLOG,
                ssl_handshake_timeout=_HANDSHAKE_S if certificates is not None else None,
            )
        except OSError as error:
            self._context.log.error(  # noqa: TRY400 - the reason says it all
                "listener.failed", listener=listener.id, port=listener.port, reason=str(error)
            )
            given.close()
            return
        former = self._accepting.pop(listener.id, None)
        self._accepting[listener.id] = _Accepting(listener, given, server, certificates)
        if former is not None:
            former.server.close()
            former.kept.close()
        self._context.log.info("listener.accepting", listener=listener.id, host=listener.host, port=listener.port)

    async def remove(self, listener_id: str) -> None:
        """Accept what is queued, then no more."""
        accepting = self._accepting.pop(listener_id, None)
        if accepting is None:
            return
        accepting.server.close()
        await self._accept_queued(accepting)
        accepting.kept.close()
        self._context.log.info("listener.closed", listener=listener_id)

    async def close(self) -> None:
        for listener_id in list(self._accepting):
            await self.remove(listener_id)

    def reload_certificates(self, now: float) -> None:
        if now < self._reload_at:
            return
        self._reload_at = now + _RELOAD_S
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
        factory = connection_factory(self._context, accepting.listener)
        tls = accepting.certificates.context if accepting.certificates is not None else None
        while True:
            try:
                connection, _ = accepting.kept.accept()
            except OSError:
                return
            connection.setblocking(False)
            with contextlib.suppress(OSError):
                await self._context.loop.connect_accepted_socket(
                    factory, connection, ssl=tls, ssl_handshake_timeout=_HANDSHAKE_S if tls is not None else None
                )
