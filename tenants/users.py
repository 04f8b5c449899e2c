"""Users of the platform: create, change, delete, and one-time passwords.

A one-time password is returned once, stored as argon2id, and must be changed before anything else can be done
with it.
"""

from __future__ import annotations

from sqlalchemy.exc import IntegrityError

from appliance.kernel.crypto import Passwords, new_password
from appliance.kernel.errors import NameTaken
from appliance.kernel.ids import new_id
from appliance.kernel.pagination import Page, PageRequest
from tenants import grants
from tenants.errors import LastAdministrator
from tenants.permissions import Role
from tenants.queries import logins as login_queries
from tenants.queries import people as queries
from tenants.schemas import CreatedUser, NewUser, User, UserChange
from tenants.tables import UserRow
from tenants.work import Work


async def create_user(work: Work, new: NewUser, passwords: Passwords) -> CreatedUser:
    """Create a user, with a one-time password; raise `NameTaken`, or `PermissionExceeded`."""
    if new.is_platform_admin:
        grants.require_role(work.actor, Role.platform_admin)
    row, password = await add_user(work, new, passwords)
    return CreatedUser(shown(row), password)


async def add_user(work: Work, new: NewUser, passwords: Passwords) -> tuple[UserRow, str]:
    """Insert and audit the user; the caller has checked what the actor may grant."""
    taken = NameTaken(
        f"the user name {new.name!r} is in use; choose another name, or ask an administrator of the platform "
        f"to add that user"
    )
    if await queries.user_named(work.session, new.name) is not None:
        raise taken
    password = new_password()
    row = UserRow(
        id=new_id("usr"),
        name=new.name,
        display_name=new.display_name or new.name,
        password_hash=await passwords.hash(password),
        is_platform_admin=new.is_platform_admin,
        must_change_password=True,
        failed_logins=0,
        blocked_until=None,
        version=1,
        created_at=work.now(),
    )
    work.session.add(row)
    try:
        await work.session.flush()
    except IntegrityError as error:
        raise taken from error
    detail = {"name": row.name, "is_platform_admin": row.is_platform_admin}
    work.record("user.created", "user", row.id, detail=detail)
    return row, password


async def list_users(work: Work, page: PageRequest) -> Page[User]:
    rows = await queries.list_users(work.session, page)
    return page.page([shown(row) for row in rows], [row.id for row in rows])


async def get_user(work: Work, name_or_id: str) -> User:
    return shown(await queries.find_user(work.session, name_or_id))


async def lock_user(work: Work, name_or_id: str) -> UserRow:
    """The row to compare an ETag with and to change, locked until the transaction ends."""
    return await queries.lock_user(work.session, name_or_id)


async def update_user(work: Work, row: UserRow, change: UserChange) -> User:
    """Change what `change` names; raise `PermissionExceeded`, or `LastAdministrator`."""
    detail: dict[str, object] = {}
    if change.display_name is not None and change.display_name != row.display_name:
        row.display_name = detail["display_name"] = change.display_name
    if change.is_platform_admin is not None and change.is_platform_admin != row.is_platform_admin:
        grants.require_role(work.actor, Role.platform_admin)
        if not change.is_platform_admin:
            await _require_another_admin(work, row)
        row.is_platform_admin = detail["is_platform_admin"] = change.is_platform_admin
    if detail:
        row.version += 1
    work.record("user.updated", "user", row.id, detail=detail)
    return shown(row)


async def delete_user(work: Work, row: UserRow) -> None:
    """Delete the user with memberships and logins. Keys that he made belong to their tenants and stay."""
    if row.is_platform_admin:
        grants.require_role(work.actor, Role.platform_admin)
        await _require_another_admin(work, row)
    orphaned = await queries.tenants_left_without_admin(work.session, row.id)
    if orphaned:
        raise LastAdministrator(
            f"{row.name!r} is the only administrator of {', '.join(orphaned)}; "
            f"make someone else administrator there first"
        )
    await work.session.delete(row)
    work.record("user.deleted", "user", row.id, detail={"name": row.name})


async def reset_password(work: Work, row: UserRow, passwords: Passwords) -> str:
    """Give the user a new one-time password and end all logins."""
    if row.is_platform_admin:
        grants.require_role(work.actor, Role.platform_admin)
    password = new_password()
    row.password_hash = await passwords.hash(password)
    row.must_change_password = True
    row.failed_logins, row.blocked_until = 0, None
    row.version += 1
    await login_queries.delete_logins(work.session, row.id)
    work.record("user.password_reset", "user", row.id, detail={"name": row.name})
    return password


async def _require_another_admin(work: Work, row: UserRow) -> None:
    if list(await queries.lock_platform_admins(work.session)) == [row.id]:
        raise LastAdministrator(
            f"{row.name!r} is the last administrator of the platform; make another user administrator first"
        )


def shown(row: UserRow) -> User:
    return User(
        row.id,
        row.name,
        row.display_name,
        row.is_platform_admin,
        row.must_change_password,
        row.version,
        row.created_at,
    )
