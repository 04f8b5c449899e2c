"""Routes of gateways. Tenants see them, with their free ports and their own listeners; changes are the platform's."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, delete, get, patch, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from litestar.types import ControllerRouterHandler

from appliance.api.context import context_of
from appliance.api.idempotency import once
from appliance.api.parameters import Force, IfMatch, expected, with_etag
from appliance.api.problems import problems
from appliance.gateway import operations, queries, sharing, views
from appliance.gateway.errors import (
    GatewayClosed,
    GatewayFull,
    PortOutsideGateway,
    PortRangeRefused,
    PortsTaken,
    PortTaken,
)
from appliance.gateway.schemas import GatewayChange, GatewayView, NewGateway, SharedListener
from appliance.gateway.tables import GatewayRow
from appliance.kernel.access import Access
from appliance.kernel.errors import InUse, NameTaken, NotFound, StaleVersion
from appliance.kernel.pagination import Page, PageRequest
from appliance.services import reclaiming
from appliance.services.errors import ServedModelTaken
from appliance.services.names import require_clear_gateway
from appliance.services.queries import service_names
from appliance.services.transitions import SERVICES
from appliance.services.users import services_without_port
from tenants.permissions import Permission
from tenants.work import Work

AnyRequest = Request[Any, Any, Any]
TAGS = ["Gateways"]


@get("/gateways", permission=Permission.compute_read, tags=TAGS, responses=problems())
async def list_gateways(
    request: AnyRequest, work: NamedDependency[Work], page: NamedDependency[PageRequest]
) -> Page[GatewayView]:
    """The gateways that the caller may use, with their free ports, and the caller's listeners with their states."""
    rows = await queries.list_gateways(work.session, page, queries.usable_by(work.scope, work.now()))
    shown = await views.gateways(work.session, work.scope, rows, context_of(request).settings.home_path)
    return page.page(shown, [row.id for row in rows])


@get("/gateways/{gateway:str}", permission=Permission.compute_read, tags=TAGS, responses=problems(NotFound))
async def get_gateway(
    request: AnyRequest, work: NamedDependency[Work], gateway: FromPath[str]
) -> Response[GatewayView]:
    """One gateway, by name or id."""
    usable = queries.usable_by(work.scope, work.now())
    return await _answer(request, work, await queries.find_gateway(work.session, gateway, usable))


@post(
    "/gateways",
    permission=Permission.platform_write,
    tags=TAGS,
    responses=problems(NameTaken, PortsTaken, PortRangeRefused),
)
async def create_gateway(
    request: AnyRequest, work: NamedDependency[Work], data: JSONBody[NewGateway]
) -> Response[GatewayView]:
    """Open a gateway: at most 16 ports of the machine, outside 32768 to 60999."""
    context = context_of(request)

    async def create() -> GatewayView:
        row = await operations.create_gateway(work, data, context.parts.port_rules)
        return await views.gateway(work.session, work.scope, row, context.settings.home_path)

    return await once(request, work, create)


@patch(
    "/gateways/{gateway:str}",
    permission=Permission.platform_write,
    tags=TAGS,
    responses=problems(NotFound, NameTaken, PortsTaken, PortRangeRefused, InUse, StaleVersion),
)
async def change_gateway(
    request: AnyRequest,
    work: NamedDependency[Work],
    gateway: FromPath[str],
    data: JSONBody[GatewayChange],
    if_match: IfMatch = None,
    *,
    force: Force = False,
) -> Response[GatewayView]:
    """Rename, move, widen, close or reopen a gateway; ports with listeners must stay in its range.

    Where services of tenants without a grant are on a gateway that becomes dedicated they are named; with `force`
    their replicas are drained.
    """
    row = expected(await queries.lock_gateway(work.session, gateway), if_match)
    if data.access is Access.dedicated and row.access == Access.public and not force:
        await reclaiming.require_no_guests(work.session, work.now(), row)
    await operations.change_gateway(work, row, data, context_of(request).parts.port_rules)
    work.wake(SERVICES)
    return await _answer(request, work, row)


@delete(
    "/gateways/{gateway:str}",
    permission=Permission.platform_write,
    tags=TAGS,
    responses=problems(NotFound, InUse, StaleVersion),
)
async def delete_gateway(work: NamedDependency[Work], gateway: FromPath[str], if_match: IfMatch = None) -> None:
    """Remove a gateway that has no listeners."""
    row = expected(await queries.lock_gateway(work.session, gateway), if_match)
    await operations.delete_gateway(work, row, service_names)


@put(
    "/gateways/{gateway:str}/shared-listener",
    permission=Permission.platform_write,
    tags=TAGS,
    responses=problems(
        NotFound, GatewayClosed, GatewayFull, PortOutsideGateway, PortTaken, ServedModelTaken, StaleVersion
    ),
)
async def share_gateway(
    request: AnyRequest,
    work: NamedDependency[Work],
    gateway: FromPath[str],
    data: JSONBody[SharedListener],
    if_match: IfMatch = None,
) -> Response[GatewayView]:
    """Give a gateway a port that leads to all its services, by path or by the model that a request names.

    It is one of the gateway's ports. Where there is one already it is moved to the port that is given.
    """
    row = expected(await queries.lock_gateway(work.session, gateway), if_match)
    await require_clear_gateway(work.session, row.id)
    await sharing.open_shared_listener(work, row, data.port)
    await work.session.flush()
    return await _answer(request, work, row)


@delete(
    "/gateways/{gateway:str}/shared-listener",
    permission=Permission.platform_write,
    tags=TAGS,
    responses=problems(NotFound, InUse, StaleVersion),
)
async def unshare_gateway(work: NamedDependency[Work], gateway: FromPath[str], if_match: IfMatch = None) -> None:
    """Take a gateway's shared listener away, which no service may depend on."""
    row = expected(await queries.lock_gateway(work.session, gateway), if_match)
    await sharing.close_shared_listener(work, row, services_without_port)


async def _answer(request: AnyRequest, work: Work, row: GatewayRow) -> Response[GatewayView]:
    view = await views.gateway(work.session, work.scope, row, context_of(request).settings.home_path)
    return with_etag(view, row.version)


def tenant_routes() -> list[ControllerRouterHandler]:
    """On both ports."""
    return [list_gateways, get_gateway]


def admin_routes() -> list[ControllerRouterHandler]:
    """On the admin port alone."""
    return [create_gateway, change_gateway, delete_gateway, share_gateway, unshare_gateway]
