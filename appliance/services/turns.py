"""Engines that share a device start one after another: an engine measures what is free of its device while it loads,
and would take another's part for its own.

Who has its image and its model ready stands in line (`services.line`); who still gets them keeps nobody waiting. It is
a replica's turn when nobody who shares a device with it loads or gives it back, and nobody of them is ahead in the
line, which it leaves once it is committed that it starts. An engine whose start was not committed, before a crash or
for want of the database, is known to the launcher: all others wait for it, and it for nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from sqlalchemy import and_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from appliance.kernel.progress import Progress
from appliance.services.machinery import Machinery
from appliance.services.states import ReplicaState
from appliance.services.tables import ReplicaRow
from gpu.tables import DeviceLeaseRow

_TICK_S: Final = 0.5
_LOADING: Final = frozenset({ReplicaState.starting.value, ReplicaState.stopping.value})


async def is_turn(machinery: Machinery, replica_id: str) -> bool:
    async with machinery.guarded.read() as session:
        sharing = await _sharing(session, replica_id)
    if not sharing:
        return True
    running = await _running(machinery)
    if replica_id in running:
        return True  # it loads already, and those ahead of it wait for it
    if not _LOADING.isdisjoint(sharing.values()) or not machinery.line.ahead_of(replica_id).isdisjoint(sharing):
        return False
    yet_to_load = {other for other, state in sharing.items() if state == ReplicaState.placed.value}
    return yet_to_load.isdisjoint(running)


async def until_turn(machinery: Machinery, replica_id: str, _: Progress) -> None:
    while not await is_turn(machinery, replica_id):  # noqa: ASYNC110 - it is the database that is asked
        await asyncio.sleep(_TICK_S)


async def _sharing(session: AsyncSession, replica_id: str) -> Mapping[str, str]:
    """The states of the other replicas that hold a part of one of its devices."""
    own, other = aliased(DeviceLeaseRow), aliased(DeviceLeaseRow)
    query = (
        select(ReplicaRow.id, ReplicaRow.state)
        .join(other, other.replica_id == ReplicaRow.id)
        .join(own, and_(own.device_id == other.device_id, own.replica_id != other.replica_id))
        .where(own.replica_id == replica_id)
    )
    return dict((await session.execute(query)).all())


async def _running(machinery: Machinery) -> frozenset[str]:
    """Raises `LauncherUnavailable` where it is not known."""
    found = await machinery.launcher.list()
    return frozenset(replica.replica_id for replica in found if replica.exit is None)
