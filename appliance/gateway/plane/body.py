"""Request bodies: of a declared length or chunked, bounded, and arriving at a minimum rate.

Each is bounded by its listener, and all that a worker holds at a time together by `BodyMemory`: whoever sends much
slowly, or waits in a queue with it, does not take the memory that the others need.
"""

from __future__ import annotations

from typing import Final

from appliance.gateway.plane.chunked import ChunkDecoder, MalformedChunk
from appliance.gateway.plane.errors import Refusal, bad_framing, body_too_large, unavailable
from appliance.gateway.plane.head import RequestHead
from appliance.gateway.plane.schemas.listeners import Listener
from appliance.gateway.plane.turns import Turns

MAX_CHUNKS: Final = 16_384
"""Of a chunked body, above one for each KiB: more are an attack on the decoder."""
CHUNKS_A_TURN: Final = 1024
MAX_HELD: Final = 256 * 1024 * 1024
"""Bytes of all bodies that one worker holds, from their first byte until their answers begin."""
_SMALL_PIECE: Final = 1024
_GIVEN_BACK: Final = 1024 * 1024
"""Bytes of a body that is dropped whose memory is given back in one turn: it costs as much as filling it again."""
SMALL: Final = 256 * 1024
"""The largest body (bytes) that counts as a small one."""


class BodyMemory:
    """What the bodies in one worker take; `held` never exceeds `limit` (bytes). An eighth of it is kept for small
    bodies, so that the few who send much do not keep out the many who send little.
    """

    __slots__ = ("_for_large", "held", "limit")

    def __init__(self, limit: int = MAX_HELD) -> None:
        self.limit = limit
        self._for_large = limit - limit // 8
        self.held = 0

    def check(self, size: int) -> None:
        """`Refusal` 503 if a body of `size` bytes has no room now."""
        if self.held + size > (self.limit if size <= SMALL else self._for_large):
            raise _no_room()

    def take(self, size: int, body: int) -> None:
        """`size` bytes more of a body that has `body` bytes with them; who takes gives back, once. `Refusal` 503 if
        there is no room: nothing was taken.
        """
        if self.held + size > (self.limit if body <= SMALL else self._for_large):
            refusal = _no_room()
            refusal.close = True  # what is still to come of the body is not read
            raise refusal
        self.held += size

    def give(self, size: int) -> None:
        self.held -= size


class BodyReader:
    """`deadline`, on the loop's clock, moves with what has arrived. `Refusal` 413 before more than `limit` bytes of a
    chunked body are kept (a declared length is checked before, by `check_length`), 503 if `memory` has no room, 400
    for a broken coding. Ends with `content` or `drop`.
    """

    __slots__ = (
        "_decoder",
        "_limit",
        "_listener",
        "_memory",
        "_pieces",
        "_remaining",
        "_started",
        "complete",
        "deadline",
        "more",
        "received",
    )

    def __init__(
        self, head: RequestHead, limit: int, listener: Listener, memory: BodyMemory, *, started: float
    ) -> None:
        self._limit = limit
        self._listener = listener
        self._memory = memory
        self._started = started
        self._pieces: list[bytes] = []
        self._decoder = ChunkDecoder(CHUNKS_A_TURN) if head.chunked else None
        self._remaining = head.content_length or 0
        self.received = 0
        """Bytes of the body so far; as many are taken of `memory`."""
        self.complete = False
        self.more = False
        """Whether a part is kept undecoded, for another turn: `feed` it nothing then."""
        self.deadline = started + listener.body_grace_s

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
            self._memory.take(len(payload), self.received + len(payload))
            self._keep(payload)
            self.received += len(payload)
            listener = self._listener
            self.deadline = self._started + listener.body_grace_s + self.received / listener.body_min_rate
        return rest

    def _keep(self, payload: bytes) -> None:
        """Small pieces are joined: whoever sends byte by byte takes no more memory than is counted."""
        pieces = self._pieces
        if pieces and len(payload) < _SMALL_PIECE and len(pieces[-1]) < _SMALL_PIECE:
            pieces[-1] += payload
        else:
            pieces.append(payload)

    def _decode(self, decoder: ChunkDecoder, data: bytes) -> tuple[bytes, bytes]:
        try:
            payload = decoder.feed(data)
        except MalformedChunk as error:
            raise bad_framing(str(error)) from None
        if self.received + len(payload) > self._limit:
            refusal = body_too_large(self._limit)
            refusal.close = True
            raise refusal
        if decoder.chunks > MAX_CHUNKS + (self.received >> 10):
            raise bad_framing("too many chunks")
        self.complete, self.more = decoder.done, decoder.more
        return payload, decoder.rest

    def content(self) -> bytes:
        """The whole body; what it took of the memory is now the caller's to give back."""
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)

    def drop(self, turns: Turns) -> None:
        """The body is of no use any more. What it took is given back at once, or of a large one in `turns`."""
        self.received = 0
        given = 0
        while self._pieces and given < _GIVEN_BACK:
            given += len(self._pieces.pop())
        self._memory.give(given)
        if self._pieces:
            turns.later(lambda: self.drop(turns))


def check_length(declared: int, limit: int, memory: BodyMemory) -> None:
    """`Refusal` 413 or 503 by the length alone, before anything of the body is read."""
    if declared > limit:
        raise body_too_large(limit)
    memory.check(declared)


def _no_room() -> Refusal:
    return unavailable("overloaded", "The gateway holds too many request bodies; try again shortly.", retry_after_s=1)
