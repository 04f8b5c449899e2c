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
from appliance.kernel.pagination import Page, PageRequest
from tenants import usage
from tenants.permissions import Permission
from tenants.usage_schemas import Grouping, UsageEntry, UsageFilter, UsageReport
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


def tenant_routes() -> list[ControllerRouterHandler]:
    """On both ports."""
    return [get_usage, list_usage_records]
