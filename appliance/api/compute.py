"""Routes of compute. Tenants see pools and flavors; nodes, devices and every change are the platform's."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Request, Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter
from litestar.types import ControllerRouterHandler

from appliance.api.context import context_of
from appliance.api.idempotency import once
from appliance.api.parameters import IfMatch, expected, with_etag
from appliance.api.problems import problems
from appliance.kernel.errors import InUse, NameTaken, NotFound, StaleVersion
from appliance.kernel.pagination import Page, PageRequest
from gpu import operations, queries
from gpu.inventory import Inventory
from gpu.schemas import (
    Device,
    DeviceFence,
    Flavor,
    FlavorCreate,
    FlavorUpdate,
    Node,
    NodeUpdate,
    Pool,
    PoolCreate,
    PoolUpdate,
)
from tenants.permissions import Permission
from tenants.work import Work

TAGS = ["Compute"]
SERVICES = "services"
"""The reconciler that plans again when there is room where there was none."""

InPool = Annotated[str | None, QueryParameter(name="pool", description="only those of this pool (name or id)")]
OnNode = Annotated[str | None, QueryParameter(name="node", description="only those of this node (name or id)")]


@get("/pools", permission=Permission.compute_read, tags=TAGS, responses=problems())
async def list_pools(work: NamedDependency[Work], page: NamedDependency[PageRequest]) -> Page[Pool]:
    """The compute pools, with what devices they have and how many of them are free."""
    return await queries.list_pools(work.session, page)


@get("/pools/{pool:str}", permission=Permission.compute_read, tags=TAGS, responses=problems(NotFound))
async def get_pool(work: NamedDependency[Work], pool: FromPath[str]) -> Response[Pool]:
    """One pool, by name or id."""
    row = await queries.pool_row(work.session, pool)
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
    responses=problems(NotFound, NameTaken, StaleVersion),
)
async def update_pool(
    work: NamedDependency[Work], pool: FromPath[str], data: JSONBody[PoolUpdate], if_match: IfMatch = None
) -> Response[Pool]:
    """Rename a pool or describe it anew."""
    row = expected(await queries.pool_row(work.session, pool), if_match)
    await operations.update_pool(work.session, row, data)
    work.record("pool.updated", "pool", row.id, detail={"name": row.name})
    return with_etag(await queries.show_pool(work.session, row), row.version)


@delete("/pools/{pool:str}", permission=Permission.platform_write, tags=TAGS, responses=problems(NotFound, InUse))
async def delete_pool(request: Request[Any, Any, Any], work: NamedDependency[Work], pool: FromPath[str]) -> None:
    """Dissolve a pool that has no nodes."""
    row = await queries.pool_row(work.session, pool)
    await operations.delete_pool(work.session, row, context_of(request).parts.pool_blockers)
    work.record("pool.deleted", "pool", row.id, detail={"name": row.name})


@get("/nodes", permission=Permission.platform_read, tags=TAGS, responses=problems(NotFound))
async def list_nodes(
    work: NamedDependency[Work], page: NamedDependency[PageRequest], pool: InPool = None
) -> Page[Node]:
    """The machines, with what replicas have claimed of their memory."""
    pool_id = (await queries.pool_row(work.session, pool)).id if pool is not None else None
    return await queries.list_nodes(work.session, page, pool_id=pool_id)


@get("/nodes/{node:str}", permission=Permission.platform_read, tags=TAGS, responses=problems(NotFound))
async def get_node(work: NamedDependency[Work], node: FromPath[str]) -> Node:
    """One node, by name or id."""
    return await queries.show_node(work.session, await queries.node_row(work.session, node))


@patch("/nodes/{node:str}", permission=Permission.platform_write, tags=TAGS, responses=problems(NotFound, InUse))
async def move_node(work: NamedDependency[Work], node: FromPath[str], data: JSONBody[NodeUpdate]) -> Node:
    """Move a node on which nothing runs to another pool."""
    row = await queries.node_row(work.session, node)
    pool = await queries.pool_row(work.session, data.pool)
    await operations.move_node(work.session, row, pool)
    work.record("node.moved", "node", row.id, detail={"pool": pool.name})
    work.wake(SERVICES)
    return await queries.show_node(work.session, row)


@get("/devices", permission=Permission.platform_read, tags=TAGS, responses=problems(NotFound))
async def list_devices(
    work: NamedDependency[Work], page: NamedDependency[PageRequest], node: OnNode = None
) -> Page[Device]:
    """The devices, with their state and the replica that leases each."""
    node_id = (await queries.node_row(work.session, node)).id if node is not None else None
    return await queries.list_devices(work.session, page, node_id=node_id)


@get("/devices/{device_id:str}", permission=Permission.platform_read, tags=TAGS, responses=problems(NotFound))
async def get_device(work: NamedDependency[Work], device_id: FromPath[str]) -> Device:
    """One device."""
    return await queries.show_device(work.session, await queries.device_row(work.session, device_id))


@post(
    "/devices/{device_id:str}/fence",
    status_code=200,
    permission=Permission.platform_write,
    tags=TAGS,
    responses=problems(NotFound),
)
async def fence_device(work: NamedDependency[Work], device_id: FromPath[str], data: JSONBody[DeviceFence]) -> Device:
    """Take a device out: it gets no new lease until it is cleared. The replica that holds it goes on."""
    row = await queries.device_row(work.session, device_id)
    await operations.fence_device(work.session, row, data.reason)
    work.record("device.fenced", "device", row.id, detail={"reason": data.reason})
    return await queries.show_device(work.session, row)


@post(
    "/devices/{device_id:str}/clear",
    status_code=200,
    permission=Permission.platform_write,
    tags=TAGS,
    responses=problems(NotFound),
)
async def clear_device(work: NamedDependency[Work], device_id: FromPath[str]) -> Device:
    """Lift a fence; the device is used again once a probe has seen it healthy."""
    row = await queries.device_row(work.session, device_id)
    await operations.clear_device(work.session, row)
    work.record("device.cleared", "device", row.id)
    work.wake(Inventory.name)
    return await queries.show_device(work.session, row)


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
    responses=problems(NotFound, NameTaken, StaleVersion),
)
async def update_flavor(
    work: NamedDependency[Work], flavor: FromPath[str], data: JSONBody[FlavorUpdate], if_match: IfMatch = None
) -> Response[Flavor]:
    """Change a size for the replicas that start from now on."""
    row = expected(await queries.flavor_row(work.session, flavor), if_match)
    await operations.update_flavor(work.session, row, data)
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
    return [list_pools, get_pool, list_flavors, get_flavor]


def admin_routes() -> list[ControllerRouterHandler]:
    """On the admin port alone."""
    return [
        create_pool,
        update_pool,
        delete_pool,
        list_nodes,
        get_node,
        move_node,
        list_devices,
        get_device,
        fence_device,
        clear_device,
        create_flavor,
        update_flavor,
        delete_flavor,
    ]
