"""Rows of tenants and quotas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Select, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.errors import NotFound
from appliance.kernel.ids import is_id
from appliance.kernel.pagination import PageRequest
from tenants.queries.locking import lock_one
from tenants.quotas import Resource
from tenants.scope import TenantScope
from tenants.tables import ApiKeyRow, QuotaRow, TenantRow


async def find_tenant(session: AsyncSession, scope: TenantScope, name_or_id: str) -> TenantRow:
    """The tenant with this name or id, or `NotFound`, also where it lies outside the scope."""
    return _found(await session.scalar(_tenant(scope, name_or_id)), name_or_id)


async def lock_tenant(session: AsyncSession, scope: TenantScope, name_or_id: str) -> TenantRow:
    """The same, locked until the transaction ends: nothing can be created in the tenant meanwhile."""
    return _found(
        await lock_one(session, _tenant(scope, name_or_id)),
        name_or_id,
    )


def _tenant(scope: TenantScope, name_or_id: str) -> Select[TenantRow]:
    column = TenantRow.id if is_id(name_or_id, "ten") else TenantRow.name
    return select(TenantRow).where(scope.holds(TenantRow.id), column == name_or_id)


def _found(row: TenantRow | None, name_or_id: str) -> TenantRow:
    if row is None:
        raise NotFound(f"there is no tenant {name_or_id!r}")
    return row


async def list_tenants(
    session: AsyncSession, scope: TenantScope, page: PageRequest, *, name: str | None
) -> Sequence[TenantRow]:
    query = page.apply(select(TenantRow).where(scope.holds(TenantRow.id)), TenantRow.id)
    if name is not None:
        query = query.where(TenantRow.name == name)
    return (await session.scalars(query)).all()


async def tenant_name_exists(session: AsyncSession, name: str) -> bool:
    return await session.scalar(select(TenantRow.id).where(TenantRow.name == name)) is not None


async def count_live_keys(session: AsyncSession, scope: TenantScope) -> int:
    """Keys that were not revoked, expired ones included: they still count against the quota."""
    query = select(func.count()).select_from(ApiKeyRow)
    return await session.scalar(query.where(scope.holds(ApiKeyRow.tenant_id), ApiKeyRow.revoked_at.is_(None))) or 0


async def delete_quotas(session: AsyncSession, scope: str) -> None:
    await session.execute(delete(QuotaRow).where(QuotaRow.scope == scope))


async def list_quotas(session: AsyncSession, scope: str) -> Sequence[QuotaRow]:
    query = select(QuotaRow).where(QuotaRow.scope == scope).order_by(QuotaRow.resource)
    return (await session.scalars(query.execution_options(populate_existing=True))).all()


async def find_quota(session: AsyncSession, scope: str, resource: Resource) -> QuotaRow | None:
    query = select(QuotaRow).where(QuotaRow.scope == scope, QuotaRow.resource == resource)
    return await session.scalar(query.execution_options(populate_existing=True))


async def set_limit(session: AsyncSession, scope: str, resource: Resource, limit: int) -> bool:
    """Whether the limit was set: not where more than `limit` is used, or where there is no such counter."""
    changed = await session.execute(
        update(QuotaRow)
        .where(QuotaRow.scope == scope, QuotaRow.resource == resource, QuotaRow.used <= limit)
        .values(quota_limit=limit)
        .execution_options(synchronize_session=False)
    )
    return bool(changed.rowcount)  # type: ignore[attr-defined]  # the result of an UPDATE is a CursorResult


def add_quotas(session: AsyncSession, scope: str, limits: Mapping[Resource, int]) -> None:
    session.add_all(
        QuotaRow(scope=scope, resource=resource.value, used=0, quota_limit=limit) for resource, limit in limits.items()
    )
