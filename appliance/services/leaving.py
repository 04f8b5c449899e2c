"""How a replica goes: out of every gateway's snapshot first, then its process, then its leases.

Nothing is stopped before each live gateway worker acknowledged the version without it and reports zero requests in
flight, or the drain time is over; nothing is released before the launcher says that no process is left.
"""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from sqlalchemy import select

from appliance.kernel.crashpoints import reached
from appliance.services.events import note
from appliance.services.machinery import Machinery
from appliance.services.states import Phase, ReplicaState
from appliance.services.tables import ReplicaRow
from appliance.services.transitions import STOPPING_MARGIN, Overtaken, move
from gpu import leasing

_PAUSE_S = 0.05


async def drain(machinery: Machinery, replica_id: str) -> None:
    """From `draining` to `stopping`."""
    version = await machinery.publisher.publish()
    reached("replica.drain_published")
    deadline = await _deadline(machinery, replica_id)
    while machinery.clock.now() < deadline and not (  # noqa: ASYNC110 - the workers' status is shared memory
        machinery.acknowledgements.acknowledged(version) and not machinery.acknowledgements.in_flight([replica_id])
    ):
        await asyncio.sleep(_PAUSE_S)
    async with machinery.guarded.write() as session:
        await move(
            session,
            machinery.clock,
            replica_id,
            ReplicaState.draining,
            ReplicaState.stopping,
            deadline=timedelta(seconds=machinery.timing.stop_grace_s) + STOPPING_MARGIN,
            outcome=ReplicaState.stopped.value,
        )


async def stop(machinery: Machinery, replica_id: str) -> None:
    """From `stopping` to `stopped` or `failed`. Repeated by later rounds until the launcher says it is gone."""
    await machinery.launcher.stop(replica_id, grace_s=machinery.timing.stop_grace_s)
    reached("replica.process_stopped")
    await machinery.launcher.remove(replica_id)
    reached("replica.removed")
    async with machinery.guarded.write() as session:
        replica = await session.get_one(ReplicaRow, replica_id)
        outcome = ReplicaState(replica.outcome or ReplicaState.stopped)
        await move(session, machinery.clock, replica_id, ReplicaState.stopping, outcome)
        await leasing.release(session, replica_id)
        if outcome is ReplicaState.stopped:
            message = "the replica was stopped"
            note(session, machinery.clock, replica.service_id, Phase.stopped, message, replica_id=replica_id)


async def postpone(machinery: Machinery, replica_id: str) -> None:
    """A stop that outlived its deadline is told as an event and gets as much time again."""
    async with machinery.guarded.write() as session:
        replica = await session.get_one(ReplicaRow, replica_id)
        if replica.state != ReplicaState.stopping:
            return
        now = machinery.clock.now()
        replica.deadline_at = now + timedelta(seconds=machinery.timing.stop_grace_s) + STOPPING_MARGIN
        message = "the replica could not be stopped in time; the launcher is asked again"
        note(session, machinery.clock, replica.service_id, Phase.stopping, message, replica_id=replica_id)


async def _deadline(machinery: Machinery, replica_id: str) -> datetime:
    async with machinery.guarded.read() as session:
        query = select(ReplicaRow.deadline_at).where(ReplicaRow.id == replica_id, ReplicaRow.state == "draining")
        deadline = await session.scalar(query)
    if deadline is None:
        raise Overtaken(f"{replica_id} is not draining any more")
    return deadline
