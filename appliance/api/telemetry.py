"""Routes of the history of devices, nodes, tenants and the platform."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from litestar import Request, get
from litestar.di import NamedDependency, Provide
from litestar.params import FromPath, QueryParameter
from litestar.types import ControllerRouterHandler
from sqlalchemy import select

from appliance.api.context import Context, context_of
from appliance.api.nodes import InPool, OnNode
from appliance.api.problems import problems
from appliance.kernel.errors import BadInput, NotFound
from appliance.kernel.pagination import Page, PageRequest
from appliance.observe import history
from appliance.observe.errors import HistoryUnavailable
from appliance.observe.gauges import PLATFORM
from appliance.observe.history import History, Span
from appliance.observe.present import DevicePresent, list_present
from gpu import queries
from gpu.tables import DeviceRow
from tenants.permissions import Permission
from tenants.usage import span_of
from tenants.work import Work

TAGS = ["Telemetry"]


async def provide_span(
    request: Request[Any, Any, Any],
    since: Annotated[
        datetime | None, QueryParameter(name="since", description="from then on; one hour by default")
    ] = None,
    until: Annotated[datetime | None, QueryParameter(name="until", description="before then; now by default")] = None,
    step: Annotated[
        int | None,
        QueryParameter(name="step", ge=1, le=86_400, description="seconds that one value is of; chosen by default"),
    ] = None,
) -> Span:
    context = context_of(request)
    now = context.clock.now()
    begin, end = span_of(now, since, until, history.DEFAULT_SPAN)
    return history.span_of(now, begin, end, step, context.settings.compute.probe_period_s)


SPAN = {"span": Provide(provide_span)}
RESPONSES = problems(NotFound, BadInput, HistoryUnavailable)


@get("/telemetry/devices", permission=Permission.platform_read, tags=TAGS, responses=problems(NotFound))
async def list_devices_present(
    work: NamedDependency[Work], page: NamedDependency[PageRequest], node: OnNode = None, pool: InPool = None
) -> Page[DevicePresent]:
    """What each device did when it was last probed, and which replicas of whose services hold it."""
    node_id = (await queries.node_row(work.session, node)).id if node is not None else None
    pool_id = (await queries.pool_row(work.session, pool)).id if pool is not None else None
    return await list_present(work.session, page, node_id=node_id, pool_id=pool_id)


@get(
    "/telemetry/devices/{device_id:str}",
    permission=Permission.platform_read,
    tags=TAGS,
    responses=RESPONSES,
    dependencies=SPAN,
)
async def get_device_history(
    request: Request[Any, Any, Any], work: NamedDependency[Work], device_id: FromPath[str], span: NamedDependency[Span]
) -> History:
    """Utilisation, memory, temperature and power of a device. Where it was not seen, nothing is told."""
    row = await queries.device_row(work.session, device_id)
    return await _read(context_of(request), row.id, span)


@get(
    "/telemetry/nodes/{node:str}",
    permission=Permission.platform_read,
    tags=TAGS,
    responses=RESPONSES,
    dependencies=SPAN,
)
async def get_node_history(
    request: Request[Any, Any, Any], work: NamedDependency[Work], node: FromPath[str], span: NamedDependency[Span]
) -> History:
    """The same of a node's devices together: memory and power added up, utilisation and temperature on average."""
    row = await queries.node_row(work.session, node)
    devices = (await work.session.scalars(select(DeviceRow.id).where(DeviceRow.node_id == row.id))).all()
    return await _read_sum(context_of(request), devices, span)


@get("/telemetry/platform", permission=Permission.platform_read, tags=TAGS, responses=RESPONSES, dependencies=SPAN)
async def get_platform_history(
    request: Request[Any, Any, Any], work: NamedDependency[Work], span: NamedDependency[Span]
) -> History:
    """How many devices there are, are healthy, leased and free, and how fragmented what is free is."""
    work.actor.require(Permission.platform_read)
    return await _read(context_of(request), PLATFORM, span)


@get("/telemetry/tenant", permission=Permission.usage_read, tags=TAGS, responses=RESPONSES, dependencies=SPAN)
async def get_tenant_history(
    request: Request[Any, Any, Any], work: NamedDependency[Work], span: NamedDependency[Span]
) -> History:
    """How many devices, and how much of their memory, the tenant's replicas held."""
    return await _read(context_of(request), work.scope.one(), span)


async def _read(context: Context, series: str, span: Span) -> History:
    period = context.settings.compute.probe_period_s
    return await asyncio.to_thread(history.read, context.parts.telemetry, series, span, period)


async def _read_sum(context: Context, members: Sequence[str], span: Span) -> History:
    period = context.settings.compute.probe_period_s
    return await asyncio.to_thread(history.read_sum, context.parts.telemetry, members, span, period)


def tenant_routes() -> list[ControllerRouterHandler]:
    """On both ports."""
    return [get_tenant_history]


def admin_routes() -> list[ControllerRouterHandler]:
    """On the admin port alone."""
    return [list_devices_present, get_device_history, get_node_history, get_platform_history]
