"""From `pending` to `placed`: find a place for each waiting replica, take its leases, say why where there is none."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.errors import NotFound
from appliance.models.tables import ModelVersionRow
from appliance.services import permits, trust
from appliance.services.containment import contained
from appliance.services.events import note
from appliance.services.machinery import Machinery
from appliance.services.requesting import placement_request
from appliance.services.states import Phase, ReplicaState
from appliance.services.tables import DeploymentRow, ReplicaRow
from appliance.services.transitions import PLACED_DEADLINE, move
from gpu import leasing
from gpu.errors import PlacementLost
from gpu.placement import place
from gpu.requests import PlacementRequest, Plan, Rejection
from gpu.snapshot import ComputeSnapshot
from gpu.tables import FlavorRow, NodeRow
from tenants.tables import TenantRow


async def place_waiting(machinery: Machinery, waiting: Sequence[ReplicaRow]) -> bool:
    """Try to place these replicas, oldest first, each in a transaction of its own; whether one was tried.

    What still fits nowhere for the reason that was told costs no transaction that writes.
    """
    async with machinery.guarded.read() as session:
        snapshot = await leasing.snapshot(session)
        answers = await _seek(session, machinery, {row.deployment_id for row in waiting}, snapshot)
    hopeful = [row.id for row in waiting if answers[row.deployment_id] != row.reason]
    for replica_id in sorted(hopeful):
        with contained(replica=replica_id):
            async with machinery.guarded.write() as session:
                await _place_one(machinery, session, replica_id)
    return bool(hopeful)


class _Place(NamedTuple):
    request: PlacementRequest
    plan: Plan


async def _seek(
    session: AsyncSession, machinery: Machinery, deployment_ids: Collection[str], snapshot: ComputeSnapshot
) -> dict[str, _Place | str]:
    """By deployment: where a replica fits, or the sentence that says why it fits nowhere."""
    query = (
        select(DeploymentRow, FlavorRow, TenantRow, ModelVersionRow.details)
        .join(FlavorRow, FlavorRow.id == DeploymentRow.flavor_id)
        .join(TenantRow, TenantRow.id == DeploymentRow.tenant_id)
        .join(ModelVersionRow, ModelVersionRow.id == DeploymentRow.model_version_id)
        .where(DeploymentRow.id.in_(deployment_ids))
    )
    known = await permits.permits(session, deployment_ids, machinery.clock.now())
    answers: dict[str, _Place | str] = {}
    for deployment, flavor, tenant, details in await session.execute(query):
        if refused := trust.refusal(machinery.launcher, tenant) or known[deployment.id].refusal():
            answers[deployment.id] = refused
            continue
        try:
            request = placement_request(machinery.catalog, deployment, flavor, details, snapshot)
        except NotFound as missing:
            answers[deployment.id] = missing.detail  # the runtime, which the appliance no longer has
            continue
        request = known[deployment.id].narrowed(request, snapshot)
        plan = place(snapshot, request)
        answers[deployment.id] = plan.sentence if isinstance(plan, Rejection) else _Place(request, plan)
    return answers


async def _place_one(machinery: Machinery, session: AsyncSession, replica_id: str) -> None:
    replica = await session.get(ReplicaRow, replica_id)
    if replica is None or replica.state != ReplicaState.pending:
        return
    await permits.hold(session, replica.tenant_id, replica.deployment_id)
    snapshot = await leasing.snapshot(session)
    answers = await _seek(session, machinery, {replica.deployment_id}, snapshot)
    found = answers[replica.deployment_id]
    if isinstance(found, str):
        await _explain(machinery, session, replica, found)
        return
    request, plan = found
    try:
        await leasing.take(session, machinery.clock, replica_id, plan, request)
    except PlacementLost:
        return  # a later round plans again, on what is there then
    await move(
        session,
        machinery.clock,
        replica_id,
        ReplicaState.pending,
        ReplicaState.placed,
        deadline=PLACED_DEADLINE,
        node_id=plan.node_id,
        reason="",
    )
    node = await session.get_one(NodeRow, plan.node_id)
    where = f"placed on node {node.name}" + (f" with {len(plan.device_ids)} devices" if plan.device_ids else "")
    note(session, machinery.clock, replica.service_id, Phase.placed, where, replica_id=replica_id)


async def _explain(machinery: Machinery, session: AsyncSession, replica: ReplicaRow, sentence: str) -> None:
    """Tell the reason once; it is told again only when it changes."""
    if replica.reason == sentence:
        return
    changed = update(ReplicaRow).where(ReplicaRow.id == replica.id).values(reason=sentence)
    await session.execute(changed)
    note(session, machinery.clock, replica.service_id, Phase.placing, sentence, replica_id=replica.id)
