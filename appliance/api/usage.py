"""Routes of metered usage."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from litestar import Request, get
from litestar.di import NamedDependency, Provide
from litestar.params import QueryParameter
from litestar.types import ControllerRouterHandler

from appliance.api.context import context_of
from appliance.api.problems import problems
from appliance.gateway import latencies
from appliance.gateway.latencies import LatencyGrouping, LatencyReport
from appliance.kernel.pagination import Page, PageRequest
from appliance.services import device_time
from appliance.services.device_time import DeviceGrouping, DeviceTimeFilter, DeviceTimeReport
from tenants import usage
from tenants.permissions import Permission
from tenants.usage_schemas import Grouping, LatencyFilter, UsageEntry, UsageFilter, UsageReport
from tenants.work import Work

TAGS = ["Usage"]


async def provide_filter(
    request: Request[Any, Any, Any],
    since: Annotated[
        datetime | None, QueryParameter(name="since", description="from then on; 30 days by default")
    ] = None,
    until: Annotated[datetime | None, QueryParameter(name="until", description="before then; now by default")] = None,
    key: Annotated[str | None, QueryParameter(name="key", description="id of an API key")] = None,
    service: Annotated[str | None, QueryParameter(name="service", description="id of a service")] = None,
    model: Annotated[str | None, QueryParameter(name="model", description="name in the request")] = None,
) -> UsageFilter:
    now = context_of(request).clock.now()
    return usage.filter_of(now, since, until, key_id=key, service_id=service, model=model)


FILTER = {"wanted": Provide(provide_filter)}
GroupBy = Annotated[list[Grouping] | None, QueryParameter(name="group_by", description="repeat it to group by several")]
DeviceGroupBy = Annotated[
    list[DeviceGrouping] | None, QueryParameter(name="group_by", description="repeat it to group by several")
]
TimeZone = Annotated[str, QueryParameter(name="time_zone", description="IANA name; whose hours and days are meant")]


@get("/usage", permission=Permission.usage_read, tags=TAGS, responses=problems(), dependencies=FILTER)
async def get_usage(
    work: NamedDependency[Work],
    wanted: NamedDependency[UsageFilter],
    group_by: GroupBy = None,
    time_zone: TimeZone = "UTC",
) -> UsageReport:
    """Requests and tokens in total, by key, service, model, tenant, hour or day."""
    return await usage.report(work, wanted, group_by or [], time_zone)


@get("/usage/records", permission=Permission.usage_read, tags=TAGS, responses=problems(), dependencies=FILTER)
async def list_usage_records(
    work: NamedDependency[Work], page: NamedDependency[PageRequest], wanted: NamedDependency[UsageFilter]
) -> Page[UsageEntry]:
    """Single requests as they were metered, the latest first."""
    return await usage.list_records(work, wanted, page)


async def provide_latency_filter(
    request: Request[Any, Any, Any],
    since: Annotated[
        datetime | None, QueryParameter(name="since", description="from then on; one hour by default")
    ] = None,
    until: Annotated[datetime | None, QueryParameter(name="until", description="before then; now by default")] = None,
    service: Annotated[str | None, QueryParameter(name="service", description="id of a service")] = None,
    deployment: Annotated[str | None, QueryParameter(name="deployment", description="id of a deployment")] = None,
) -> LatencyFilter:
    now = context_of(request).clock.now()
    return latencies.filter_of(now, since, until, service_id=service, deployment_id=deployment)


@get(
    "/usage/latency",
    permission=Permission.usage_read,
    tags=TAGS,
    responses=problems(),
    dependencies={"wanted": Provide(provide_latency_filter)},
)
async def get_latency(
    work: NamedDependency[Work],
    wanted: NamedDependency[LatencyFilter],
    by: Annotated[LatencyGrouping, QueryParameter(description="kept apart by")] = LatencyGrouping.service,
) -> LatencyReport:
    """Percentiles of time to first token, time between tokens, queue and whole duration, by service or deployment.

    Of the caller's own services, whoever's keys were used. Kept for a week.
    """
    return await latencies.report(work, wanted, by)


@get("/usage/devices", permission=Permission.usage_read, tags=TAGS, responses=problems())
async def get_device_time(
    request: Request[Any, Any, Any],
    work: NamedDependency[Work],
    since: Annotated[
        datetime | None, QueryParameter(name="since", description="from that hour on; 30 days by default")
    ] = None,
    until: Annotated[datetime | None, QueryParameter(name="until", description="before then; now by default")] = None,
    service: Annotated[str | None, QueryParameter(name="service", description="id of a service")] = None,
    group_by: DeviceGroupBy = None,
    time_zone: TimeZone = "UTC",
) -> DeviceTimeReport:
    """Seconds for which devices were held, in total or by tenant, service, device model, hour or day.

    Metered from each lease's begin to its end; what is held now is in it up to a minute ago. A share of a device counts
    as that share.
    """
    begin, end = usage.span_of(context_of(request).clock.now(), since, until, usage.DEFAULT_SPAN)
    wanted = DeviceTimeFilter(since=begin, until=end, service_id=service)
    return await device_time.report(work, wanted, list(dict.fromkeys(group_by or [])), time_zone)


def tenant_routes() -> list[ControllerRouterHandler]:
    """On both ports."""
    return [get_usage, list_usage_records, get_latency, get_device_time]
