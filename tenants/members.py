"""Members of a tenant: users with a role in it."""

from __future__ import annotations

from sqlalchemy.exc import IntegrityError

from appliance.kernel.crypto import Passwords
from appliance.kernel.errors import Conflict, Forbidden, NameTaken
from appliance.kernel.ids import TenantId
from appliance.kernel.pagination import Page, PageRequest
from tenants import grants, users
from tenants.errors import LastAdministrator
from tenants.permissions import MemberRole, Permission, Role
from tenants.queries import people as queries
from tenants.schemas import AddedMember, Member, MemberChange, NewMember, NewUser
from tenants.scope import TenantScope
from tenants.tables import MemberRow, UserRow
from tenants.work import Work


async def add_member(work: Work, new: NewMember, passwords: Passwords) -> AddedMember:
    """Make a new user a member, with a one-time password.

    An administrator of the platform may also name a user who exists. In a tenant that is refused like any name in
    use: whom other tenants employ is theirs to know, and nobody is made a member without being asked.
    """
    tenant_id = work.scope.one()
    role = Role(new.role)
    grants.require_role(work.actor, role)
    user = None
    if Permission.platform_write in work.actor.permissions:
        user = await queries.user_named(work.session, new.name)
    if user is None:
        account = NewUser(name=new.name, display_name=new.display_name)
        user, password = await users.add_user(work, account, passwords)
        return AddedMember(await _insert(work, tenant_id, user, role), password)
    return AddedMember(await _insert(work, tenant_id, user, role), None)


async def _insert(work: Work, tenant_id: TenantId, user: UserRow, role: Role) -> Member:
    member = MemberRow(tenant_id=tenant_id, user_id=user.id, role=role.value, created_at=work.now())
    taken = NameTaken(f"{user.name!r} is a member already; change the role instead")
    if await queries.role_in(work.session, tenant_id, user.id) is not None:
        raise taken
    work.session.add(member)
    try:
        await work.session.flush()
    except IntegrityError as error:
        raise taken from error
    work.record("member.added", "member", user.id, detail={"name": user.name, "role": role.value})
    return shown(member, user)


async def list_members(work: Work, page: PageRequest) -> Page[Member]:
    rows = await queries.list_members(work.session, work.scope.one(), page)
    return page.page([shown(member, user) for member, user in rows], [user.id for _, user in rows])


async def change_member(work: Work, name_or_id: str, change: MemberChange) -> Member:
    """Give the member another role; neither the old nor the new one may pass the actor's own."""
    member, user = await queries.find_member(work.session, work.scope.one(), name_or_id)
    grants.require_role(work.actor, Role(member.role))
    grants.require_role(work.actor, Role(change.role))
    if change.role is not MemberRole.tenant_admin:
        await _require_another_admin(work, member, user)
    member.role = change.role.value
    work.record("member.updated", "member", user.id, detail={"name": user.name, "role": change.role.value})
    return shown(member, user)


async def remove_member(work: Work, name_or_id: str) -> None:
    """Take the membership away; the user remains, and so do the keys that he made: they are the tenant's."""
    member, user = await queries.find_member(work.session, work.scope.one(), name_or_id)
    grants.require_role(work.actor, Role(member.role))
    await _require_another_admin(work, member, user)
    await work.session.delete(member)
    work.record("member.removed", "member", user.id, detail={"name": user.name, "role": member.role})


async def reset_password(work: Work, name_or_id: str, passwords: Passwords) -> str:
    """A new one-time password for a member whose only tenant this is.

    For others it would be a way into what the actor has no part in: those an administrator of the platform resets.
    """
    member, user = await queries.find_member(work.session, work.scope.one(), name_or_id)
    grants.require_role(work.actor, Role(member.role))
    elsewhere = len(await queries.memberships(work.session, user.id)) > 1
    if (elsewhere or user.is_platform_admin) and Permission.platform_write not in work.actor.permissions:
        raise Forbidden(f"{user.name!r} does not belong to this tenant alone; ask an administrator of the platform")
    return await users.reset_password(work, user, passwords)


async def _require_another_admin(work: Work, member: MemberRow, user: UserRow) -> None:
    if member.role != Role.tenant_admin:
        return
    admins = list(await queries.lock_tenant_admins(work.session, TenantScope(TenantId(member.tenant_id))))
    if admins == [user.id]:
        raise LastAdministrator(f"{user.name!r} is the tenant's last administrator; give someone else that role first")
    if user.id not in admins:
        raise Conflict(f"the role of {user.name!r} was changed meanwhile; look and try again")


def shown(member: MemberRow, user: UserRow) -> Member:
    return Member(user.id, user.name, user.display_name, Role(member.role), member.created_at)
