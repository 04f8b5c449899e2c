"""Rows of users and members."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.errors import NotFound
from appliance.kernel.ids import TenantId, is_id
from appliance.kernel.pagination import PageRequest
from tenants.permissions import Role
from tenants.queries.locking import lock_all, lock_one
from tenants.scope import TenantScope
from tenants.tables import MemberRow, TenantRow, UserRow


async def find_user(session: AsyncSession, name_or_id: str) -> UserRow:
    """Any user of the platform, for the platform's own administrators; `NotFound` without one."""
    return _found(await session.scalar(select(UserRow).where(_is_named(name_or_id))), name_or_id)


async def lock_user(session: AsyncSession, name_or_id: str) -> UserRow:
    """The same, locked until the transaction ends."""
    return _found(
        await lock_one(session, select(UserRow).where(_is_named(name_or_id))),
        name_or_id,
    )


async def user_named(session: AsyncSession, name: str) -> UserRow | None:
    return await session.scalar(select(UserRow).where(UserRow.name == name))


async def list_users(session: AsyncSession, page: PageRequest) -> Sequence[UserRow]:
    return (await session.scalars(page.apply(select(UserRow), UserRow.id))).all()


async def lock_platform_admins(session: AsyncSession) -> Sequence[str]:
    """Their ids, locked until the transaction ends, so that two of them cannot remove one another at once."""
    query = select(UserRow.id).where(UserRow.is_platform_admin).order_by(UserRow.id)
    return await lock_all(session, query)


async def lock_tenant_admins(session: AsyncSession, scope: TenantScope) -> Sequence[str]:
    """The user ids of a tenant's administrators, locked like those of the platform."""
    query = select(MemberRow.user_id).where(scope.holds(MemberRow.tenant_id), MemberRow.role == Role.tenant_admin)
    return await lock_all(session, query.order_by(MemberRow.user_id))


async def list_members(
    session: AsyncSession, tenant_id: TenantId, page: PageRequest
) -> Sequence[tuple[MemberRow, UserRow]]:
    query = select(MemberRow, UserRow).join(UserRow, UserRow.id == MemberRow.user_id)
    rows = await session.execute(page.apply(query.where(MemberRow.tenant_id == tenant_id), MemberRow.user_id))
    return [(member, user) for member, user in rows]


async def find_member(session: AsyncSession, tenant_id: TenantId, name_or_id: str) -> tuple[MemberRow, UserRow]:
    """A member of the tenant by the user's name or id; `NotFound` also for a user who exists but is none."""
    query = select(MemberRow, UserRow).join(UserRow, UserRow.id == MemberRow.user_id)
    query = query.where(MemberRow.tenant_id == tenant_id, _is_named(name_or_id))
    found = (await session.execute(query)).one_or_none()
    if found is None:
        raise NotFound(f"the tenant has no member {name_or_id!r}")
    return found[0], found[1]


async def role_in(session: AsyncSession, tenant_id: str, user_id: str) -> Role | None:
    role = await session.scalar(
        select(MemberRow.role).where(MemberRow.tenant_id == tenant_id, MemberRow.user_id == user_id)
    )
    return None if role is None else Role(role)


async def memberships(session: AsyncSession, user_id: str) -> Sequence[tuple[MemberRow, TenantRow]]:
    """The user's roles with their tenants, by the tenants' names."""
    query = select(MemberRow, TenantRow).join(TenantRow, TenantRow.id == MemberRow.tenant_id)
    rows = await session.execute(query.where(MemberRow.user_id == user_id).order_by(TenantRow.name))
    return [(member, tenant) for member, tenant in rows]


async def tenants_left_without_admin(session: AsyncSession, user_id: str) -> Sequence[str]:
    """The names of the tenants whose only administrator the user is."""
    admins = (
        select(MemberRow.tenant_id)
        .where(MemberRow.role == Role.tenant_admin)
        .group_by(MemberRow.tenant_id)
        .having(func.count() == 1)
    )
    query = select(TenantRow.name).join(MemberRow, MemberRow.tenant_id == TenantRow.id)
    query = query.where(
        MemberRow.user_id == user_id, MemberRow.role == Role.tenant_admin, MemberRow.tenant_id.in_(admins)
    )
    return (await session.scalars(query.order_by(TenantRow.name))).all()


async def delete_member(session: AsyncSession, tenant_id: TenantId, user_id: str) -> None:
    await session.execute(delete(MemberRow).where(MemberRow.tenant_id == tenant_id, MemberRow.user_id == user_id))


def _is_named(name_or_id: str) -> ColumnElement[bool]:
    return (UserRow.id if is_id(name_or_id, "usr") else UserRow.name) == name_or_id


def _found(row: UserRow | None, name_or_id: str) -> UserRow:
    if row is None:
        raise NotFound(f"there is no user {name_or_id!r}")
    return row
