"""A client's connection below HTTP: what is written to it, when it is read, and how it ends.

Both directions are held back: while the client does not read (`writing_paused`) its owner must produce nothing more,
and `pause_reading` stops the kernel from handing over what it sends. An end is one of three: `close` sends what is
written first, `linger` also reads and drops what still comes, so that an answer is not destroyed by a reset before
the client has read it, `abort` drops everything.
"""

from __future__ import annotations

import asyncio
from typing import Final

from appliance.gateway.plane.connections import peer_of
from appliance.gateway.plane.context import Context

LINGER_S: Final = 2.0
"""How long what a refused client still sends is read and dropped."""
LINGER_BYTES: Final = 1024 * 1024
"""How much of it: a client that sends on regardless is not read any more, and is cut at the end of `LINGER_S`."""
CLOSE_S: Final = 10.0
"""How long the last bytes of an answer may take to be read by the client."""
WRITE_HIGH: Final = 64 * 1024
"""Bytes waiting to be sent above which the client counts as one that does not read."""


class Connection(asyncio.Protocol):
    """`deadline` is on the loop's clock, in seconds; `check_deadline` of the subclass is called when it is over.
    `peer` is the client's IP address, an IPv4 one always in its own form.
    """

    __slots__ = (
        "_context",
        "_dropped",
        "_ending",
        "_reading_paused",
        "_transport",
        "_writing_paused",
        "deadline",
        "peer",
    )

    def __init__(self, context: Context, idle_s: float) -> None:
        self._context = context
        self._transport: asyncio.Transport | None = None
        self._reading_paused = False
        self._writing_paused = False
        self._ending = False
        """Nothing that comes is read any more."""
        self._dropped = 0
        self.deadline = context.now() + idle_s
        self.peer = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment] # a stream's transport has both directions
        transport.set_write_buffer_limits(high=WRITE_HIGH)  # type: ignore[attr-defined] # as above
        self.peer = peer_of(transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - however it came about
        self._transport = None
        self._ending = True

    def check_deadline(self, now: float) -> None:
        raise NotImplementedError

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    # Reading

    def pause_reading(self) -> None:
        # The loop refuses to change a transport whose handle is closed but whose loss it has not told yet.
        if self._transport is not None and not self._reading_paused and not self._transport.is_closing():
            self._reading_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and self._reading_paused and not self._transport.is_closing():
            self._reading_paused = False
            self._transport.resume_reading()

    def drop(self, data: bytes) -> None:
        """Take what comes behind the end, up to a bound."""
        self._dropped += len(data)
        if self._dropped > LINGER_BYTES:
            self.pause_reading()

    # The end

    def linger(self) -> None:
        """Send what is written and end that direction; drop what still comes until the client ends, too."""
        self._ending = True
        self.deadline = self._context.now() + LINGER_S
        if self._transport is None:
            return
        self.resume_reading()
        if self._transport.is_closing():
            return
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self.close()

    def close(self) -> None:
        """Send what is written, then end."""
        self._ending = True
        self.deadline = self._context.now() + CLOSE_S
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        self._ending = True
        if self._transport is not None:
            self._transport.abort()
