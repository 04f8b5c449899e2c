"""Routes of flavors. Tenants see them; changes are the platform's."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from litestar.types import ControllerRouterHandler

from appliance.api.context import context_of
from appliance.api.idempotency import once
from appliance.api.parameters import IfMatch, expected, with_etag
from appliance.api.problems import problems
from appliance.kernel.errors import InUse, NameTaken, NotFound, StaleVersion
from appliance.kernel.pagination import Page, PageRequest
from gpu import operations, queries
from gpu.schemas import (
    Flavor,
    FlavorCreate,
    FlavorUpdate,
)
from tenants.permissions import Permission
from tenants.work import Work

TAGS = ["Compute"]
SERVICES = "services"
"""The reconciler that plans again when there is room where there was none."""


@get("/flavors", permission=Permission.compute_read, tags=TAGS, responses=problems())
async def list_flavors(work: NamedDependency[Work], page: NamedDependency[PageRequest]) -> Page[Flavor]:
    """The sizes that replicas come in."""
    return await queries.list_flavors(work.session, page)


@get("/flavors/{flavor:str}", permission=Permission.compute_read, tags=TAGS, responses=problems(NotFound))
async def get_flavor(work: NamedDependency[Work], flavor: FromPath[str]) -> Response[Flavor]:
    """One flavor, by name or id."""
    row = await queries.flavor_row(work.session, flavor)
    return with_etag(queries.show_flavor(row), row.version)


@post("/flavors", permission=Permission.platform_write, tags=TAGS, responses=problems(NameTaken))
async def create_flavor(
    request: Request[Any, Any, Any], work: NamedDependency[Work], data: JSONBody[FlavorCreate]
) -> Response[Flavor]:
    """Offer a size."""

    async def create() -> Flavor:
        row = await operations.create_flavor(work.session, work.clock, data)
        work.record("flavor.created", "flavor", row.id, detail={"name": row.name})
        return queries.show_flavor(row)

    return await once(request, work, create)


@patch(
    "/flavors/{flavor:str}",
    permission=Permission.platform_write,
    tags=TAGS,
    responses=problems(NotFound, NameTaken, StaleVersion, InUse),
)
async def update_flavor(
    request: Request[Any, Any, Any],
    work: NamedDependency[Work],
    flavor: FromPath[str],
    data: JSONBody[FlavorUpdate],
    if_match: IfMatch = None,
) -> Response[Flavor]:
    """Change a size for the replicas that start from now on; its devices only while no service uses it."""
    row = expected(await queries.flavor_row(work.session, flavor), if_match)
    await operations.update_flavor(work.session, row, data, context_of(request).parts.flavor_blockers)
    work.record("flavor.updated", "flavor", row.id, detail={"name": row.name})
    work.wake(SERVICES)
    return with_etag(queries.show_flavor(row), row.version)


@delete("/flavors/{flavor:str}", permission=Permission.platform_write, tags=TAGS, responses=problems(NotFound, InUse))
async def delete_flavor(request: Request[Any, Any, Any], work: NamedDependency[Work], flavor: FromPath[str]) -> None:
    """Withdraw a size that no service uses."""
    row = await queries.flavor_row(work.session, flavor)
    await operations.delete_flavor(work.session, row, context_of(request).parts.flavor_blockers)
    work.record("flavor.deleted", "flavor", row.id, detail={"name": row.name})


def tenant_routes() -> list[ControllerRouterHandler]:
    """On both ports."""
    return [list_flavors, get_flavor]


def admin_routes() -> list[ControllerRouterHandler]:
    """On the admin port alone."""
    return [create_flavor, update_flavor, delete_flavor]
