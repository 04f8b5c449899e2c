"""All SQL of services that the API needs; the first argument says whose."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from sqlalchemy import func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.gateway.tables import GatewayRow, ListenerRow
from appliance.kernel.ids import is_id
from appliance.kernel.pagination import Page, PageRequest
from appliance.services.errors import ReplicaNotFound, ServiceNotFound
from appliance.services.tables import DeploymentRow, EventRow, ReplicaRow, ServiceRow, ServiceShareRow
from tenants.scope import TenantScope
from tenants.tables import TenantRow

_ENDED_SHOWN = 5
"""How many ended replicas of a service are shown beside the live ones."""


async def find(scope: TenantScope, session: AsyncSession, name_or_id: str, *, lock: bool = False) -> ServiceRow:
    """The service by its id, or by its name within the scope; raises `ServiceNotFound`."""
    by = ServiceRow.id if is_id(name_or_id, "svc") else ServiceRow.name
    query = select(ServiceRow).where(by == name_or_id, scope.holds(ServiceRow.tenant_id)).limit(2)
    rows = (await session.scalars(query.with_for_update(key_share=True) if lock else query)).all()
    if len(rows) != 1:
        several = " (several tenants have one of that name: set Appliance-Tenant)" if rows else ""
        raise ServiceNotFound(f"there is no service {name_or_id!r}{several}")
    return rows[0]


async def page(
    scope: TenantScope,
    session: AsyncSession,
    request: PageRequest,
    *,
    state: str | None = None,
    name: str | None = None,
    model: str | None = None,
) -> Page[ServiceRow]:
    query = select(ServiceRow).where(scope.holds(ServiceRow.tenant_id))
    if state is not None:
        query = query.where(ServiceRow.state == state)
    if name is not None:
        query = query.where(ServiceRow.name.contains(name, autoescape=True))
    if model is not None:
        uses = select(DeploymentRow.service_id).where(
            or_(DeploymentRow.model_name == model, DeploymentRow.model_id == model)
        )
        query = query.where(ServiceRow.id.in_(uses))
    rows = list((await session.scalars(request.apply(query, ServiceRow.id))).all())
    return request.page(rows, [row.id for row in rows])


async def deployments_of(session: AsyncSession, service_ids: Sequence[str]) -> Sequence[DeploymentRow]:
    query = select(DeploymentRow).where(DeploymentRow.service_id.in_(service_ids)).order_by(DeploymentRow.id)
    return (await session.scalars(query)).all()


async def replicas_of(session: AsyncSession, service_ids: Sequence[str]) -> Sequence[ReplicaRow]:
    """Live replicas, and the newest that ended of each service; newest first."""
    is_live = ReplicaRow.ended_at.is_(None)
    place = func.row_number().over(partition_by=(ReplicaRow.service_id, is_live), order_by=ReplicaRow.id.desc())
    mine = select(ReplicaRow.id, place.label("place")).where(ReplicaRow.service_id.in_(service_ids)).subquery()
    query = select(ReplicaRow).join(mine, mine.c.id == ReplicaRow.id).where(is_live | (mine.c.place <= _ENDED_SHOWN))
    return (await session.scalars(query.order_by(ReplicaRow.id.desc()))).all()


async def listeners_of(session: AsyncSession, service_ids: Sequence[str]) -> dict[str, tuple[ListenerRow, GatewayRow]]:
    query = (
        select(ListenerRow, GatewayRow)
        .join(GatewayRow, GatewayRow.id == ListenerRow.gateway_id)
        .where(ListenerRow.service_id.in_(service_ids))
    )
    pairs = (await session.execute(query)).all()
    return {listener.service_id: (listener, gateway) for listener, gateway in pairs if listener.service_id}


async def gateways_named(session: AsyncSession, gateway_ids: Sequence[str]) -> dict[str, GatewayRow]:
    return {row.id: row for row in await session.scalars(select(GatewayRow).where(GatewayRow.id.in_(gateway_ids)))}


async def shares_of(session: AsyncSession, service_ids: Sequence[str]) -> dict[str, list[str]]:
    """The names of the further tenants that may use each service."""
    query = (
        select(ServiceShareRow.service_id, TenantRow.name)
        .join(TenantRow, TenantRow.id == ServiceShareRow.tenant_id)
        .where(ServiceShareRow.service_id.in_(service_ids))
        .order_by(TenantRow.name)
    )
    found: dict[str, list[str]] = defaultdict(list)
    for service_id, name in await session.execute(query):
        found[service_id].append(name)
    return found


async def tenant_names(session: AsyncSession, tenant_ids: Sequence[str]) -> dict[str, str]:
    query = select(TenantRow.id, TenantRow.name).where(TenantRow.id.in_(tenant_ids))
    return dict((await session.execute(query)).all())


async def service_names(session: AsyncSession, service_ids: Sequence[str]) -> dict[str, str]:
    query = select(ServiceRow.id, ServiceRow.name).where(ServiceRow.id.in_(service_ids))
    return {service_id: name for service_id, name in await session.execute(query)}  # noqa: C416 - a row is no tuple


async def events(session: AsyncSession, service_id: str, request: PageRequest) -> Page[EventRow]:
    query = select(EventRow).where(EventRow.service_id == service_id)
    rows = list((await session.scalars(request.apply(query, EventRow.id))).all())
    return request.page(rows, [row.id for row in rows])


async def replica(session: AsyncSession, service_id: str, replica_id: str | None) -> ReplicaRow:
    """The replica of the service, or its newest where none is named; raises `ReplicaNotFound`."""
    query = select(ReplicaRow).where(ReplicaRow.service_id == service_id).order_by(ReplicaRow.id.desc()).limit(1)
    if replica_id is not None:
        query = query.where(ReplicaRow.id == replica_id)
    row = await session.scalar(query)
    if row is None:
        missing = f"replica {replica_id!r}" if replica_id else "replica yet"
        raise ReplicaNotFound(f"the service has no {missing}")
    return row
