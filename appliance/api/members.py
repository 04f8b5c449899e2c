"""Routes of a tenant's members."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from litestar.types import ControllerRouterHandler

from appliance.api.context import context_of
from appliance.api.idempotency import once
from appliance.api.problems import problems
from appliance.kernel.errors import NameTaken, NotFound
from appliance.kernel.pagination import Page, PageRequest
from tenants import members
from tenants.errors import LastAdministrator, PermissionExceeded
from tenants.permissions import Permission
from tenants.schemas import AddedMember, Member, MemberChange, NewMember, OneTimePassword
from tenants.work import Work

TAGS = ["Members"]


@get("/members", permission=Permission.member_read, tags=TAGS, responses=problems())
async def list_members(work: NamedDependency[Work], page: NamedDependency[PageRequest]) -> Page[Member]:
    """The tenant's members with their roles."""
    return await members.list_members(work, page)


@post("/members", permission=Permission.member_write, tags=TAGS, responses=problems(NameTaken, PermissionExceeded))
async def add_member(
    request: Request[Any, Any, Any], work: NamedDependency[Work], data: JSONBody[NewMember]
) -> Response[AddedMember]:
    """Add a member: a new user, whose one-time password the answer has, this once."""
    passwords = context_of(request).passwords
    return await once(request, work, lambda: members.add_member(work, data, passwords), shown_once="one_time_password")


@patch(
    "/members/{user:str}",
    permission=Permission.member_write,
    tags=TAGS,
    responses=problems(NotFound, PermissionExceeded, LastAdministrator),
)
async def change_member(work: NamedDependency[Work], user: FromPath[str], data: JSONBody[MemberChange]) -> Member:
    """Give a member another role, at most one's own."""
    return await members.change_member(work, user, data)


@delete(
    "/members/{user:str}",
    permission=Permission.member_write,
    tags=TAGS,
    responses=problems(NotFound, PermissionExceeded, LastAdministrator),
)
async def remove_member(work: NamedDependency[Work], user: FromPath[str]) -> None:
    """Take a membership away. The user's keys are the tenant's: revoke them separately."""
    await members.remove_member(work, user)


@post(
    "/members/{user:str}/password",
    permission=Permission.member_write,
    status_code=200,
    tags=TAGS,
    responses=problems(NotFound, PermissionExceeded),
)
async def reset_member_password(
    request: Request[Any, Any, Any], work: NamedDependency[Work], user: FromPath[str]
) -> OneTimePassword:
    """Give a member of this tenant alone a new one-time password and end all logins."""
    return OneTimePassword(await members.reset_password(work, user, context_of(request).passwords))


def tenant_routes() -> list[ControllerRouterHandler]:
    """On both ports."""
    return [list_members, add_member, change_member, remove_member, reset_member_password]
