"""Routes of nodes and their devices, which are for the platform's administrators."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter
from litestar.types import ControllerRouterHandler
from msgspec import UNSET

from appliance.api.parameters import Labelled, labels_of
from appliance.api.problems import problems
from appliance.kernel.errors import InUse, NotFound
from appliance.kernel.pagination import Page, PageRequest
from gpu import cordoning, operations, queries
from gpu.inventory import Inventory
from gpu.schemas import (
    Device,
    DeviceFence,
    DeviceUpdate,
    Node,
    NodeUpdate,
)
from tenants.permissions import Permission
from tenants.work import Work

TAGS = ["Compute"]
SERVICES = "services"
"""The reconciler that plans again when there is room where there was none."""

InPool = Annotated[str | None, QueryParameter(name="pool", description="only those of this pool (name or id)")]
OnNode = Annotated[str | None, QueryParameter(name="node", description="only those of this node (name or id)")]


@get("/nodes", permission=Permission.platform_read, tags=TAGS, responses=problems(NotFound))
async def list_nodes(
    work: NamedDependency[Work], page: NamedDependency[PageRequest], pool: InPool = None, label: Labelled = None
) -> Page[Node]:
    """The machines, with what replicas have claimed of their memory."""
    pool_id = (await queries.pool_row(work.session, pool)).id if pool is not None else None
    return await queries.list_nodes(work.session, page, pool_id=pool_id, labels=labels_of(label))


@get("/nodes/{node:str}", permission=Permission.platform_read, tags=TAGS, responses=problems(NotFound))
async def get_node(work: NamedDependency[Work], node: FromPath[str]) -> Node:
    """One node, by name or id."""
    return await queries.show_node(work.session, await queries.node_row(work.session, node))


@patch("/nodes/{node:str}", permission=Permission.platform_write, tags=TAGS, responses=problems(NotFound, InUse))
async def update_node(work: NamedDependency[Work], node: FromPath[str], data: JSONBody[NodeUpdate]) -> Node:
    """Move a node on which nothing runs to another pool, or label it anew."""
    row = await cordoning.lock_node(work.session, node)
    detail: dict[str, Any] = {}
    if data.pool is not UNSET:
        pool = await queries.pool_row(work.session, data.pool)
        await operations.move_node(work.session, row, pool)
        detail["pool"] = pool.name
    if data.labels is not UNSET:
        await operations.label_node(work.session, row, data.labels)
        detail["labels"] = data.labels
    work.record("node.moved" if "pool" in detail else "node.updated", "node", row.id, detail=detail)
    work.wake(SERVICES)
    return await queries.show_node(work.session, row)


@get("/devices", permission=Permission.platform_read, tags=TAGS, responses=problems(NotFound))
async def list_devices(
    work: NamedDependency[Work], page: NamedDependency[PageRequest], node: OnNode = None, pool: InPool = None
) -> Page[Device]:
    """The devices, with their state and the replica that leases each."""
    node_id = (await queries.node_row(work.session, node)).id if node is not None else None
    pool_id = (await queries.pool_row(work.session, pool)).id if pool is not None else None
    return await queries.list_devices(work.session, page, node_id=node_id, pool_id=pool_id)


@get("/devices/{device_id:str}", permission=Permission.platform_read, tags=TAGS, responses=problems(NotFound))
async def get_device(work: NamedDependency[Work], device_id: FromPath[str]) -> Device:
    """One device."""
    return await queries.show_device(work.session, await queries.device_row(work.session, device_id))


@patch("/devices/{device_id:str}", permission=Permission.platform_write, tags=TAGS, responses=problems(NotFound, InUse))
async def move_device(work: NamedDependency[Work], device_id: FromPath[str], data: JSONBody[DeviceUpdate]) -> Device:
    """Move a device that nobody leases to another pool than its node's, or back."""
    row = await cordoning.lock_device(work.session, device_id)
    pool = await queries.pool_row(work.session, data.pool) if data.pool is not None else None
    await operations.move_device(work.session, row, pool)
    work.record("device.moved", "device", row.id, detail={"pool": pool.name if pool else None})
    work.wake(SERVICES)
    return await queries.show_device(work.session, row)


@post(
    "/devices/{device_id:str}/fence",
    status_code=200,
    permission=Permission.platform_write,
    tags=TAGS,
    responses=problems(NotFound),
)
async def fence_device(work: NamedDependency[Work], device_id: FromPath[str], data: JSONBody[DeviceFence]) -> Device:
    """Take a device out: it gets no new lease until it is cleared, and the replica that holds it is replaced."""
    row = await cordoning.lock_device(work.session, device_id)
    await operations.fence_device(work.session, row, data.reason)
    work.record("device.fenced", "device", row.id, detail={"reason": data.reason})
    work.wake(SERVICES)
    return await queries.show_device(work.session, row)


@post(
    "/devices/{device_id:str}/clear",
    status_code=200,
    permission=Permission.platform_write,
    tags=TAGS,
    responses=problems(NotFound),
)
async def clear_device(work: NamedDependency[Work], device_id: FromPath[str]) -> Device:
    """Lift a fence, whose cause is dealt with or accepted; the device is used again once a probe finds it well."""
    row = await cordoning.lock_device(work.session, device_id)
    await operations.clear_device(work.session, row)
    work.record("device.cleared", "device", row.id)
    work.wake(Inventory.name)
    return await queries.show_device(work.session, row)


def admin_routes() -> list[ControllerRouterHandler]:
    """On the admin port alone."""
    return [list_nodes, get_node, update_node, list_devices, get_device, move_device, fence_device, clear_device]
