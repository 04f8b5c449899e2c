"""TLS of one client's connection, over the loop's plain transport.

The event loop's own TLS keeps a read buffer of 256 KiB for every connection that was once busy. Here plain text and
cipher text go through two buffers that all connections of the process share (the loop fills one, and it is emptied
before anything else runs), in pieces of a record's size. So an idle connection holds little more than OpenSSL's
state, whatever went over it before. All that is written is encrypted at once and waits, if it has to, in the plain
transport's buffer: the bounds of that one are the connection's. What TLS itself answers (to a change of keys) goes
there, too, and nobody above hears of it: a peer that asks and does not read is not read either.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Any, Final

from appliance.gateway.plane.connection import Connection
from appliance.gateway.plane.context import Context

HANDSHAKE_S: Final = 10.0
_RECORD: Final = 16 * 1024
"""The most plain text of one record. A memory BIO keeps the size it once had: what goes into it is cut to this."""
_RECEIVED: Final = memoryview(bytearray(256 * 1024))
_PLAIN: Final = memoryview(bytearray(len(_RECEIVED) + 2 * _RECORD))
"""Room for the plain text of all that was received, and of a record's beginning that had been received before."""


class TlsTransport(asyncio.Transport, asyncio.BufferedProtocol):
    """Protocol of the plain transport below and transport of the connection above. The latter is told of being made
    before the handshake, so that its deadline bounds the handshake, too.
    """

    __slots__ = (
        "_above",
        "_above_reads",
        "_backed_up",
        "_below",
        "_context",
        "_established",
        "_held_back",
        "_idle_deadline",
        "_incoming",
        "_outgoing",
        "_sent_end",
        "_tls",
    )

    def __init__(self, context: Context, tls: ssl.SSLContext, above: Connection) -> None:
        super().__init__()
        self._context = context
        self._above = above
        self._below: asyncio.Transport | None = None
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = tls.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._established = False
        self._sent_end = False
        """Nothing more is written, and what still comes is not decrypted."""
        self._idle_deadline = above.deadline
        self._backed_up = False
        """The peer does not read: more than the bound waits to be sent."""
        self._held_back = False
        """It is not read because of that; else it is as the connection above wants it."""
        self._above_reads = True

    # asyncio.Protocol, called by the plain transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._below = transport  # type: ignore[assignment] # a stream's transport has both directions
        self._above.connection_made(self)
        self._above.deadline = self._context.now() + HANDSHAKE_S

    def connection_lost(self, exc: Exception | None) -> None:
        self._below = None
        self._above.connection_lost(exc)

    def pause_writing(self) -> None:
        self._backed_up = True
        self._above.pause_writing()

    def resume_writing(self) -> None:
        self._backed_up = False
        if self._held_back:
            self._held_back = False
            if self._above_reads:
                self.resume_reading()
        self._above.resume_writing()

    def eof_received(self) -> None:
        """With or without the peer's close_notify: HTTP knows by itself whether a request is whole."""
        self._above.eof_received()
        self.close()

    def get_buffer(self, _: int) -> memoryview:
        return _RECEIVED

    def buffer_updated(self, count: int) -> None:
        received = _RECEIVED[:count]
        if self._sent_end:
            self._above.data_received(bytes(received))  # which counts and drops it
            return
        try:
            size, ended = self._decrypt(received)
        except ssl.SSLError:
            self._fail()
            return
        if self._outgoing.pending:  # of a handshake, or the answer to a change of keys
            self._flush()
            if self._backed_up and self._below is not None and not self._below.is_closing():
                self._held_back = True
                self._below.pause_reading()
        if size:
            self._above.data_received(bytes(_PLAIN[:size]))
        if ended:
            self.eof_received()

    def _decrypt(self, received: memoryview) -> tuple[int, bool]:
        """The size of the plain text that is in `_PLAIN` now, and whether the peer's close_notify was there.
        `ssl.SSLError` if it is no TLS.
        """
        incoming, read, size = self._incoming, self._tls.read, 0
        for at in range(0, len(received), _RECORD):
            incoming.write(received[at : at + _RECORD])
            try:
                if not self._established:
                    self._handshake()
                while incoming.pending:
                    count: int = read(_RECORD, _PLAIN[size:])  # type: ignore[assignment] # with a buffer
                    if not count:
                        return size, True
                    size += count
            except ssl.SSLWantReadError:
                continue  # a record that is not whole yet
        return size, False

    def _handshake(self) -> None:
        self._tls.do_handshake()
        self._established = True
        self._above.deadline = self._idle_deadline

    def _fail(self) -> None:
        """Tell the peer what is wrong, as far as TLS has an alert for it, and end."""
        if not self._established:
            self._context.metrics.refused("tls_handshake_failed")
        self._sent_end = True
        self._flush()
        if self._below is not None:
            self._below.close()

    def _flush(self) -> None:
        if self._below is not None and self._outgoing.pending and not self._below.is_closing():
            self._below.write(self._outgoing.read())

    # asyncio.Transport, called by the connection above

    def write(self, data: bytes | bytearray | memoryview) -> None:
        below = self._below
        if below is None or self._sent_end:
            return
        if len(data) <= _RECORD:
            self._tls.write(data)
            below.write(self._outgoing.read())
            return
        records: list[bytes] = []
        with memoryview(data) as whole:
            for at in range(0, len(whole), _RECORD):
                self._tls.write(whole[at : at + _RECORD])
                records.append(self._outgoing.read())
        below.writelines(records)

    def write_eof(self) -> None:
        """End the sending direction; what the peer still sends is passed on undecrypted, to be dropped."""
        if self._below is not None:
            self._end()
            self._below.write_eof()

    def can_write_eof(self) -> bool:
        return True

    def _end(self) -> None:
        if self._sent_end:
            return
        self._sent_end = True
        with contextlib.suppress(ssl.SSLError):  # the peer's own close_notify is not waited for
            self._tls.unwrap()
        self._flush()

    def close(self) -> None:
        if self._below is None:
            return
        if self._established:
            self._end()
            self._below.close()
        else:
            self._below.abort()

    def abort(self) -> None:
        if self._below is not None:
            self._below.abort()

    def is_closing(self) -> bool:
        return self._below is None or self._below.is_closing()

    def pause_reading(self) -> None:
        self._above_reads = False
        if self._below is not None:
            self._below.pause_reading()

    def resume_reading(self) -> None:
        self._above_reads = True
        if self._below is not None and not self._held_back and not self._below.is_closing():
            self._below.resume_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if self._below is not None:
            self._below.set_write_buffer_limits(high, low)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default if self._below is None else self._below.get_extra_info(name, default)
