"""Rows of grants."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.errors import NotFound
from appliance.kernel.pagination import PageRequest
from tenants.grant_schemas import GrantKind
from tenants.grant_tables import GrantRow
from tenants.queries.locking import lock_one
from tenants.scope import TenantScope
from tenants.tables import TenantRow


async def find_grant(session: AsyncSession, scope: TenantScope, grant_id: str) -> GrantRow:
    """The grant with this id, or `NotFound`, also where it is another tenant's."""
    return _found(await session.scalar(_grant(scope, grant_id)), grant_id)


async def lock_grant(session: AsyncSession, scope: TenantScope, grant_id: str) -> GrantRow:
    """The same with its tenant's row locked before it: nobody takes a place in reliance on it meanwhile."""
    known = await find_grant(session, scope, grant_id)
    await lock_one(session, select(TenantRow).where(TenantRow.id == known.tenant_id))
    return _found(await lock_one(session, _grant(scope, grant_id)), grant_id)


def _grant(scope: TenantScope, grant_id: str) -> Select[GrantRow]:
    return select(GrantRow).where(scope.holds(GrantRow.tenant_id), GrantRow.id == grant_id)


def _found(row: GrantRow | None, grant_id: str) -> GrantRow:
    if row is None:
        raise NotFound(f"there is no grant {grant_id!r}")
    return row


async def list_grants(
    session: AsyncSession,
    scope: TenantScope,
    page: PageRequest,
    *,
    tenant_id: str | None = None,
    kind: GrantKind | None = None,
    target: str | None = None,
) -> Sequence[GrantRow]:
    """Those within the scope; `target` is the id of a pool or gateway, or a device class."""
    query = select(GrantRow).where(scope.holds(GrantRow.tenant_id))
    if tenant_id is not None:
        query = query.where(GrantRow.tenant_id == tenant_id)
    if kind is not None:
        query = query.where(GrantRow.kind == kind.value)
    if target is not None:
        query = query.where(
            (GrantRow.pool_id == target) | (GrantRow.gateway_id == target) | (GrantRow.device_class == target)
        )
    return (await session.scalars(page.apply(query, GrantRow.id))).all()
