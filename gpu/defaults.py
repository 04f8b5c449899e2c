"""What a fresh installation has: the pool `default` and flavors for the usual sizes."""

from __future__ import annotations

from typing import Final

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.clock import Clock
from appliance.kernel.ids import new_id
from gpu.tables import FlavorRow, PoolRow

DEFAULT_POOL: Final = "default"
_GIB: Final = 1024**3
_FLAVORS: Final = (
    # name, devices, CPUs, memory and temporary storage in GiB, description
    ("cpu-small", 0, 1, 2, 1, "Without a device: demo and very small models"),
    ("cpu-medium", 0, 4, 8, 4, "Without a device: models up to about 1 B parameters"),
    ("cpu-large", 0, 16, 32, 16, "Without a device: models up to about 7 B parameters, slowly"),
    ("gpu-1", 1, 4, 16, 8, "One whole device"),
    ("gpu-2", 2, 8, 32, 16, "Two equal devices of one node: up to 30 B parameters"),
    ("gpu-4", 4, 16, 64, 32, "Four equal devices of one node: 30 to 70 B parameters"),
    ("gpu-8", 8, 32, 128, 64, "Eight equal devices of one node: more than 70 B parameters"),
)


async def pool_for_new_node(session: AsyncSession, clock: Clock) -> str:
    """The id of the pool that a new node joins: `default`, or the oldest; made with the flavors if there is none."""
    pools = (await session.execute(select(PoolRow.id, PoolRow.name).order_by(PoolRow.id))).all()
    if not pools:
        return await _bootstrap(session, clock)
    return next((pool_id for pool_id, name in pools if name == DEFAULT_POOL), pools[0][0])


async def _bootstrap(session: AsyncSession, clock: Clock) -> str:
    now = clock.now()
    pool = PoolRow(
        id=new_id("pol"), name=DEFAULT_POOL, description="Every node that was not put elsewhere", created_at=now
    )
    session.add(pool)
    for name, devices, cpus, memory, tmp, description in _FLAVORS:
        session.add(
            FlavorRow(
                id=new_id("flv"),
                name=name,
                description=description,
                device_vendor=None,
                devices=devices,
                cpus=float(cpus),
                memory_bytes=memory * _GIB,
                tmp_bytes=tmp * _GIB,
                created_at=now,
            )
        )
    await session.flush()
    return pool.id
