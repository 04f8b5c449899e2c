"""Engines that share a device start one after another: an engine measures what is free of its device while it loads,
and would take another's part for its own.

The one that took its place first goes first. Whose turn it is follows from what is committed: those before it that
hold a part of one of its devices, and have not loaded yet, have to be through.
"""

from __future__ import annotations

import asyncio
from typing import Final

from sqlalchemy import and_, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from appliance.kernel.progress import Progress
from appliance.services.machinery import Machinery
from appliance.services.states import ReplicaState
from appliance.services.tables import ReplicaRow
from gpu.tables import DeviceLeaseRow

_TICK_S: Final = 0.5


async def is_turn(session: AsyncSession, replica_id: str) -> bool:
    """Whether nobody who shares a device with the replica loads or gives it back, or was there before it and has yet
    to load.
    """
    own, other = aliased(DeviceLeaseRow), aliased(DeviceLeaseRow)
    came_before = or_(
        other.taken_at < own.taken_at, and_(other.taken_at == own.taken_at, other.replica_id < own.replica_id)
    )
    loading = ReplicaRow.state.in_([ReplicaState.starting.value, ReplicaState.stopping.value])
    yet_to_load = and_(ReplicaRow.state == ReplicaState.placed.value, came_before)
    query = (
        select(ReplicaRow.id)
        .join(other, other.replica_id == ReplicaRow.id)
        .join(own, and_(own.device_id == other.device_id, own.replica_id != other.replica_id))
        .where(own.replica_id == replica_id, or_(loading, yet_to_load))
        .limit(1)
    )
    return await session.scalar(query) is None


async def until_turn(machinery: Machinery, replica_id: str, _: Progress) -> None:
    while True:
        async with machinery.guarded.read() as session:
            if await is_turn(session, replica_id):
                return
        await asyncio.sleep(_TICK_S)
