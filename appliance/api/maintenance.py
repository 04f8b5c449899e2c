"""Routes that take nodes and devices out of use for a while, and show beforehand what that would do."""

from __future__ import annotations

from typing import Any

from litestar import Request, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from litestar.types import ControllerRouterHandler

from appliance.api.context import context_of
from appliance.api.problems import problems
from appliance.kernel.errors import NotFound
from appliance.services.moving import Effects
from appliance.services.reclaiming import effects_of_draining
from gpu import cordoning, queries
from gpu.schemas import Closing, Device, Node
from gpu.states import Disposition
from tenants.permissions import Permission
from tenants.work import Work

TAGS = ["Compute"]
SERVICES = "services"
"""The reconciler that moves what is to leave, and plans again when there is room where there was none."""
_WORDS = {
    Disposition.open: "uncordoned",
    Disposition.cordoned: "cordoned",
    Disposition.draining: "drained",
}


async def _dispose_node(work: Work, node: str, disposition: Disposition, reason: str | None = None) -> Node:
    row = await cordoning.lock_node(work.session, node)
    await cordoning.dispose(work.session, work.clock, row, disposition, reason)
    detail = {"name": row.name} | ({"reason": reason} if reason else {})
    work.record(f"node.{_WORDS[disposition]}", "node", row.id, detail=detail)
    work.wake(SERVICES)
    return await queries.show_node(work.session, row)


async def _dispose_device(work: Work, device_id: str, disposition: Disposition, reason: str | None = None) -> Device:
    row = await cordoning.lock_device(work.session, device_id)
    await cordoning.dispose(work.session, work.clock, row, disposition, reason)
    work.record(f"device.{_WORDS[disposition]}", "device", row.id, detail={"reason": reason} if reason else None)
    work.wake(SERVICES)
    return await queries.show_device(work.session, row)


@post(
    "/nodes/{node:str}/cordon",
    status_code=200,
    permission=Permission.platform_write,
    tags=TAGS,
    responses=problems(NotFound),
)
async def cordon_node(work: NamedDependency[Work], node: FromPath[str], data: JSONBody[Closing]) -> Node:
    """Place nothing new on a node; what runs there stays. Ends a drain."""
    return await _dispose_node(work, node, Disposition.cordoned, data.reason)


@post(
    "/nodes/{node:str}/drain",
    status_code=200,
    permission=Permission.platform_write,
    tags=TAGS,
    responses=problems(NotFound),
)
async def drain_node(work: NamedDependency[Work], node: FromPath[str], data: JSONBody[Closing]) -> Node:
    """Place nothing new on a node, and move what runs there elsewhere: one replica of a deployment at a time, as long
    as a successor is on its way. It is empty once `replicas` is 0.
    """
    return await _dispose_node(work, node, Disposition.draining, data.reason)


@post(
    "/nodes/{node:str}/uncordon",
    status_code=200,
    permission=Permission.platform_write,
    tags=TAGS,
    responses=problems(NotFound),
)
async def uncordon_node(work: NamedDependency[Work], node: FromPath[str]) -> Node:
    """Open a node again; one that is open stays as it is."""
    return await _dispose_node(work, node, Disposition.open)


@post(
    "/devices/{device_id:str}/cordon",
    status_code=200,
    permission=Permission.platform_write,
    tags=TAGS,
    responses=problems(NotFound),
)
async def cordon_device(work: NamedDependency[Work], device_id: FromPath[str], data: JSONBody[Closing]) -> Device:
    """Give a device no new lease; what runs on it stays. Ends a drain."""
    return await _dispose_device(work, device_id, Disposition.cordoned, data.reason)


@post(
    "/devices/{device_id:str}/drain",
    status_code=200,
    permission=Permission.platform_write,
    tags=TAGS,
    responses=problems(NotFound),
)
async def drain_device(work: NamedDependency[Work], device_id: FromPath[str], data: JSONBody[Closing]) -> Device:
    """Give a device no new lease, and move what runs on it elsewhere."""
    return await _dispose_device(work, device_id, Disposition.draining, data.reason)


@post(
    "/devices/{device_id:str}/uncordon",
    status_code=200,
    permission=Permission.platform_write,
    tags=TAGS,
    responses=problems(NotFound),
)
async def uncordon_device(work: NamedDependency[Work], device_id: FromPath[str]) -> Device:
    """Open a device again; one that is open stays as it is."""
    return await _dispose_device(work, device_id, Disposition.open)


@get(
    "/nodes/{node:str}/maintenance-preview",
    permission=Permission.platform_read,
    tags=TAGS,
    responses=problems(NotFound),
)
async def preview_node_maintenance(
    request: Request[Any, Any, Any], work: NamedDependency[Work], node: FromPath[str]
) -> Effects:
    """What draining a node would do: whom it affects, what would have to leave, and where it could go."""
    row = await queries.node_row(work.session, node)
    return await effects_of_draining(work.session, context_of(request).parts.catalog, work.now(), row)


@get(
    "/devices/{device_id:str}/maintenance-preview",
    permission=Permission.platform_read,
    tags=TAGS,
    responses=problems(NotFound),
)
async def preview_device_maintenance(
    request: Request[Any, Any, Any], work: NamedDependency[Work], device_id: FromPath[str]
) -> Effects:
    """What draining a device would do: whom it affects, what would have to leave, and where it could go."""
    row = await queries.device_row(work.session, device_id)
    return await effects_of_draining(work.session, context_of(request).parts.catalog, work.now(), row)


def admin_routes() -> list[ControllerRouterHandler]:
    """On the admin port alone."""
    return [
        preview_node_maintenance,
        preview_device_maintenance,
        cordon_node,
        drain_node,
        uncordon_node,
        cordon_device,
        drain_device,
        uncordon_device,
    ]
