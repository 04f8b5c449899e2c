"""Taking back what replicas run on: nodes and devices for maintenance, grants, and public access to what is lent.

Whom it concerns is told by a few reads (`affected`), and enough for a refusal that names the services
(`require_idle`); where the replicas could go is worked out for a preview alone (`effects_...`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.gateway.tables import GatewayRow
from appliance.kernel.access import Access
from appliance.kernel.errors import InUse
from appliance.runtimes.catalog import Catalog
from appliance.services.moving import Effects, Leaver, effects
from appliance.services.permits import Permit, all_pools, classes_held, permits
from appliance.services.states import COMING_OR_UP, Desired, ReplicaState
from appliance.services.tables import DeploymentRow, ReplicaRow, ServiceRow
from gpu import cordoning
from gpu.tables import DeviceRow, NodeRow, PoolRow
from gpu.whatif import closed
from tenants.grant_schemas import GrantKind, Target
from tenants.tables import TenantRow

Change = Callable[[Permit], Permit]
"""What a permit would be after the change that is looked at."""


async def effects_of_draining(
    session: AsyncSession, catalog: Catalog, now: datetime, what: NodeRow | DeviceRow
) -> Effects:
    """What draining a node or device would do."""
    if isinstance(what, NodeRow):
        on_it = await cordoning.replicas_on_node(session, what.id)
        reason, closing = f"node {what.name} is drained", partial(closed, reason="to be drained", nodes=(what.id,))
    else:
        on_it = await cordoning.replicas_on_device(session, what.id)
        reason, closing = f"device {what.id} is drained", partial(closed, reason="to be drained", devices=(what.id,))
    query = select(ReplicaRow.id, ReplicaRow.deployment_id).where(
        ReplicaRow.id.in_(on_it), ReplicaRow.state.in_([state.value for state in COMING_OR_UP])
    )
    moving = dict((await session.execute(query)).all())
    known = await permits(session, set(moving.values()), now)
    leavers = {
        id_: Leaver(reason, known[deployment], () if known[deployment].refusal() else (known[deployment].pool.id,))
        for id_, deployment in moving.items()
    }
    return await effects(session, catalog, leavers, now, closing=closing)


@dataclass(frozen=True, slots=True)
class Affected:
    """Whom a change would stop: services, as `tenant/service`, and those of their replicas that hold a place, by id."""

    services: frozenset[str]
    leavers: Mapping[str, Leaver]


async def affected(
    session: AsyncSession, now: datetime, change: Change, *, tenant_ids: Collection[str] | None = None
) -> Affected:
    """Of the services of these tenants (None: of all): those that would stop if what is permitted were as `change`
    makes it.
    """
    names = await _running(session, tenant_ids)
    before = await permits(session, set(names), now)
    then = {id_: change(permit) for id_, permit in before.items()}
    refused = {names[id_] for id_ in names if before[id_].refusal() is None and then[id_].refusal() is not None}
    query = select(ReplicaRow.id, ReplicaRow.deployment_id).where(
        ReplicaRow.deployment_id.in_(names),
        ReplicaRow.state.in_([state.value for state in COMING_OR_UP - {ReplicaState.pending}]),
    )
    holding = dict((await session.execute(query)).all())
    classes = await classes_held(session, set(holding))
    pools = await all_pools(session)
    leavers: dict[str, Leaver] = {}
    for id_, deployment in holding.items():
        held = classes.get(id_, ())
        reason = then[deployment].refusal_on(held)
        if reason is not None and before[deployment].refusal_on(held) is None:
            leavers[id_] = Leaver(reason, then[deployment], _alternatives(then[deployment], pools))
    return Affected(frozenset(refused | {names[holding[id_]] for id_ in leavers}), leavers)


async def effects_of_change(
    session: AsyncSession, catalog: Catalog, now: datetime, change: Change, *, tenant_ids: Collection[str] | None = None
) -> Effects:
    """What becomes of those whom `change` would stop."""
    found = await affected(session, now, change, tenant_ids=tenant_ids)
    return await effects(session, catalog, found.leavers, now, services=found.services)


async def require_no_guests(session: AsyncSession, now: datetime, lent: PoolRow | GatewayRow) -> None:
    """Raise `InUse`, naming the services, where a pool or gateway that becomes dedicated is used without a grant."""
    kind = GrantKind.pool if isinstance(lent, PoolRow) else GrantKind.gateway
    target = Target(kind, lent.id, lent.name, Access.dedicated)

    def change(permit: Permit) -> Permit:
        if permit.pool.id == lent.id:
            return replace(permit, pool=target)
        is_there = permit.gateway is not None and permit.gateway.id == lent.id
        return replace(permit, gateway=target) if is_there else permit

    require_idle(await affected(session, now, change), f"making {kind.value} {lent.name} dedicated")


def require_idle(found: Affected, what: str) -> None:
    """Raise `InUse`, naming the services, where `what` would stop any."""
    if not found.services:
        return
    listed = ", ".join(repr(service) for service in sorted(found.services))
    raise InUse(
        f"{what} would stop {listed}, of which {len(found.leavers)} replica(s) run; delete or move these services "
        f"first, or say force=true: then they are drained"
    )


def _alternatives(permit: Permit, pools: Collection[Target]) -> tuple[str, ...]:
    """The pools that it may go to, its own first. Another pool is no help where its gateway is what is refused."""
    if permit.gateway is not None and permit.entitlement.refusal(permit.gateway) is not None:
        return ()
    usable = [pool for pool in pools if permit.entitlement.refusal(pool) is None]
    return tuple(pool.id for pool in sorted(usable, key=lambda pool: (pool.id != permit.pool.id, pool.name)))


async def _running(session: AsyncSession, tenant_ids: Collection[str] | None) -> dict[str, str]:
    """By deployment of a service that is to run: the service as a person calls it."""
    query = (
        select(DeploymentRow.id, TenantRow.name, ServiceRow.name)
        .join(ServiceRow, ServiceRow.id == DeploymentRow.service_id)
        .join(TenantRow, TenantRow.id == DeploymentRow.tenant_id)
        .where(ServiceRow.desired == Desired.running.value)
    )
    if tenant_ids is not None:
        query = query.where(DeploymentRow.tenant_id.in_(tenant_ids))
    return {id_: f"{tenant}/{service}" for id_, tenant, service in await session.execute(query)}
