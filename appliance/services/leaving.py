"""How a replica goes: out of every gateway's snapshot first, then its process, then its leases.

Nothing is stopped before each live gateway worker acknowledged the version without it and reports zero requests in
flight, or the drain time is over; nothing is released before the launcher says that no process is left.
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Final

from sqlalchemy import select

from appliance.kernel.crashpoints import reached
from appliance.services import metering
from appliance.services.events import note
from appliance.services.machinery import Machinery
from appliance.services.states import Phase, ReplicaState
from appliance.services.tables import ReplicaRow
from appliance.services.transitions import Overtaken, move

_PAUSE_S = 0.05
POSTPONED: Final = {
    ReplicaState.joining: (
        Phase.warming_up,
        "the gateways could not be told of the replica in time; they are told again",
    ),
    ReplicaState.stopping: (Phase.stopping, "the replica could not be stopped in time; the launcher is asked again"),
}
"""States that are left only when someone else does his part, and what is told where that takes too long."""


async def drain(machinery: Machinery, replica_id: str) -> None:
    """From `draining` to `stopping`."""
    version = await machinery.publisher.publish()
    reached("replica.drain_published")
    deadline = await _deadline(machinery, replica_id)
    while machinery.clock.now() < deadline and not (  # noqa: ASYNC110 - the workers' status is shared memory
        machinery.acknowledgements.acknowledged(version) and not machinery.acknowledgements.in_flight([replica_id])
    ):
        await asyncio.sleep(_PAUSE_S)
    await end_drain(machinery, replica_id)


async def end_drain(machinery: Machinery, replica_id: str) -> None:
    async with machinery.guarded.write() as session:
        await move(
            session,
            machinery.clock,
            replica_id,
            ReplicaState.draining,
            ReplicaState.stopping,
            deadline=machinery.timing.stopping,
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
        await metering.release(session, machinery.clock, [replica_id])
        if outcome is ReplicaState.stopped:
            message = "the replica was stopped"
            note(session, machinery.clock, replica.service_id, Phase.stopped, message, replica_id=replica_id)


async def postpone(machinery: Machinery, replica_id: str, state: ReplicaState) -> None:
    """What outlived the deadline of one of the `POSTPONED` states is told as an event and gets more time."""
    phase, message = POSTPONED[state]
    async with machinery.guarded.write() as session:
        replica = await session.get_one(ReplicaRow, replica_id)
        if replica.state != state:
            return
        replica.deadline_at = machinery.clock.now() + machinery.timing.stopping
        note(session, machinery.clock, replica.service_id, phase, message, replica_id=replica_id)


async def _deadline(machinery: Machinery, replica_id: str) -> datetime:
    async with machinery.guarded.read() as session:
        query = select(ReplicaRow.deadline_at).where(ReplicaRow.id == replica_id, ReplicaRow.state == "draining")
        deadline = await session.scalar(query)
    if deadline is None:
        raise Overtaken(f"{replica_id} is not draining any more")
    return deadline
