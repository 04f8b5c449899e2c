"""From `pending` to `placed`: find a place for each waiting replica, take its leases, say why where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.errors import NotFound
from appliance.models.tables import ModelVersionRow
from appliance.runtimes.capability import excluded_models
from appliance.runtimes.catalog import Catalog
from appliance.runtimes.memory import device_memory
from appliance.services.containment import contained
from appliance.services.events import note
from appliance.services.machinery import Machinery
from appliance.services.states import Phase, ReplicaState
from appliance.services.tables import DeploymentRow, ReplicaRow
from appliance.services.transitions import PLACED_DEADLINE, move
from gpu import leasing
from gpu.errors import PlacementLost
from gpu.placement import place
from gpu.requests import PlacementRequest, Plan, Rejection
from gpu.snapshot import ComputeSnapshot
from gpu.tables import FlavorRow, NodeRow


async def place_waiting(machinery: Machinery, waiting: Sequence[ReplicaRow]) -> None:
    """Try to place these replicas, oldest first, each in a transaction of its own.

    What still fits nowhere for the reason that was told costs no transaction that writes.
    """
    async with machinery.guarded.read() as session:
        snapshot = await leasing.snapshot(session)
        answers: dict[str, _Place | str] = {}
        for deployment_id in {replica.deployment_id for replica in waiting}:
            deployment = await session.get_one(DeploymentRow, deployment_id)
            answers[deployment_id] = await _seek(session, machinery.catalog, deployment, snapshot)
    for replica in sorted(waiting, key=lambda replica: replica.id):
        if answers[replica.deployment_id] == replica.reason:
            continue
        with contained(replica=replica.id):
            async with machinery.guarded.write() as session:
                await _place_one(machinery, session, replica.id)


class _Place(NamedTuple):
    request: PlacementRequest
    plan: Plan


async def _seek(
    session: AsyncSession, catalog: Catalog, deployment: DeploymentRow, snapshot: ComputeSnapshot
) -> _Place | str:
    """Where a replica of the deployment fits, or the sentence that says why it fits nowhere."""
    try:
        request = await _request(session, catalog, deployment, snapshot)
    except NotFound as missing:
        return missing.detail  # the runtime, which this release or configuration no longer has
    plan = place(snapshot, request)
    return plan.sentence if isinstance(plan, Rejection) else _Place(request, plan)


async def _place_one(machinery: Machinery, session: AsyncSession, replica_id: str) -> None:
    replica = await session.get(ReplicaRow, replica_id)
    if replica is None or replica.state != ReplicaState.pending:
        return
    deployment = await session.get_one(DeploymentRow, replica.deployment_id)
    found = await _seek(session, machinery.catalog, deployment, await leasing.snapshot(session))
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


async def _request(
    session: AsyncSession, catalog: Catalog, deployment: DeploymentRow, snapshot: ComputeSnapshot
) -> PlacementRequest:
    flavor = (await session.scalars(select(FlavorRow).where(FlavorRow.id == deployment.flavor_id))).one()
    runtime = catalog.get(deployment.runtime)
    vendors = tuple(v for v in runtime.vendors if flavor.device_vendor in (None, v))
    return PlacementRequest(
        pool_id=deployment.pool_id,
        vendors=vendors,
        devices=flavor.devices,
        excluded_models=excluded_models(runtime, ((device.vendor, device.model) for device in snapshot.devices)),
        device_memory_bytes=device_memory(await _weight_bytes(session, deployment), flavor.devices),
        cpus=flavor.cpus,
        memory_bytes=flavor.memory_bytes,
    )


async def _weight_bytes(session: AsyncSession, deployment: DeploymentRow) -> int:
    query = select(ModelVersionRow.details).where(ModelVersionRow.id == deployment.model_version_id)
    return int((await session.scalar(query) or {}).get("weight_bytes", 0))


async def _explain(machinery: Machinery, session: AsyncSession, replica: ReplicaRow, sentence: str) -> None:
    """Tell the reason once; it is told again only when it changes."""
    if replica.reason == sentence:
        return
    changed = update(ReplicaRow).where(ReplicaRow.id == replica.id).values(reason=sentence)
    await session.execute(changed)
    note(session, machinery.clock, replica.service_id, Phase.placing, sentence, replica_id=replica.id)
