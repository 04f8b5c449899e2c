"""Routes of API keys: a tenant's on both ports, the platform's on the admin port."""

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
from appliance.kernel.errors import Conflict, NameTaken, NotFound, StaleVersion
from appliance.kernel.pagination import Page, PageRequest
from tenants import keys
from tenants.errors import PermissionExceeded
from tenants.permissions import Permission
from tenants.quotas import QuotaExceeded
from tenants.schemas import CreatedKey, Key, KeyChange, NewKey
from tenants.work import Work

TAGS = ["API keys"]


@get("/keys", permission=Permission.key_read, tags=TAGS, responses=problems())
async def list_keys(work: NamedDependency[Work], page: NamedDependency[PageRequest]) -> Page[Key]:
    """API keys, the newest first; never their secrets."""
    return await keys.list_keys(work, page)


@post(
    "/keys",
    permission=Permission.key_write,
    tags=TAGS,
    responses=problems(NameTaken, PermissionExceeded, QuotaExceeded),
)
async def create_key(
    request: Request[Any, Any, Any], work: NamedDependency[Work], data: JSONBody[NewKey]
) -> Response[CreatedKey]:
    """Create a key with at most one's own permissions; the answer has its secret, this once."""
    check = context_of(request).parts.tenancy.check_services
    return await once(request, work, lambda: keys.create_key(work, data, check), shown_once="secret")


@get("/keys/{key:str}", permission=Permission.key_read, tags=TAGS, responses=problems(NotFound))
async def get_key(work: NamedDependency[Work], key: FromPath[str]) -> Response[Key]:
    """One key, by name or id."""
    return versioned(await keys.get_key(work, key))


@patch(
    "/keys/{key:str}",
    permission=Permission.key_write,
    tags=TAGS,
    responses=problems(NotFound, Conflict, StaleVersion),
)
async def update_key(
    request: Request[Any, Any, Any],
    work: NamedDependency[Work],
    key: FromPath[str],
    data: JSONBody[KeyChange],
    if_match: IfMatch = None,
) -> Response[Key]:
    """Change the services, routes and networks that a key is restricted to, or its limits; takes effect live."""
    row = expected(await keys.lock_key(work, key), if_match)
    return versioned(await keys.update_key(work, row, data, context_of(request).parts.tenancy.check_services))


@post(
    "/keys/{key:str}/revoke", permission=Permission.key_write, status_code=200, tags=TAGS, responses=problems(NotFound)
)
async def revoke_key(work: NamedDependency[Work], key: FromPath[str]) -> Key:
    """Make a key useless at once; it stays in the list."""
    return await keys.revoke_key(work, key)


@delete("/keys/{key:str}", permission=Permission.key_write, tags=TAGS, responses=problems(NotFound, Conflict))
async def delete_key(work: NamedDependency[Work], key: FromPath[str]) -> None:
    """Delete a revoked key, which frees its name."""
    await keys.delete_key(work, key)


@get("/platform/keys", permission=Permission.platform_read, tags=TAGS, responses=problems())
async def list_platform_keys(work: NamedDependency[Work], page: NamedDependency[PageRequest]) -> Page[Key]:
    """The keys of the admin port, the newest first."""
    return await keys.list_platform_keys(work, page)


@post(
    "/platform/keys",
    permission=Permission.platform_write,
    tags=TAGS,
    responses=problems(NameTaken, PermissionExceeded),
)
async def create_platform_key(
    request: Request[Any, Any, Any], work: NamedDependency[Work], data: JSONBody[NewKey]
) -> Response[CreatedKey]:
    """Create a key for the admin port; the answer has its secret, this once."""
    return await once(request, work, lambda: keys.create_platform_key(work, data), shown_once="secret")


@post(
    "/platform/keys/{key:str}/revoke",
    permission=Permission.platform_write,
    status_code=200,
    tags=TAGS,
    responses=problems(NotFound),
)
async def revoke_platform_key(work: NamedDependency[Work], key: FromPath[str]) -> Key:
    """Make a key of the admin port useless at once."""
    return await keys.revoke_platform_key(work, key)


@delete(
    "/platform/keys/{key:str}",
    permission=Permission.platform_write,
    tags=TAGS,
    responses=problems(NotFound, Conflict),
)
async def delete_platform_key(work: NamedDependency[Work], key: FromPath[str]) -> None:
    """Delete a revoked key of the admin port."""
    await keys.delete_platform_key(work, key)


def tenant_routes() -> list[ControllerRouterHandler]:
    """On both ports."""
    return [list_keys, create_key, get_key, update_key, revoke_key, delete_key]


def admin_routes() -> list[ControllerRouterHandler]:
    """On the admin port alone."""
    return [list_platform_keys, create_platform_key, revoke_platform_key, delete_platform_key]
