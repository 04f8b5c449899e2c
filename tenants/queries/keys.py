"""Rows of API keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import Select, bindparam, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.errors import NotFound
from appliance.kernel.ids import is_id
from appliance.kernel.pagination import PageRequest
from tenants.queries.locking import lock_one
from tenants.scope import TenantScope
from tenants.tables import ApiKeyRow, TenantRow


async def find_key(session: AsyncSession, scope: TenantScope, name_or_id: str) -> ApiKeyRow:
    """A tenant's key by id, or by name where the scope is one tenant; `NotFound` outside the scope.

    Keys of the platform lie in no tenant and are not found here (see `lock_platform_key`).
    """
    return _found(await session.scalar(_key(scope, name_or_id)), name_or_id)


async def lock_key(session: AsyncSession, scope: TenantScope, name_or_id: str) -> ApiKeyRow:
    """The same, locked until the transaction ends."""
    return _found(
        await lock_one(session, _key(scope, name_or_id)),
        name_or_id,
    )


async def lock_platform_key(session: AsyncSession, name_or_id: str) -> ApiKeyRow:
    column = ApiKeyRow.id if is_id(name_or_id, "key") else ApiKeyRow.name
    query = select(ApiKeyRow).where(ApiKeyRow.tenant_id.is_(None), column == name_or_id)
    return _found(await lock_one(session, query), name_or_id)


def _key(scope: TenantScope, name_or_id: str) -> Select[ApiKeyRow]:
    query = select(ApiKeyRow).where(ApiKeyRow.tenant_id.is_not(None))
    if is_id(name_or_id, "key"):
        return query.where(scope.holds(ApiKeyRow.tenant_id), ApiKeyRow.id == name_or_id)
    return query.where(ApiKeyRow.tenant_id == scope.one(), ApiKeyRow.name == name_or_id)


def _found(row: ApiKeyRow | None, name_or_id: str) -> ApiKeyRow:
    if row is None:
        raise NotFound(f"there is no API key {name_or_id!r}")
    return row


async def list_keys(session: AsyncSession, scope: TenantScope, page: PageRequest) -> Sequence[ApiKeyRow]:
    query = select(ApiKeyRow).where(scope.holds(ApiKeyRow.tenant_id), ApiKeyRow.tenant_id.is_not(None))
    return (await session.scalars(page.apply(query, ApiKeyRow.id))).all()


async def list_platform_keys(session: AsyncSession, page: PageRequest) -> Sequence[ApiKeyRow]:
    query = page.apply(select(ApiKeyRow).where(ApiKeyRow.tenant_id.is_(None)), ApiKeyRow.id)
    return (await session.scalars(query)).all()


async def key_named(session: AsyncSession, tenant_id: str | None, name: str) -> ApiKeyRow | None:
    return await session.scalar(
        select(ApiKeyRow).where(ApiKeyRow.tenant_id.is_not_distinct_from(tenant_id), ApiKeyRow.name == name)
    )


async def key_with_hash(session: AsyncSession, secret_sha256: str) -> tuple[ApiKeyRow, TenantRow | None] | None:
    """The key and its tenant, which is None for a key of the platform."""
    query = select(ApiKeyRow, TenantRow).outerjoin(TenantRow, TenantRow.id == ApiKeyRow.tenant_id)
    found = (await session.execute(query.where(ApiKeyRow.secret_sha256 == secret_sha256))).one_or_none()
    return None if found is None else (found[0], found[1])


async def note_key_uses(session: AsyncSession, uses: Mapping[str, datetime]) -> None:
    """Move `last_used_at` of these keys (by id) forward; never back."""
    if not uses:
        return
    statement = (
        update(ApiKeyRow)
        .where(ApiKeyRow.id == bindparam("key"))
        .where(or_(ApiKeyRow.last_used_at.is_(None), ApiKeyRow.last_used_at < bindparam("at")))
        .values(last_used_at=bindparam("at"))
    )
    connection = await session.connection()
    await connection.execute(statement, [{"key": key, "at": at} for key, at in sorted(uses.items())])
