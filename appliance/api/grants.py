"""Routes of grants: a tenant sees its own, the platform's administrators give and take them."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Request, Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter
from litestar.types import ControllerRouterHandler

from appliance.api.context import context_of
from appliance.api.idempotency import once
from appliance.api.parameters import Force, IfMatch, expected, versioned
from appliance.api.problems import problems
from appliance.kernel.errors import InUse, NotFound, StaleVersion
from appliance.kernel.pagination import Page, PageRequest
from appliance.services import granting
from appliance.services.granting import Ending, GrantExists
from appliance.services.moving import Effects
from tenants.grant_schemas import Grant, GrantChange, GrantKind, NewGrant
from tenants.permissions import Permission
from tenants.queries import grants as queries
from tenants.queries.tenancy import find_tenant
from tenants.work import Work

AnyRequest = Request[Any, Any, Any]
TAGS = ["Grants"]
OfKind = Annotated[GrantKind | None, QueryParameter(description="only those of pools, gateways or device classes")]
OfTarget = Annotated[str | None, QueryParameter(description="only those of this pool or gateway (id) or device class")]
OfTenant = Annotated[str | None, QueryParameter(description="only those of this tenant (name or id)")]
Ends = Annotated[
    Ending, QueryParameter(description="whether it is deleted or expires; for device classes that differs")
]


@get("/grants", permission=Permission.compute_read, tags=TAGS, responses=problems(NotFound))
async def list_grants(
    work: NamedDependency[Work],
    page: NamedDependency[PageRequest],
    tenant: OfTenant = None,
    kind: OfKind = None,
    target: OfTarget = None,
) -> Page[Grant]:
    """What dedicated pools, gateways and device classes the caller's tenant may use; for an administrator, all."""
    tenant_id = (await find_tenant(work.session, work.scope, tenant)).id if tenant is not None else None
    return await granting.list_grants(work, page, tenant_id=tenant_id, kind=kind, target=target)


@get("/grants/{grant:str}", permission=Permission.compute_read, tags=TAGS, responses=problems(NotFound))
async def get_grant(work: NamedDependency[Work], grant: FromPath[str]) -> Response[Grant]:
    """One grant, by its id."""
    return versioned(await granting.get_grant(work, grant))


@post("/grants", permission=Permission.platform_write, tags=TAGS, responses=problems(NotFound, GrantExists, InUse))
async def create_grant(
    request: AnyRequest, work: NamedDependency[Work], data: JSONBody[NewGrant], *, force: Force = False
) -> Response[Grant]:
    """Let a tenant use a dedicated pool or gateway, or bind it to a class of devices.

    A tenant with grants of device classes may use those classes and no other. Where services of it run on others,
    they are named; with `force` they are drained.
    """
    return await once(request, work, lambda: granting.create_grant(work, data, force=force))


@get("/grants/{grant:str}/preview", permission=Permission.platform_read, tags=TAGS, responses=problems(NotFound))
async def preview_grant(
    request: AnyRequest, work: NamedDependency[Work], grant: FromPath[str], ending: Ends = Ending.deletion
) -> Effects:
    """What would become of what runs by this grant if it ended now: what has to leave, and where it could go."""
    return await granting.preview(work, context_of(request).parts.catalog, grant, ending)


@patch(
    "/grants/{grant:str}",
    permission=Permission.platform_write,
    tags=TAGS,
    responses=problems(NotFound, InUse, StaleVersion),
)
async def update_grant(
    work: NamedDependency[Work],
    grant: FromPath[str],
    data: JSONBody[GrantChange],
    if_match: IfMatch = None,
    *,
    force: Force = False,
) -> Response[Grant]:
    """Set when a grant expires. Where services run by it, a sooner end takes `force`; they are drained then."""
    row = expected(await queries.lock_grant(work.session, work.scope, grant), if_match)
    return versioned(await granting.update_grant(work, row, data, force=force))


@delete(
    "/grants/{grant:str}",
    permission=Permission.platform_write,
    tags=TAGS,
    responses=problems(NotFound, InUse, StaleVersion),
)
async def delete_grant(
    work: NamedDependency[Work],
    grant: FromPath[str],
    if_match: IfMatch = None,
    *,
    force: Force = False,
) -> None:
    """Take a grant back. Where services run by it alone they are named; with `force` they are drained."""
    row = expected(await queries.lock_grant(work.session, work.scope, grant), if_match)
    await granting.delete_grant(work, row, force=force)


def tenant_routes() -> list[ControllerRouterHandler]:
    """On both ports."""
    return [list_grants, get_grant]


def admin_routes() -> list[ControllerRouterHandler]:
    """On the admin port alone."""
    return [create_grant, preview_grant, update_grant, delete_grant]
