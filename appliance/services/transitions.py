"""Moving one replica from one state to the next: conditional, so that a writer who came late changes nothing."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.clock import Clock
from appliance.kernel.db import wake
from appliance.services.states import ENDED, REPLICA_TRANSITIONS, SERVING, ReplicaState
from appliance.services.tables import ReplicaRow

SERVICES = "services"
SNAPSHOT = "snapshot"
PLACED_DEADLINE = timedelta(seconds=120)
JOINING_DEADLINE = timedelta(seconds=10)
STOPPING_MARGIN = timedelta(seconds=30)


class Overtaken(Exception):
    """The replica is no longer in the state that the change was decided in; the next round decides anew."""


async def move(
    session: AsyncSession,
    clock: Clock,
    replica_id: str,
    came_from: ReplicaState,
    to: ReplicaState,
    *,
    deadline: timedelta | None = None,
    **values: Any,
) -> None:
    """Change the state and `values`; raise `Overtaken` if the replica is not in `came_from` any more."""
    if to not in REPLICA_TRANSITIONS[came_from]:
        raise ValueError(f"a replica does not go from {came_from} to {to}")
    now = clock.now()
    if to in ENDED:
        values["ended_at"] = now
    changed = await session.execute(
        update(ReplicaRow)
        .where(ReplicaRow.id == replica_id, ReplicaRow.state == came_from.value)
        .values(state=to.value, deadline_at=now + deadline if deadline else None, **values)
    )
    if not changed.rowcount:  # type: ignore[attr-defined]  # the result of an UPDATE is a CursorResult
        raise Overtaken(f"{replica_id} is not {came_from} any more")
    wake(session, SERVICES)
    if (came_from in SERVING) is not (to in SERVING):
        wake(session, SNAPSHOT)
