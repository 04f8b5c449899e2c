"""Seeded fleets and workloads whose sizes are those of common families of models.

A family takes what its 16-bit weights and a cache of keys and values take: a share of one large device, one device, or
a group. Sizes are bytes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Final, NamedTuple

from gpu.fragmentation import Size
from gpu.requests import PlacementRequest
from gpu.snapshot import ComputeSnapshot, DeviceView, NodeView, PoolView

GIB: Final = 1024**3
POOL: Final = PoolView("pol_bench", "default")


class Server(NamedTuple):
    """A kind of node: so many devices, `clique` of them linked by NVLink."""

    model: str
    devices: int
    memory_bytes: int
    clique: int


SERVERS: Final = (
    Server("H100 80GB", 8, 80 * GIB, 8),
    Server("A100 80GB", 8, 80 * GIB, 2),
    Server("L40S", 8, 48 * GIB, 1),
    Server("L4", 4, 24 * GIB, 1),
)


class Family(NamedTuple):
    """How a model is asked for: devices or a share, the bytes on each, and how often."""

    name: str
    devices: int
    share: int
    memory_bytes: int
    weight: int


FAMILIES: Final = (
    Family("Qwen2 0.5B", 1, 10, 2 * GIB, 10),
    Family("Llama-2 7B, small cache", 1, 25, 18 * GIB, 15),
    Family("Baichuan-2 7B", 1, 30, 20 * GIB, 15),
    Family("Llama-2 13B", 1, 50, 32 * GIB, 15),
    Family("Baichuan-2 13B", 1, 100, 36 * GIB, 10),
    Family("Yi-1.5 34B", 2, 100, 40 * GIB, 15),
    Family("Yi-1.5 34B, long context", 3, 100, 40 * GIB, 5),
    Family("Qwen2 72B", 4, 100, 44 * GIB, 10),
    Family("Qwen2 72B, long context", 8, 100, 60 * GIB, 5),
)
MIX: Final = tuple(Size(family.devices, family.share, family.weight) for family in FAMILIES)


def fleet(nodes: int, chance: random.Random) -> ComputeSnapshot:
    """So many empty nodes of the kinds above."""
    return ComputeSnapshot((POOL,), tuple(node(number, chance.choice(SERVERS)) for number in range(nodes)), MIX)


def node(number: int, server: Server) -> NodeView:
    id_ = f"nod_{number:05d}"
    return NodeView(
        id=id_,
        name=f"n{number:05d}",
        pool_id=POOL.id,
        cpus=128.0,
        memory_bytes=2048 * GIB,
        devices=tuple(
            DeviceView(
                id=f"dev_{number:05d}_{index}",
                node_id=id_,
                vendor="nvidia",
                model=server.model,
                index=index,
                uuid=f"GPU-{number}-{index}",
                memory_bytes=server.memory_bytes,
                domains=(index // server.clique, index // 4, index // 4),
            )
            for index in range(server.devices)
        ),
    )


class Event(NamedTuple):
    """A replica comes, or goes (`request` None)."""

    replica_id: str
    request: PlacementRequest | None


def request(family: Family) -> PlacementRequest:
    return PlacementRequest(
        pool_id=POOL.id,
        devices=family.devices,
        device_share=family.share,
        device_memory_bytes=family.memory_bytes,
        vendors=("nvidia",),
        cpus=4.0,
        memory_bytes=16 * GIB,
    )


def draw(chance: random.Random) -> Family:
    return chance.choices(FAMILIES, weights=[family.weight for family in FAMILIES])[0]


def arrivals(chance: random.Random, *, count: int, living: float) -> Iterator[Event]:
    """`count` replicas in turn, each living for an exponential time whose mean is `living` arrivals."""
    ends: list[tuple[float, str]] = []
    for number in range(count):
        gone = sorted(end for end in ends if end[0] <= number)
        ends = [end for end in ends if end[0] > number]
        yield from (Event(replica_id, None) for _, replica_id in gone)
        replica_id = f"rpl_{number:06d}"
        ends.append((number + chance.expovariate(1 / living), replica_id))
        yield Event(replica_id, request(draw(chance)))
