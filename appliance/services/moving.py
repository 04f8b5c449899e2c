"""What would have to move, and where it could go: previews of maintenance, and of taking grants back.

The replicas that would leave are taken out of a snapshot, what is to be closed is closed, and each is placed again, one
after another. Nothing is changed by it, and nothing is promised: others may take the places meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import msgspec
from msgspec.structs import replace
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.errors import NotFound
from appliance.models.tables import ModelVersionRow
from appliance.runtimes.catalog import Catalog
from appliance.services.permits import Permit
from appliance.services.requesting import placement_request
from appliance.services.tables import DeploymentRow, ReplicaRow, ServiceRow
from gpu import leasing, reservations
from gpu.placement import after
from gpu.requests import PlacementRequest, Plan, Rejection
from gpu.reserving import ReservedNodes, holders_in, place
from gpu.snapshot import ComputeSnapshot
from gpu.states import WHOLE
from gpu.tables import FlavorRow, NodeClaimRow
from gpu.whatif import vacated
from tenants.tables import TenantRow


class MovingReplica(msgspec.Struct, frozen=True, kw_only=True):
    """A replica that would leave, for `reason`. `fits`: whether it could be placed again at once, `pool` and `node`
    where; `why_not` says what is in its way, and `remedies` what would help. Sizes are bytes; `device_memory_bytes` is
    of its devices together, as far as it leases them.
    """

    id: str
    state: str
    service_id: str
    service: str
    tenant_id: str
    tenant: str
    node_id: str
    devices: list[str]
    device_memory_bytes: int
    memory_bytes: int
    reason: str
    fits: bool
    pool: str | None
    node: str | None
    why_not: str | None
    remedies: list[str]


class Effects(msgspec.Struct, frozen=True, kw_only=True):
    """What a change would do to what runs: the tenants, the services as `tenant/service`, and each replica that would
    leave.

    `fitting` of the replicas could be placed again at once, all of them together. Sizes are bytes.
    """

    tenants: list[str]
    services: list[str]
    replicas: list[MovingReplica]
    fitting: int
    devices: int
    device_memory_bytes: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Leaver:
    """A replica that would leave: why, what is permitted then, and the pools it may go to, the first that fits."""

    reason: str
    permit: Permit
    pools: Sequence[str]


@dataclass(slots=True)
class _Held:
    """What is known of a leaver. `request` is a sentence where there is none: something that it needs is gone."""

    replica: ReplicaRow
    service: str
    tenant: str
    claim: NodeClaimRow
    request: PlacementRequest | str
    devices: list[str] = field(default_factory=list)
    device_memory_bytes: int = 0


async def effects(
    session: AsyncSession,
    catalog: Catalog,
    leavers: Mapping[str, Leaver],
    now: datetime,
    *,
    services: Collection[str] = (),
    closing: Callable[[ComputeSnapshot], ComputeSnapshot] = lambda snapshot: snapshot,
) -> Effects:
    """What it would mean if these replicas, by id, had to leave, and `closing` were done to the compute. `services` are
    affected whether they have replicas or not.
    """
    if not leavers:
        return _summed((), services)
    reserved = await reservations.active(session, now)
    snapshot = ReservedNodes().over(await leasing.snapshot(session), reserved)
    holders = holders_in(reserved)
    held = {one.replica.id: one for one in await _held(session, catalog, leavers, snapshot, holders)}
    for device in snapshot.devices:
        for lease in device.leases:
            if (one := held.get(lease.replica_id)) is not None:
                one.devices.append(device.id)
                one.device_memory_bytes += device.memory_bytes * lease.share // WHOLE
    emptied = vacated(snapshot, {id_: (one.claim.node_id, one.claim.memory_bytes) for id_, one in held.items()})
    moving = await asyncio.to_thread(_placed_again, closing(emptied), list(held.values()), leavers)
    return _summed(moving, services)


async def _held(
    session: AsyncSession,
    catalog: Catalog,
    leavers: Mapping[str, Leaver],
    snapshot: ComputeSnapshot,
    holders: frozenset[str],
) -> list[_Held]:
    """In the order that they are placed again: the oldest first."""
    query = (
        select(ReplicaRow, ServiceRow.name, TenantRow.name, NodeClaimRow, DeploymentRow, FlavorRow)
        .add_columns(ModelVersionRow.details)
        .join(ServiceRow, ServiceRow.id == ReplicaRow.service_id)
        .join(TenantRow, TenantRow.id == ReplicaRow.tenant_id)
        .join(NodeClaimRow, NodeClaimRow.replica_id == ReplicaRow.id)
        .join(DeploymentRow, DeploymentRow.id == ReplicaRow.deployment_id)
        .join(FlavorRow, FlavorRow.id == DeploymentRow.flavor_id)
        .join(ModelVersionRow, ModelVersionRow.id == DeploymentRow.model_version_id)
        .where(ReplicaRow.id.in_(leavers))
        .order_by(ReplicaRow.id)
    )
    found = []
    for replica, service, tenant, claim, deployment, flavor, details in await session.execute(query):
        request: PlacementRequest | str
        try:
            asked = placement_request(catalog, deployment, flavor, details, snapshot)
            narrowed = leavers[replica.id].permit.narrowed(asked, snapshot)
            request = replace(narrowed, holders=holders & {replica.tenant_id})
        except NotFound as missing:
            request = missing.detail  # the runtime, which the appliance no longer has
        found.append(_Held(replica, service, tenant, claim, request))
    return found


def _placed_again(
    snapshot: ComputeSnapshot, held: Sequence[_Held], leavers: Mapping[str, Leaver]
) -> list[MovingReplica]:
    names = {pool.id: pool.name for pool in snapshot.pools} | {node.id: node.name for node in snapshot.nodes}
    moving: list[MovingReplica] = []
    for one in held:
        leaver = leavers[one.replica.id]
        if isinstance(one.request, str):
            moving.append(_told(one, leaver.reason, why_not=one.request))
            continue
        rejections: list[Rejection] = []
        for pool_id in leaver.pools:
            asked = replace(one.request, pool_id=pool_id)
            answer = place(snapshot, asked)
            if isinstance(answer, Plan):
                snapshot = after(snapshot, one.replica.id, asked, answer)
                moving.append(_told(one, leaver.reason, place=(names[pool_id], names[answer.node_id])))
                break
            rejections.append(answer)
        else:
            moving.append(_told(one, leaver.reason, why_not=_why_not(leaver, rejections), rejections=rejections))
    return moving


def _why_not(leaver: Leaver, rejections: Sequence[Rejection]) -> str:
    sentences = [rejection.sentence for rejection in rejections]
    return "; ".join(sentences) or f"{leaver.permit.refusal() or leaver.reason}; there is nowhere else that it may go"


def _told(
    one: _Held,
    reason: str,
    *,
    place: tuple[str, str] | None = None,
    why_not: str | None = None,
    rejections: Sequence[Rejection] = (),
) -> MovingReplica:
    return MovingReplica(
        id=one.replica.id,
        state=one.replica.state,
        service_id=one.replica.service_id,
        service=one.service,
        tenant_id=one.replica.tenant_id,
        tenant=one.tenant,
        node_id=one.claim.node_id,
        devices=one.devices,
        device_memory_bytes=one.device_memory_bytes,
        memory_bytes=one.claim.memory_bytes,
        reason=reason,
        fits=place is not None,
        pool=place[0] if place else None,
        node=place[1] if place else None,
        why_not=why_not,
        remedies=[remedy.text for rejection in rejections for remedy in rejection.remedies],
    )


def _summed(moving: Sequence[MovingReplica], services: Collection[str]) -> Effects:
    affected = sorted({*services, *(f"{one.tenant}/{one.service}" for one in moving)})
    return Effects(
        tenants=sorted({service.partition("/")[0] for service in affected}),
        services=affected,
        replicas=list(moving),
        fitting=sum(one.fits for one in moving),
        devices=len({device for one in moving for device in one.devices}),
        device_memory_bytes=sum(one.device_memory_bytes for one in moving),
        memory_bytes=sum(one.memory_bytes for one in moving),
    )
