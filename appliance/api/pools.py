"""Routes of compute pools. Tenants see them; changes are the platform's."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from litestar.types import ControllerRouterHandler
from sqlalchemy import ColumnElement

from appliance.api.context import context_of
from appliance.api.idempotency import once
from appliance.api.parameters import Force, IfMatch, Labelled, expected, labels_of, with_etag
from appliance.api.problems import problems
from appliance.kernel.access import Access
from appliance.kernel.errors import InUse, NameTaken, NotFound, StaleVersion
from appliance.kernel.pagination import Page, PageRequest
from appliance.services import reclaiming
from gpu import operations, queries
from gpu.schemas import (
    Pool,
    PoolCreate,
    PoolUpdate,
)
from gpu.tables import PoolRow
from tenants import entitlements
from tenants.grant_schemas import GrantKind
from tenants.permissions import Permission
from tenants.work import Work

TAGS = ["Compute"]
SERVICES = "services"
"""The reconciler that lets go of what may not stay."""


@get("/pools", permission=Permission.compute_read, tags=TAGS, responses=problems())
async def list_pools(
    work: NamedDependency[Work], page: NamedDependency[PageRequest], label: Labelled = None
) -> Page[Pool]:
    """The compute pools that the caller may use, with what devices they have and how many of them are free."""
    return await queries.list_pools(work.session, page, _usable(work), labels=labels_of(label))


@get("/pools/{pool:str}", permission=Permission.compute_read, tags=TAGS, responses=problems(NotFound))
async def get_pool(work: NamedDependency[Work], pool: FromPath[str]) -> Response[Pool]:
    """One pool, by name or id."""
    row = await queries.pool_row(work.session, pool, _usable(work))
    return with_etag(await queries.show_pool(work.session, row), row.version)


@post("/pools", permission=Permission.platform_write, tags=TAGS, responses=problems(NameTaken))
async def create_pool(
    request: Request[Any, Any, Any], work: NamedDependency[Work], data: JSONBody[PoolCreate]
) -> Response[Pool]:
    """Form a pool; nodes are moved into it afterwards."""

    async def create() -> Pool:
        row = await operations.create_pool(work.session, work.clock, data)
        work.record("pool.created", "pool", row.id, detail={"name": row.name})
        return await queries.show_pool(work.session, row)

    return await once(request, work, create)


@patch(
    "/pools/{pool:str}",
    permission=Permission.platform_write,
    tags=TAGS,
    responses=problems(NotFound, NameTaken, InUse, StaleVersion),
)
async def update_pool(
    work: NamedDependency[Work],
    pool: FromPath[str],
    data: JSONBody[PoolUpdate],
    if_match: IfMatch = None,
    *,
    force: Force = False,
) -> Response[Pool]:
    """Rename, describe or label a pool, or change who may use it.

    Where services of tenants without a grant run in a pool that becomes dedicated they are named; with `force` they
    are drained.
    """
    row = expected(await queries.lock_pool(work.session, pool), if_match)
    if data.access is Access.dedicated and row.access == Access.public and not force:
        await reclaiming.require_no_guests(work.session, work.now(), row)
    await operations.update_pool(work.session, row, data)
    work.record("pool.updated", "pool", row.id, detail={"name": row.name, "access": row.access})
    work.wake(SERVICES)
    return with_etag(await queries.show_pool(work.session, row), row.version)


@delete("/pools/{pool:str}", permission=Permission.platform_write, tags=TAGS, responses=problems(NotFound, InUse))
async def delete_pool(request: Request[Any, Any, Any], work: NamedDependency[Work], pool: FromPath[str]) -> None:
    """Dissolve a pool that has no nodes."""
    row = await queries.pool_row(work.session, pool)
    await operations.delete_pool(work.session, row, context_of(request).parts.pool_blockers)
    work.record("pool.deleted", "pool", row.id, detail={"name": row.name})


def _usable(work: Work) -> ColumnElement[bool]:
    """A pool that a tenant may not use is not there for it."""
    return entitlements.usable(GrantKind.pool, PoolRow.access, PoolRow.id, work.scope, work.now())


def tenant_routes() -> list[ControllerRouterHandler]:
    """On both ports."""
    return [list_pools, get_pool]


def admin_routes() -> list[ControllerRouterHandler]:
    """On the admin port alone."""
    return [create_pool, update_pool, delete_pool]
