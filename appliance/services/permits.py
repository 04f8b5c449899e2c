"""What grants permit of a deployment: its pool, the gateway that leads to its service, the devices it may take.

Asked wherever a replica is placed, in the transaction that takes the place (`hold` before), and in each round for
what runs: a grant may have expired or been taken away meanwhile.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from msgspec.structs import replace
from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.gateway.tables import GatewayRow, ListenerRow
from appliance.kernel.access import Access
from appliance.services.states import ENDED, ReplicaState
from appliance.services.tables import DeploymentRow, ReplicaRow, ServiceRow
from gpu.requests import PlacementRequest
from gpu.snapshot import ComputeSnapshot
from gpu.tables import DeviceLeaseRow, DeviceRow, PoolRow
from tenants import entitlements
from tenants.entitlements import Entitlement
from tenants.grant_schemas import GrantKind, Target
from tenants.grant_tables import GrantRow


@dataclass(frozen=True, slots=True)
class Permit:
    """One deployment and what it needs grants for; `gateway` None where its service has none. `other_pools` are those
    that its tenant may use as well.
    """

    entitlement: Entitlement
    pool: Target
    gateway: Target | None
    other_pools: tuple[str, ...] = ()

    def refusal(self) -> str | None:
        """Why none of its replicas may run, whichever devices they get; None where they may."""
        refused = self.entitlement.refusal(self.pool)
        return refused or (self.entitlement.refusal(self.gateway) if self.gateway is not None else None)

    def refusal_on(self, classes: Iterable[tuple[str, str]]) -> str | None:
        """Why a replica may not run on devices of these (vendor, model)."""
        by_class = (self.entitlement.refusal_of_class(vendor, model) for vendor, model in classes)
        return self.refusal() or next(filter(None, by_class), None)

    def narrowed(self, request: PlacementRequest, snapshot: ComputeSnapshot) -> PlacementRequest:
        """The request without the devices that the tenant may not use, and with the pools that it may use instead."""
        request = replace(request, other_pools=self.other_pools)
        if not self.entitlement.is_bound_to_classes:
            return request
        excluded = self.entitlement.excluded({(kind.vendor, kind.model) for kind in snapshot.kinds})
        return replace(request, excluded_models={**excluded, **request.excluded_models})


async def hold(session: AsyncSession, tenant_id: str, deployment_id: str) -> None:
    """Keep what the permit of a deployment says true until the transaction ends: its tenant's grants, and whether its
    pool and its gateway are public. Always in this order, and before a node is locked.
    """
    await entitlements.hold(session, tenant_id)
    deployment = select(DeploymentRow.pool_id, DeploymentRow.service_id).where(DeploymentRow.id == deployment_id)
    pool_id, service_id = (await session.execute(deployment)).one()
    await session.execute(select(PoolRow.id).where(PoolRow.id == pool_id).with_for_update(read=True))
    own = select(ListenerRow.gateway_id).where(ListenerRow.service_id == service_id)
    shared = select(ServiceRow.gateway_id).where(ServiceRow.id == service_id)
    leads = or_(GatewayRow.id.in_(own), GatewayRow.id.in_(shared))
    await session.execute(select(GatewayRow.id).where(leads).with_for_update(read=True))


async def permits(session: AsyncSession, deployment_ids: Collection[str], now: datetime) -> dict[str, Permit]:
    """The permits of these deployments, by id."""
    columns = (DeploymentRow.id, DeploymentRow.tenant_id, DeploymentRow.service_id, DeploymentRow.pool_id)
    rows = (await session.execute(select(*columns).where(DeploymentRow.id.in_(deployment_ids)))).all()
    pools = {pool.id: pool for pool in await all_pools(session)}
    known = await entitlements.load(session, {row.tenant_id for row in rows}, now)
    usable = {
        tenant_id: [pool.id for pool in pools.values() if entitlement.refusal(pool) is None]
        for tenant_id, entitlement in known.items()
    }
    gateways = await gateways_of(session, {row.service_id for row in rows})
    return {
        row.id: Permit(
            known[row.tenant_id],
            pools[row.pool_id],
            gateways.get(row.service_id),
            tuple(pool_id for pool_id in usable[row.tenant_id] if pool_id != row.pool_id),
        )
        for row in rows
    }


async def all_pools(session: AsyncSession) -> list[Target]:
    """Every pool, by name."""
    rows = await session.execute(select(PoolRow.id, PoolRow.name, PoolRow.access).order_by(PoolRow.name))
    return [Target(GrantKind.pool, id_, name, Access(access)) for id_, name, access in rows]


async def gateways_of(session: AsyncSession, service_ids: Collection[str]) -> dict[str, Target]:
    """The gateway that leads to each of these services, by a port of its own or a shared one."""
    leads = or_(GatewayRow.id == ServiceRow.gateway_id, GatewayRow.id == ListenerRow.gateway_id)
    query = (
        select(ServiceRow.id, GatewayRow.id, GatewayRow.name, GatewayRow.access)
        .select_from(ServiceRow)
        .outerjoin(ListenerRow, ListenerRow.service_id == ServiceRow.id)
        .join(GatewayRow, leads)
        .where(ServiceRow.id.in_(service_ids))
    )
    return {
        service_id: Target(GrantKind.gateway, gateway_id, name, Access(access))
        for service_id, gateway_id, name, access in await session.execute(query)
    }


async def not_permitted(session: AsyncSession, now: datetime) -> dict[str, str]:
    """The replicas that hold a place which no grant covers any more, each with why."""
    if not await _is_restricted(session):
        return {}
    free = [*(state.value for state in ENDED), ReplicaState.pending.value]
    rows = await session.execute(select(ReplicaRow.id, ReplicaRow.deployment_id).where(ReplicaRow.state.not_in(free)))
    holding = dict(rows.all())
    known = await permits(session, set(holding.values()), now)
    bound = [id_ for id_, deployment in holding.items() if known[deployment].entitlement.is_bound_to_classes]
    classes = await classes_held(session, bound)
    refusals = {id_: known[deployment].refusal_on(classes.get(id_, ())) for id_, deployment in holding.items()}
    return {replica_id: reason for replica_id, reason in refusals.items() if reason is not None}


async def classes_held(session: AsyncSession, replica_ids: Collection[str]) -> Mapping[str, list[tuple[str, str]]]:
    """The (vendor, model) of the devices that these replicas lease."""
    query = (
        select(DeviceLeaseRow.replica_id, DeviceRow.vendor, DeviceRow.model)
        .join(DeviceRow, DeviceRow.id == DeviceLeaseRow.device_id)
        .where(DeviceLeaseRow.replica_id.in_(replica_ids))
        .order_by(DeviceRow.id)
    )
    found: dict[str, list[tuple[str, str]]] = {}
    for replica_id, vendor, model in await session.execute(query):
        found.setdefault(replica_id, []).append((vendor, model))
    return found


async def _is_restricted(session: AsyncSession) -> bool:
    """Whether there is anything that not everybody may use; on most appliances there is not."""
    dedicated = Access.dedicated.value
    for query in (
        select(PoolRow.id).where(PoolRow.access == dedicated),
        select(GatewayRow.id).where(GatewayRow.access == dedicated),
        select(GrantRow.id).where(GrantRow.kind == GrantKind.device_class.value),
    ):
        if await session.scalar(query.limit(1)) is not None:
            return True
    return False
