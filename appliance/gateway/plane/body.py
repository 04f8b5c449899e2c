"""Request bodies: of a declared length or chunked, bounded, and arriving at a minimum rate."""

from __future__ import annotations

from typing import Final

from appliance.gateway.plane.chunked import ChunkDecoder, MalformedChunk
from appliance.gateway.plane.errors import bad_framing, body_too_large
from appliance.gateway.plane.head import RequestHead

GRACE_S: Final = 15.0
MIN_RATE: Final = 16 * 1024
"""Bytes per second, on the average after the grace."""
MAX_CHUNKS: Final = 16_384
"""Of a chunked body, above one for each KiB: more are an attack on the decoder."""


class BodyReader:
    """`deadline`, on the loop's clock, moves with what has arrived. `Refusal` 413 before more than `limit` bytes are
    kept, 400 for a broken coding.
    """

    __slots__ = ("_decoder", "_limit", "_pieces", "_received", "_remaining", "_started", "complete", "deadline")

    def __init__(self, head: RequestHead, limit: int, *, started: float) -> None:
        self._limit = limit
        self._started = started
        self._pieces: list[bytes] = []
        self._received = 0
        self._decoder = ChunkDecoder() if head.chunked else None
        self._remaining = head.content_length or 0
        self.complete = False
        self.deadline = started + GRACE_S
        if self._remaining > limit:
            raise body_too_large(limit)

    def feed(self, data: bytes) -> bytes:
        """Take of `data` what is the body's and return the rest."""
        if self._decoder is not None:
            payload, rest = self._decode(self._decoder, data)
        else:
            payload = data[: self._remaining]
            rest = data[len(payload) :]
            self._remaining -= len(payload)
            self.complete = self._remaining == 0
        if payload:
            self._pieces.append(payload)
            self._received += len(payload)
            self.deadline = self._started + GRACE_S + self._received / MIN_RATE
        return rest

    def _decode(self, decoder: ChunkDecoder, data: bytes) -> tuple[bytes, bytes]:
        try:
            payload = decoder.feed(data)
        except MalformedChunk as error:
            raise bad_framing(str(error)) from None
        if self._received + len(payload) > self._limit:
            refusal = body_too_large(self._limit)
            refusal.close = True
            raise refusal
        if decoder.chunks > MAX_CHUNKS + (self._received >> 10):
            raise bad_framing("too many chunks")
        self.complete = decoder.done
        return payload, decoder.rest

    def content(self) -> bytes:
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
