"""Applying the planner's changes to one service, in one guarded transaction."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.gateway.operations import release_listener
from appliance.kernel.clock import Clock
from appliance.kernel.db import wake
from appliance.kernel.ids import new_id
from appliance.services.events import note
from appliance.services.planner import Add, Change, Forget, Retire, ServiceFacts, Show
from appliance.services.states import Phase, ReplicaState
from appliance.services.tables import DeploymentRow, ReplicaRow, ServiceRow
from appliance.services.transitions import SERVICES, SNAPSHOT, STOPPING_MARGIN, move
from tenants import quotas
from tenants.quotas import PLATFORM_SCOPE, Resource

ENDED_KEPT = 20
"""Ended replicas of a deployment that stay listed."""


async def apply(session: AsyncSession, clock: Clock, service_id: str, change: Change, drain: timedelta) -> None:
    match change:
        case Add():
            await _add(session, clock, change)
        case Retire():
            await _retire(session, clock, change.replica_id, drain)
        case Forget():
            await _forget(session, service_id)


async def _add(session: AsyncSession, clock: Clock, change: Add) -> None:
    deployment = await session.get_one(DeploymentRow, change.deployment_id)
    await _prune(session, deployment.id)
    for _ in range(change.count):
        session.add(
            ReplicaRow(
                id=new_id("rpl"),
                service_id=deployment.service_id,
                deployment_id=deployment.id,
                tenant_id=deployment.tenant_id,
                generation=deployment.generation,
                state=ReplicaState.pending.value,
                reason="",
                exit=None,
                created_at=clock.now(),
            )
        )
    wake(session, SERVICES)


async def _prune(session: AsyncSession, deployment_id: str) -> None:
    """Of the replicas that have ended, the newest are kept for people to look at."""
    ended = select(ReplicaRow.id).where(ReplicaRow.deployment_id == deployment_id, ReplicaRow.ended_at.is_not(None))
    old = (await session.scalars(ended.order_by(ReplicaRow.id.desc()).offset(ENDED_KEPT))).all()
    await session.execute(delete(ReplicaRow).where(ReplicaRow.id.in_(old)))


async def _retire(session: AsyncSession, clock: Clock, replica_id: str, drain: timedelta) -> None:
    replica = await session.get_one(ReplicaRow, replica_id)
    state = ReplicaState(replica.state)
    match state:
        case ReplicaState.pending:
            await move(session, clock, replica_id, state, ReplicaState.stopped, outcome=ReplicaState.stopped.value)
        case ReplicaState.placed | ReplicaState.starting:
            outcome = ReplicaState.stopped.value
            await move(
                session, clock, replica_id, state, ReplicaState.stopping, deadline=STOPPING_MARGIN, outcome=outcome
            )
        case ReplicaState.joining | ReplicaState.ready:
            await move(session, clock, replica_id, state, ReplicaState.draining, deadline=drain)
            message = "no new requests; running ones may finish"
            note(session, clock, replica.service_id, Phase.draining, message, replica_id=replica_id)
        case _:
            return


async def _forget(session: AsyncSession, service_id: str) -> None:
    """The end of a deleted service: its rows, its port, its counts."""
    service = await session.get_one(ServiceRow, service_id)
    await release_listener(session, service_id)
    await quotas.give_back(session, PLATFORM_SCOPE, Resource.services)
    await quotas.give_back(session, service.tenant_id, Resource.services)
    await session.execute(delete(ServiceRow).where(ServiceRow.id == service_id))
    wake(session, SNAPSHOT)


async def show(session: AsyncSession, clock: Clock, service: ServiceFacts, show_: Show) -> None:
    """Write the observed state, unless something else is desired by now: then the next round knows better."""
    row = await session.get_one(ServiceRow, service.id)
    if row.desired != service.desired:
        return
    if row.state != show_.state.value:
        row.state_since = clock.now()
    row.state, row.reason = show_.state.value, show_.reason
