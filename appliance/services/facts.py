"""Reading what the planner and the jobs need, in a few queries, as plain values."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.services import displacing, permits
from appliance.services.planner import DeploymentFacts, ReplicaFacts, ServiceFacts
from appliance.services.states import ENDED, Desired, ReplicaState, ServiceState
from appliance.services.tables import DeploymentRow, ReplicaRow, ServiceRow
from gpu import cordoning, leasing


@dataclass(frozen=True, slots=True)
class World:
    """All services with their deployments and the replicas that have not ended."""

    services: Sequence[ServiceFacts]
    shown: dict[str, tuple[ServiceState, str]]
    replicas: dict[str, ReplicaRow]


async def load(session: AsyncSession, now: datetime) -> World:
    services = (await session.scalars(select(ServiceRow))).all()
    deployments = (await session.scalars(select(DeploymentRow))).all()
    ended = [state.value for state in ENDED]
    replicas = (await session.scalars(select(ReplicaRow).where(ReplicaRow.state.not_in(ended)))).all()
    reserved = await displacing.displaced(session, now)
    unfit = await leasing.on_unfit_devices(session) | await permits.not_permitted(session, now) | reserved
    drained = await cordoning.on_draining(session)
    failures = await _last_failures(session, [row.id for row in deployments if row.failures])
    deployments_of: dict[str, list[DeploymentFacts]] = defaultdict(list)
    for deployment in deployments:
        deployments_of[deployment.service_id].append(_deployment(deployment, failures.get(deployment.id, "")))
    replicas_of: dict[str, list[ReplicaFacts]] = defaultdict(list)
    for replica in replicas:
        facts = _replica(replica, unfit.get(replica.id, ""), drained.get(replica.id, ""))
        replicas_of[replica.service_id].append(facts)
    return World(
        services=[
            ServiceFacts(row.id, Desired(row.desired), deployments_of[row.id], replicas_of[row.id]) for row in services
        ],
        shown={row.id: (ServiceState(row.state), row.reason) for row in services},
        replicas={row.id: row for row in replicas},
    )


async def _last_failures(session: AsyncSession, deployment_ids: Sequence[str]) -> dict[str, str]:
    query = (
        select(ReplicaRow.deployment_id, ReplicaRow.reason)
        .where(ReplicaRow.deployment_id.in_(deployment_ids), ReplicaRow.outcome == ReplicaState.failed.value)
        .order_by(ReplicaRow.id)
    )
    return dict((await session.execute(query)).all())


def _deployment(row: DeploymentRow, last_failure: str) -> DeploymentFacts:
    return DeploymentFacts(row.id, row.generation, row.replicas, row.failures, row.next_start_at, last_failure)


def _replica(row: ReplicaRow, unfit: str, drained: str) -> ReplicaFacts:
    state = ReplicaState(row.state)
    return ReplicaFacts(row.id, row.deployment_id, row.generation, state, row.reason, row.ready_at, unfit, drained)


def due(world: World, now: datetime) -> bool:
    """Whether a replica's transitional state has outlived its deadline (invariant I13)."""
    return any(row.deadline_at is not None and row.deadline_at <= now for row in world.replicas.values())
