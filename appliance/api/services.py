"""Routes of inference services."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any

from litestar import Request, Response, delete, get, patch, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody, QueryParameter
from litestar.types import ControllerRouterHandler

from appliance.api.context import context_of
from appliance.api.idempotency import once
from appliance.api.parameters import IfMatch, expected, with_etag
from appliance.api.problems import problems
from appliance.api.work import open_reading, open_work
from appliance.gateway.errors import GatewayClosed, GatewayFull, NoSharedListener, PortOutsideGateway, PortTaken
from appliance.kernel.errors import BadInput, Conflict, NameTaken, NotFound, StaleVersion
from appliance.kernel.pagination import Page, PageRequest
from appliance.models.errors import ModelNotFound, VersionNotFound, VersionNotReady
from appliance.runtimes.errors import ArgumentRefused, CombinationRefused
from appliance.services import creation, lifecycle, planning, queries, views
from appliance.services.errors import (
    ActionNotAllowed,
    ReplicaNotFound,
    ServedModelTaken,
    ServiceNotFound,
    TenantUntrusted,
)
from appliance.services.planning import ServicePlan
from appliance.services.schemas import CreateService, EventView, ServiceView, ShareService, UpdateService
from appliance.services.states import ServiceState
from appliance.services.tables import ServiceRow
from gpu.estimate.errors import EstimateImpossible
from tenants.permissions import Permission
from tenants.quotas import QuotaExceeded
from tenants.work import Work

AnyRequest = Request[Any, Any, Any]
TAGS = ["Services"]


@get("/services", permission=Permission.service_read, responses=problems(), tags=TAGS)
async def list_services(
    request: AnyRequest,
    work: NamedDependency[Work],
    page: NamedDependency[PageRequest],
    in_state: Annotated[
        ServiceState | None, QueryParameter(name="state", description="only those in this state")
    ] = None,
    name: Annotated[str | None, QueryParameter(description="part of the name")] = None,
    model: Annotated[str | None, QueryParameter(description="name or id of a model")] = None,
) -> Page[ServiceView]:
    """List services, newest first."""
    rows = await queries.page(work.scope, work.session, page, state=in_state, name=name, model=model)
    parts = context_of(request).parts
    items = await views.services(work.session, rows.items, parts.origin)
    if not _reads_all(work):
        items = [parts.host_paths.service(item) for item in items]
    return Page(items=items, next_cursor=rows.next_cursor)


@post(
    "/services",
    permission=Permission.service_write,
    responses=problems(
        NameTaken,
        QuotaExceeded,
        NotFound,
        Conflict,
        ModelNotFound,
        VersionNotFound,
        VersionNotReady,
        CombinationRefused,
        TenantUntrusted,
        ArgumentRefused,
        EstimateImpossible,
        GatewayFull,
        GatewayClosed,
        PortTaken,
        PortOutsideGateway,
        NoSharedListener,
        ServedModelTaken,
    ),
    tags=TAGS,
)
async def create_service(request: AnyRequest, data: JSONBody[CreateService]) -> Response[ServiceView]:
    """Publish a model as an inference service; answers at once with state `pending`."""
    publishing = context_of(request).parts.publishing
    await _read_ahead(request, data)
    async with open_work(request) as work:

        async def create() -> ServiceView:
            return await _view(request, work, await creation.create_service(work, publishing, data))

        return await once(request, work, create)


@post(
    "/service-plans",
    permission=Permission.service_write,
    unaudited=True,
    status_code=200,
    responses=problems(
        NotFound,
        ModelNotFound,
        VersionNotFound,
        VersionNotReady,
        CombinationRefused,
        TenantUntrusted,
        ArgumentRefused,
        EstimateImpossible,
    ),
    tags=TAGS,
)
async def plan_service(request: AnyRequest, data: JSONBody[CreateService]) -> ServicePlan:
    """Tell what publishing would choose, what a replica would take and where it would go; nothing is made."""
    await _read_ahead(request, data)
    async with open_reading(request) as work:
        return await planning.plan_service(work, context_of(request).parts.publishing, data)


async def _read_ahead(request: AnyRequest, data: CreateService) -> None:
    """Read the model's headers before the transaction that needs them, which would keep other writers waiting."""
    publishing = context_of(request).parts.publishing
    try:
        async with open_reading(request) as work:
            model = await publishing.find_model(work.session, work.scope, data.model, data.model_version)
    except (NotFound, VersionNotReady, BadInput):
        return  # the transaction says so, or gives the answer again that it gave when the model was there
    await publishing.read_facts(model.version_id)


@get("/services/{service:str}", permission=Permission.service_read, responses=problems(ServiceNotFound), tags=TAGS)
async def show_service(
    request: AnyRequest, work: NamedDependency[Work], service: FromPath[str]
) -> Response[ServiceView]:
    """Show a service by its name or id, with its deployments and replicas."""
    row = await queries.find(work.scope, work.session, service)
    view = await _view(request, work, row)
    return with_etag(view, row.version)


@patch(
    "/services/{service:str}",
    permission=Permission.service_write,
    responses=problems(ServiceNotFound, ActionNotAllowed, StaleVersion, QuotaExceeded),
    tags=TAGS,
)
async def update_service(
    request: AnyRequest,
    work: NamedDependency[Work],
    service: FromPath[str],
    data: JSONBody[UpdateService],
    if_match: IfMatch = None,
) -> Response[ServiceView]:
    """Change replicas, where further ones go, description, sampling defaults, or how its requests are treated; live."""
    row = expected(await queries.find(work.scope, work.session, service, lock=True), if_match)
    await lifecycle.update_service(work, row, data)
    return await _answer(request, work, row)


@put(
    "/services/{service:str}/shared-with",
    permission=Permission.platform_write,
    responses=problems(ServiceNotFound, NotFound, Conflict, ServedModelTaken, ActionNotAllowed, StaleVersion),
    tags=TAGS,
)
async def share_service(
    request: AnyRequest,
    work: NamedDependency[Work],
    service: FromPath[str],
    data: JSONBody[ShareService],
    if_match: IfMatch = None,
) -> Response[ServiceView]:
    """Let the keys of these further tenants, and of no others, use the service; takes effect live."""
    row = expected(await queries.find(work.scope, work.session, service, lock=True), if_match)
    await lifecycle.share_service(work, row, data)
    return await _answer(request, work, row)


@post(
    "/services/{service:str}/start",
    permission=Permission.service_write,
    status_code=202,
    responses=problems(ServiceNotFound, ActionNotAllowed, QuotaExceeded, TenantUntrusted),
    tags=TAGS,
)
async def start_service(
    request: AnyRequest, work: NamedDependency[Work], service: FromPath[str]
) -> Response[ServiceView]:
    """Start a stopped service."""
    launcher = context_of(request).parts.publishing.launcher
    switch = _switch(request, work, service, partial(lifecycle.start_service, launcher=launcher))
    return await once(request, work, switch, status=202)


@post(
    "/services/{service:str}/stop",
    permission=Permission.service_write,
    status_code=202,
    responses=problems(ServiceNotFound, ActionNotAllowed),
    tags=TAGS,
)
async def stop_service(
    request: AnyRequest, work: NamedDependency[Work], service: FromPath[str]
) -> Response[ServiceView]:
    """Stop a service; it keeps its name and port. Running requests may finish."""
    switch = _switch(request, work, service, lifecycle.stop_service)
    return await once(request, work, switch, status=202)


@delete(
    "/services/{service:str}",
    permission=Permission.service_write,
    status_code=202,
    responses=problems(ServiceNotFound, ActionNotAllowed, StaleVersion),
    tags=TAGS,
)
async def delete_service(
    request: AnyRequest, work: NamedDependency[Work], service: FromPath[str], if_match: IfMatch = None
) -> Response[ServiceView]:
    """Delete a service; it is gone (404) once its replicas have stopped."""
    row = expected(await queries.find(work.scope, work.session, service, lock=True), if_match)
    await lifecycle.delete_service(work, row)
    return await _answer(request, work, row, status=202)


@get(
    "/services/{service:str}/events", permission=Permission.service_read, responses=problems(ServiceNotFound), tags=TAGS
)
async def list_service_events(
    request: AnyRequest, work: NamedDependency[Work], service: FromPath[str], page: NamedDependency[PageRequest]
) -> Page[EventView]:
    """What happened to the service, newest first."""
    row = await queries.find(work.scope, work.session, service)
    rows = await queries.events(work.session, row.id, page)
    items = [views.event(event) for event in rows.items]
    if not _reads_all(work):
        items = [context_of(request).parts.host_paths.event(item) for item in items]
    return Page(items=items, next_cursor=rows.next_cursor)


@get(
    "/services/{service:str}/logs",
    permission=Permission.service_read,
    responses=problems(ServiceNotFound, ReplicaNotFound),
    tags=TAGS,
    media_type="text/plain",
)
async def read_logs(
    request: AnyRequest,
    service: FromPath[str],
    replica: Annotated[str | None, QueryParameter(description="id of a replica")] = None,
    tail: Annotated[int, QueryParameter(ge=1, le=10_000, description="how many lines")] = 200,
) -> str:
    """The last lines of a replica's log (by default the newest replica's), also after its end."""
    async with open_work(request) as work:  # closed before the launcher is asked
        row = await queries.find(work.scope, work.session, service)
        chosen = await queries.replica(work.session, row.id, replica)
    parts = context_of(request).parts
    text = await parts.read_log(chosen.id, tail)
    return text if _reads_all(work) else await asyncio.to_thread(parts.host_paths.hide, text)


def _switch(
    request: AnyRequest, work: Work, service: str, act: Callable[[Work, ServiceRow], Awaitable[object]]
) -> Callable[[], Awaitable[ServiceView]]:
    async def switch() -> ServiceView:
        row = await queries.find(work.scope, work.session, service, lock=True)
        await act(work, row)
        return await _view(request, work, row)

    return switch


async def _answer(request: AnyRequest, work: Work, row: ServiceRow, *, status: int = 200) -> Response[ServiceView]:
    return with_etag(await _view(request, work, row), row.version, status=status)


async def _view(request: AnyRequest, work: Work, row: ServiceRow) -> ServiceView:
    await work.session.flush()
    parts = context_of(request).parts
    view = await views.service(work.session, row, parts.origin)
    return view if _reads_all(work) else parts.host_paths.service(view)


def _reads_all(work: Work) -> bool:
    """Whether the caller may know of the host's folders."""
    return Permission.platform_read in work.actor.permissions


def tenant_routes() -> list[ControllerRouterHandler]:
    """On both ports."""
    return [
        list_services,
        create_service,
        plan_service,
        show_service,
        update_service,
        start_service,
        stop_service,
        delete_service,
        list_service_events,
        read_logs,
    ]


def admin_routes() -> list[ControllerRouterHandler]:
    """On the admin port alone."""
    return [share_service]
