"""Routes of users, for the platform's administrators."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from litestar.types import ControllerRouterHandler

from appliance.api.context import context_of
from appliance.api.idempotency import once
from appliance.api.parameters import IfMatch, expected, versioned
from appliance.api.problems import problems
from appliance.kernel.errors import NameTaken, NotFound, StaleVersion
from appliance.kernel.pagination import Page, PageRequest
from tenants import users
from tenants.errors import LastAdministrator, PermissionExceeded
from tenants.permissions import Permission
from tenants.schemas import CreatedUser, NewUser, OneTimePassword, User, UserChange
from tenants.work import Work

TAGS = ["Users"]


@get("/users", permission=Permission.platform_read, tags=TAGS, responses=problems())
async def list_users(work: NamedDependency[Work], page: NamedDependency[PageRequest]) -> Page[User]:
    """The users of the platform, the newest first."""
    return await users.list_users(work, page)


@post("/users", permission=Permission.platform_write, tags=TAGS, responses=problems(NameTaken, PermissionExceeded))
async def create_user(
    request: Request[Any, Any, Any], work: NamedDependency[Work], data: JSONBody[NewUser]
) -> Response[CreatedUser]:
    """Create a user; the answer has the one-time password, this once."""
    passwords = context_of(request).passwords
    return await once(request, work, lambda: users.create_user(work, data, passwords), shown_once="one_time_password")


@get("/users/{user:str}", permission=Permission.platform_read, tags=TAGS, responses=problems(NotFound))
async def get_user(work: NamedDependency[Work], user: FromPath[str]) -> Response[User]:
    """One user, by name or id."""
    return versioned(await users.get_user(work, user))


@patch(
    "/users/{user:str}",
    permission=Permission.platform_write,
    tags=TAGS,
    responses=problems(NotFound, StaleVersion, PermissionExceeded, LastAdministrator),
)
async def update_user(
    work: NamedDependency[Work], user: FromPath[str], data: JSONBody[UserChange], if_match: IfMatch = None
) -> Response[User]:
    """Rename a user, or make him an administrator of the platform, or no longer one."""
    row = expected(await users.lock_user(work, user), if_match)
    return versioned(await users.update_user(work, row, data))


@delete(
    "/users/{user:str}",
    permission=Permission.platform_write,
    tags=TAGS,
    responses=problems(NotFound, StaleVersion, PermissionExceeded, LastAdministrator),
)
async def delete_user(work: NamedDependency[Work], user: FromPath[str], if_match: IfMatch = None) -> None:
    """Delete a user with memberships and logins."""
    row = expected(await users.lock_user(work, user), if_match)
    await users.delete_user(work, row)


@post(
    "/users/{user:str}/password",
    permission=Permission.platform_write,
    status_code=200,
    tags=TAGS,
    responses=problems(NotFound, PermissionExceeded),
)
async def reset_user_password(
    request: Request[Any, Any, Any], work: NamedDependency[Work], user: FromPath[str]
) -> OneTimePassword:
    """Give a user a new one-time password and end all logins."""
    row = await users.lock_user(work, user)
    return OneTimePassword(await users.reset_password(work, row, context_of(request).passwords))


def admin_routes() -> list[ControllerRouterHandler]:
    """On the admin port alone."""
    return [list_users, create_user, get_user, update_user, delete_user, reset_user_password]
