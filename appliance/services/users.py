"""What other domains ask of services: who uses a model version, what a service is called, what a tenant owns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.ids import TenantId
from appliance.services import queries
from appliance.services.tables import DeploymentRow, ServiceRow, ServiceShareRow
from tenants.budget_schemas import BudgetKind
from tenants.budgets import Subject
from tenants.scope import TenantScope


async def users_of_versions(session: AsyncSession, version_ids: Collection[str]) -> Mapping[str, Sequence[str]]:
    """The services that use each of these model versions, as a person calls them."""
    query = (
        select(DeploymentRow.model_version_id, ServiceRow.name)
        .join(ServiceRow, ServiceRow.id == DeploymentRow.service_id)
        .where(DeploymentRow.model_version_id.in_(version_ids))
        .order_by(ServiceRow.name)
    )
    users: dict[str, list[str]] = defaultdict(list)
    for version_id, name in await session.execute(query):
        users[version_id].append(f"service {name!r}")
    return users


async def services_elsewhere(session: AsyncSession, tenant_id: TenantId, service_ids: Sequence[str]) -> Sequence[str]:
    """Those of the ids that are neither services of the tenant nor shared with it."""
    shared = select(ServiceShareRow.service_id).where(ServiceShareRow.tenant_id == tenant_id)
    query = select(ServiceRow.id).where(
        ServiceRow.id.in_(service_ids), or_(ServiceRow.tenant_id == tenant_id, ServiceRow.id.in_(shared))
    )
    known = set((await session.scalars(query)).all())
    return [service_id for service_id in service_ids if service_id not in known]


async def service_for_budget(session: AsyncSession, scope: TenantScope, name_or_id: str) -> Subject:
    """The service that a budget is to bound, locked so that it is not forgotten meanwhile; `ServiceNotFound`."""
    row = await queries.find(scope, session, name_or_id, lock=True)
    return Subject(BudgetKind.service, row.id, row.name, row.tenant_id)


async def services_of_tenant(session: AsyncSession, tenant_id: TenantId) -> Mapping[str, int]:
    """How many services keep the tenant from being deleted."""
    count = await session.scalar(select(func.count()).where(ServiceRow.tenant_id == tenant_id))
    return {"services": count or 0}


async def services_without_port(session: AsyncSession, gateway_id: str) -> Sequence[str]:
    """The services that only the gateway's shared listener leads to, as a person calls them."""
    query = select(ServiceRow.name).where(ServiceRow.gateway_id == gateway_id).order_by(ServiceRow.name)
    return [f"service {name!r}" for name in (await session.scalars(query)).all()]


async def services_in_pool(session: AsyncSession, pool_id: str) -> Sequence[str]:
    """The services that are placed in the pool, as a person calls them."""
    query = (
        select(ServiceRow.name)
        .join(DeploymentRow, DeploymentRow.service_id == ServiceRow.id)
        .where(DeploymentRow.pool_id == pool_id)
    )
    return [f"service {name!r}" for name in (await session.scalars(query)).all()]


async def services_with_flavor(session: AsyncSession, flavor_id: str) -> Sequence[str]:
    """The services that run with the flavor, as a person calls them."""
    query = (
        select(ServiceRow.name)
        .join(DeploymentRow, DeploymentRow.service_id == ServiceRow.id)
        .where(DeploymentRow.flavor_id == flavor_id)
    )
    return [f"service {name!r}" for name in (await session.scalars(query)).all()]
