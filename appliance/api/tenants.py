"""Routes of tenants, for the platform's administrators."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Request, Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter
from litestar.types import ControllerRouterHandler

from appliance.api.context import context_of
from appliance.api.idempotency import once
from appliance.api.parameters import IfMatch, expected, versioned
from appliance.api.problems import problems
from appliance.kernel.errors import InUse, NameTaken, NotFound, StaleVersion
from appliance.kernel.pagination import Page, PageRequest
from tenants import tenancy
from tenants.permissions import Permission
from tenants.schemas import NewTenant, Tenant, TenantChange
from tenants.work import Work

TAGS = ["Tenants"]


@get("/tenants", permission=Permission.platform_read, tags=TAGS, responses=problems())
async def list_tenants(
    work: NamedDependency[Work],
    page: NamedDependency[PageRequest],
    name: Annotated[str | None, QueryParameter(description="only the one of this name")] = None,
) -> Page[Tenant]:
    """The tenants, the newest first."""
    return await tenancy.list_tenants(work, page, name=name)


@post("/tenants", permission=Permission.platform_write, tags=TAGS, responses=problems(NameTaken))
async def create_tenant(
    request: Request[Any, Any, Any], work: NamedDependency[Work], data: JSONBody[NewTenant]
) -> Response[Tenant]:
    """Create a tenant with the default limits."""
    defaults = context_of(request).parts.tenancy.quota_defaults
    return await once(request, work, lambda: tenancy.create_tenant(work, data, defaults))


@get("/tenants/{tenant:str}", permission=Permission.platform_read, tags=TAGS, responses=problems(NotFound))
async def get_tenant(work: NamedDependency[Work], tenant: FromPath[str]) -> Response[Tenant]:
    """One tenant, by name or id."""
    return versioned(await tenancy.get_tenant(work, tenant))


@patch(
    "/tenants/{tenant:str}",
    permission=Permission.platform_write,
    tags=TAGS,
    responses=problems(NotFound, StaleVersion),
)
async def update_tenant(
    work: NamedDependency[Work], tenant: FromPath[str], data: JSONBody[TenantChange], if_match: IfMatch = None
) -> Response[Tenant]:
    """Rename, suspend or activate a tenant, or set its limits and priority at the gateway.

    A suspended tenant's keys and logins open nothing.
    """
    row = expected(await tenancy.lock_tenant(work, tenant), if_match)
    return versioned(await tenancy.update_tenant(work, row, data))


@delete(
    "/tenants/{tenant:str}",
    permission=Permission.platform_write,
    tags=TAGS,
    responses=problems(NotFound, StaleVersion, InUse),
)
async def delete_tenant(
    request: Request[Any, Any, Any], work: NamedDependency[Work], tenant: FromPath[str], if_match: IfMatch = None
) -> None:
    """Delete a tenant that owns nothing any more."""
    row = expected(await tenancy.lock_tenant(work, tenant), if_match)
    await tenancy.delete_tenant(work, row, context_of(request).parts.tenancy.blockers)


def admin_routes() -> list[ControllerRouterHandler]:
    """On the admin port alone."""
    return [list_tenants, create_tenant, get_tenant, update_tenant, delete_tenant]
