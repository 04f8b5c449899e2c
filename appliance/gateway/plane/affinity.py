"""Which requests belong together, and on which replica: consistent hashing without any state.

A request's point is a number of 32 bits, made from the tenant and what its kin have in common: the beginning of the
prompt, a session that the client names, or the key. Workers and snapshots agree on it, and on the ring of replicas,
so a conversation finds the replica that has its prefix in its cache whichever worker it comes to. Points decide
nothing but speed: CRC-32 is enough (nginx hashes consistently with it), and whoever makes points collide is bounded
by the ring's bound on load.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from hashlib import blake2b
from math import log
from struct import Struct
from typing import TYPE_CHECKING, Final
from zlib import crc32

if TYPE_CHECKING:
    from appliance.gateway.plane.backends import Replica

PIECE: Final = 1024
"""Bytes at a prompt's beginning that tell it from others. They are about 256 tokens, which an engine computes anew in
some ten milliseconds: prompts that share less have no reason to meet, prompts that share more will.
"""

POINTS: Final = 128
"""Of each replica on a ring: shares then differ by about a tenth (one over the root of it)."""

_DIGEST: Final = Struct("<16I")
_MIX: Final = 0x9E3779B97F4A7C15
_64_BITS: Final = (1 << 64) - 1
_ROLE: Final = b'"role":'


def point_of(tenant_id: str, text: bytes) -> int:
    """Of requests that have all of `text` in common (a session, a key)."""
    return crc32(text, crc32(tenant_id.encode()))


def chat_point(tenant_id: str, messages: bytes) -> int:
    """Of a conversation, the same for all its turns. `messages`: its JSON as the client sent it.

    What precedes the assistant's first message is the same in all turns: the system prompt and the user's first
    message. Of both the first `PIECE` bytes count, since many conversations have long system prompts in common.
    """
    cut = _role(messages, b'"assistant"')
    if cut < 0:
        first = messages.rstrip()[:-1].rstrip()  # without the list's end, after which the next turn goes on
    else:
        first = messages[: max(messages.rfind(b"{", 0, cut), 0)].rstrip(b", \t\r\n")
    point = crc32(tenant_id.encode())
    if len(first) <= 2 * PIECE:
        return crc32(first, point)
    user = max(_role(first, b'"user"'), PIECE)
    return crc32(first[user : user + PIECE], crc32(first[:PIECE], point))


def text_point(tenant_id: str, prompt: bytes) -> int:
    """Of a prompt that is a text (or texts, or tokens). `prompt`: its JSON as the client sent it. It cannot be told
    where a conversation in one text began, so its point is settled once it is longer than `PIECE`.
    """
    return crc32(prompt[:PIECE], crc32(tenant_id.encode()))


def _role(messages: bytes, name: bytes) -> int:
    """Where a message's role is `name` (quoted) for the first time, or -1. What looks so within a string does not: its
    quotes are escaped.
    """
    at = messages.find(name)
    while at >= 0 and not messages[max(at - 8, 0) : at].rstrip().endswith(_ROLE):
        at = messages.find(name, at + 1)
    return at


def seed_of(identifier: str) -> int:
    """What a deployment's share of the points is drawn with."""
    return int.from_bytes(blake2b(identifier.encode(), digest_size=8).digest(), "little")


def distance(point: int, seed: int, weight: float) -> float:
    """The deployment with the least is the point's: each gets points in proportion to its weight, and a changed
    weight moves no more of them than it must (weighted rendezvous hashing).
    """
    mixed = ((point + 1) * _MIX ^ seed) & _64_BITS
    mixed = ((mixed ^ mixed >> 32) * _MIX) & _64_BITS
    mixed = ((mixed ^ mixed >> 29) * _MIX) & _64_BITS
    return -log(((mixed >> 11) + 1) / (1 << 53)) / weight


class Ring:
    """The replicas of one deployment, each at many points: a point is the replica's that comes next. One replica more
    or less moves the points that it gets or had, and no others.
    """

    __slots__ = ("__weakref__", "_owners", "_points", "replicas")

    def __init__(self, replicas: Sequence[Replica]) -> None:
        self.replicas = tuple(replicas)
        in_order = sorted(replicas, key=lambda replica: replica.id)
        placed = [point << 16 | index for index, replica in enumerate(in_order) for point in _points(replica.id)]
        placed.sort()
        self._points = [place >> 16 for place in placed]
        self._owners = [in_order[place & 0xFFFF] for place in placed]

    def next(self, point: int, eligible: Sequence[Replica], most: float) -> Replica:
        """The first from `point` on that is among `eligible` with fewer than `most` in flight; one must be."""
        owners = self._owners
        start = bisect_right(self._points, point)
        for at in range(start - len(owners), start):
            owner = owners[at]
            if owner.in_flight < most and owner in eligible:
                return owner
        raise ValueError("no replica may take the request")


def _points(replica_id: str) -> list[int]:
    points: list[int] = []
    for block in range(POINTS // 16):
        points += _DIGEST.unpack(blake2b(b"%d:%b" % (block, replica_id.encode())).digest())
    return points
