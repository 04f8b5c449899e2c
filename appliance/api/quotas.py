"""Routes of counted limits."""

from __future__ import annotations

import msgspec
from litestar import get, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from litestar.types import ControllerRouterHandler

from appliance.api.problems import problems
from appliance.kernel.errors import NotFound
from tenants import tenancy
from tenants.errors import LimitBelowUse
from tenants.permissions import Permission
from tenants.quotas import Resource
from tenants.schemas import Quota, QuotaChange
from tenants.work import Work

TAGS = ["Quotas"]


class Quotas(msgspec.Struct, frozen=True):
    items: list[Quota]


@get("/quotas", permission=Permission.usage_read, tags=TAGS, responses=problems())
async def list_quotas(work: NamedDependency[Work]) -> Quotas:
    """What is used of each limit: the tenant's, or the platform's own where no tenant is chosen."""
    return Quotas(await tenancy.list_quotas(work))


@put(
    "/quotas/{resource:str}",
    permission=Permission.platform_write,
    tags=TAGS,
    responses=problems(NotFound, LimitBelowUse),
)
async def set_quota(work: NamedDependency[Work], resource: FromPath[Resource], data: JSONBody[QuotaChange]) -> Quota:
    """Set a limit of the chosen tenant, or of the platform."""
    return await tenancy.set_limit(work, resource, data.limit)


def tenant_routes() -> list[ControllerRouterHandler]:
    """On both ports."""
    return [list_quotas]


def admin_routes() -> list[ControllerRouterHandler]:
    """On the admin port alone."""
    return [set_quota]
