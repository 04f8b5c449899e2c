"""What publishing would choose, count and find room for: read, and nothing made."""

from __future__ import annotations

import asyncio

from msgspec import Struct
from msgspec.structs import replace

from appliance.services import trust
from appliance.services.counting import amounts
from appliance.services.creation import Publishing, choose, deployment_row, service_row
from appliance.services.estimating import DeviceGuide, shown_guide
from appliance.services.permits import Permit, all_pools
from appliance.services.requesting import placement_request
from appliance.services.schemas import CreateService, MemoryNeeds
from appliance.services.sizing import guide_of
from appliance.services.views import memory_needs
from gpu import leasing, reservations
from gpu.requests import Cause, PlacementRequest, Reason, Rejection
from gpu.reserving import ReservedNodes, holders_in, place
from gpu.snapshot import ComputeSnapshot
from tenants import entitlements
from tenants.permissions import Permission
from tenants.work import Work


class PlanReason(Struct, frozen=True, kw_only=True):
    """A cause with what it rules out: how many nodes or devices, and, for administrators, their ids."""

    cause: Cause
    text: str
    nodes: list[str] = []
    devices: list[str] = []


class ServicePlan(Struct, frozen=True, kw_only=True):
    """What a service would get. `flavor_reason` is empty where the flavor was named. `counts` is what all replicas
    count against the tenant's quotas. `node` (for administrators) and `devices` (their models) are where the first
    replica would go now; where it would wait, `waits` says why, `reasons` has every cause, and `would_help` which
    single changes would make room, the cheapest first.
    """

    model: str
    model_version: str
    runtime: str
    image: str | None
    pool: str
    flavor: str
    flavor_reason: str
    guide: DeviceGuide
    memory: MemoryNeeds
    counts: dict[str, int]
    node: str | None = None
    devices: list[str] = []
    waits: str | None = None
    reasons: list[PlanReason] = []
    would_help: list[str] = []


async def plan_service(work: Work, publishing: Publishing, request: CreateService) -> ServicePlan:
    """Raises what publishing raises for its model, runtime, flavor, pool and arguments."""
    tenant_id = work.scope.one()
    await trust.check(work.session, publishing.launcher, tenant_id)
    model = await publishing.find_model(work.session, work.scope, request.model, request.model_version)
    choice = await choose(work, publishing, request, model)
    deployment = deployment_row(service_row(work, tenant_id, request), request, model, choice)
    known = guide_of(await publishing.read_facts(model.version_id))
    plan = ServicePlan(
        model=model.model_name,
        model_version=model.version_name,
        runtime=choice.runtime.name,
        image=choice.image,
        pool=choice.pool.name,
        flavor=choice.flavor.name,
        flavor_reason=choice.needs.reason,
        guide=shown_guide(known),
        memory=memory_needs(choice.needs),
        counts={resource.value: amount for resource, amount in amounts(deployment, request.replicas).items()},
    )
    reserved = await reservations.active(work.session, work.now())
    snapshot = ReservedNodes().over(await leasing.snapshot(work.session), reserved)
    asked = placement_request(publishing.catalog, deployment, choice.flavor, {}, snapshot)
    entitlement = (await entitlements.load(work.session, {tenant_id}, work.now()))[tenant_id]
    pools = {pool.id: pool for pool in await all_pools(work.session)}
    others = (pool.id for pool in pools.values() if entitlement.refusal(pool) is None and pool.id != choice.pool.id)
    permit = Permit(entitlement, pools[choice.pool.id], None, tuple(others))
    asked = replace(permit.narrowed(asked, snapshot), holders=holders_in(reserved) & {tenant_id})
    names_all = Permission.platform_read in work.actor.permissions
    return await asyncio.to_thread(_placed, plan, snapshot, asked, names_all=names_all)


def _placed(plan: ServicePlan, snapshot: ComputeSnapshot, asked: PlacementRequest, *, names_all: bool) -> ServicePlan:
    found = place(snapshot, asked)
    if isinstance(found, Rejection):
        reasons = [_shown(reason, names_all=names_all) for reason in found.reasons]
        helps = [remedy.text for remedy in found.remedies]
        return replace(plan, waits=found.sentence, reasons=reasons, would_help=helps)
    node = snapshot.nodes[snapshot.positions[found.node_id]]
    models = [device.model for device in node.devices if device.id in found.device_ids]
    return replace(plan, node=node.name if names_all else None, devices=models)


def _shown(reason: Reason, *, names_all: bool) -> PlanReason:
    if not names_all:
        return PlanReason(cause=reason.cause, text=reason.text)
    return PlanReason(cause=reason.cause, text=reason.text, nodes=list(reason.nodes), devices=list(reason.devices))
