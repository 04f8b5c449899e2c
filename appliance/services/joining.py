"""From `joining` to `ready`: what is shown as ready is known to every gateway worker.

Where a worker does not answer in time the replica becomes ready all the same: the others serve it.
"""

from __future__ import annotations

import asyncio

from appliance.kernel.crashpoints import reached
from appliance.services.events import note
from appliance.services.machinery import Machinery
from appliance.services.states import Phase, ReplicaState
from appliance.services.tables import ReplicaRow
from appliance.services.transitions import JOINING_DEADLINE, move

_PAUSE_S = 0.01


async def join(machinery: Machinery, replica_id: str) -> None:
    version = await machinery.publisher.publish()
    reached("replica.join_published")
    deadline = machinery.clock.monotonic() + JOINING_DEADLINE.total_seconds() / 2
    knows = machinery.acknowledgements.acknowledged
    while machinery.clock.monotonic() < deadline and not knows(version):  # noqa: ASYNC110 - shared memory
        await asyncio.sleep(_PAUSE_S)
    async with machinery.guarded.write() as session:
        now = machinery.clock.now()
        await move(session, machinery.clock, replica_id, ReplicaState.joining, ReplicaState.ready, ready_at=now)
        replica = await session.get_one(ReplicaRow, replica_id)
        took = (now - replica.created_at).total_seconds()
        note(
            session,
            machinery.clock,
            replica.service_id,
            Phase.ready,
            f"a first token came back and the gateways know, {took:.1f} s after the replica was created",
            replica_id=replica_id,
            detail={"seconds": round(took, 3)},
        )
