"""Applying the planner's changes to one service, in one guarded transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from sqlalchemy import case, delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.gateway.operations import release_listener
from appliance.kernel.clock import Clock
from appliance.kernel.db import wake
from appliance.kernel.ids import new_id
from appliance.services.events import note
from appliance.services.machinery import Timing
from appliance.services.planner import Add, Change, Forget, Forgive, Retire, ServiceFacts, Show
from appliance.services.states import COMING_OR_UP, Phase, ReplicaState
from appliance.services.tables import DeploymentRow, ReplicaRow, ServiceRow
from appliance.services.transitions import SERVICES, SNAPSHOT, move
from tenants import budgets, quotas
from tenants.quotas import PLATFORM_SCOPE, Resource

ENDED_KEPT = 20
"""Ended replicas of a deployment that stay listed."""


async def apply(
    session: AsyncSession, clock: Clock, service: ServiceFacts, changes: Sequence[Change], shown: Show, timing: Timing
) -> None:
    """Make the changes and show the state, unless something else is desired by now: the next round plans anew."""
    desired = await session.scalar(select(ServiceRow.desired).where(ServiceRow.id == service.id))
    if desired != service.desired:
        return
    for change in changes:
        await _change(session, clock, service.id, change, timing)
    await _show(session, clock, service, shown)


async def _change(session: AsyncSession, clock: Clock, service_id: str, change: Change, timing: Timing) -> None:
    match change:
        case Add():
            await _add(session, clock, change)
        case Retire():
            await retire(session, clock, change, timing)
        case Forgive():
            await _forgive(session, change.deployment_id)
        case Forget():
            await _forget(session, service_id)
        case _:
            assert_never(change)


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


async def retire(session: AsyncSession, clock: Clock, change: Retire, timing: Timing) -> None:
    """Let a replica go, in whichever way its state asks for."""
    replica_id = change.replica_id
    replica = await session.get_one(ReplicaRow, replica_id)
    state = ReplicaState(replica.state)
    if change.reason and state in COMING_OR_UP:
        replica.reason = change.reason
        note(session, clock, replica.service_id, Phase.draining, change.reason, replica_id=replica_id)
    match state:
        case ReplicaState.pending:
            await move(session, clock, replica_id, state, ReplicaState.stopped, outcome=ReplicaState.stopped.value)
        case ReplicaState.placed | ReplicaState.starting:
            outcome = ReplicaState.stopped.value
            await move(
                session, clock, replica_id, state, ReplicaState.stopping, deadline=timing.stopping, outcome=outcome
            )
        case ReplicaState.joining | ReplicaState.ready:
            await move(session, clock, replica_id, state, ReplicaState.draining, deadline=timing.drain)
            message = "no new requests; running ones may finish"
            note(session, clock, replica.service_id, Phase.draining, message, replica_id=replica_id)
        case _:
            return


async def _forgive(session: AsyncSession, deployment_id: str) -> None:
    forgiven = update(DeploymentRow).where(DeploymentRow.id == deployment_id)
    await session.execute(forgiven.values(failures=0, next_start_at=None))


async def _forget(session: AsyncSession, service_id: str) -> None:
    """The end of a deleted service: its rows, its port, its counts."""
    service = await session.get_one(ServiceRow, service_id)
    await release_listener(session, service_id)
    await budgets.forget(session, service_id)
    await quotas.give_back(session, PLATFORM_SCOPE, Resource.services)
    await quotas.give_back(session, service.tenant_id, Resource.services)
    await session.execute(delete(ServiceRow).where(ServiceRow.id == service_id))
    wake(session, SNAPSHOT)


async def _show(session: AsyncSession, clock: Clock, service: ServiceFacts, shown: Show) -> None:
    """One conditional statement, so that a request that commits meanwhile is not overwritten with what was before."""
    since = case((ServiceRow.state == shown.state.value, ServiceRow.state_since), else_=clock.now())
    await session.execute(
        update(ServiceRow)
        .where(ServiceRow.id == service.id, ServiceRow.desired == service.desired.value)
        .values(state=shown.state.value, reason=shown.reason, state_since=since)
    )
