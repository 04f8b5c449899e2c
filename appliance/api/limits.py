"""Routes of the limits that gateways enforce. They are set with what they bound: a key, a service, a tenant."""

from __future__ import annotations

from litestar import get
from litestar.di import NamedDependency
from litestar.types import ControllerRouterHandler

from appliance.api.problems import problems
from appliance.services import limits
from appliance.services.limits import LimitsReport
from tenants.permissions import Permission
from tenants.work import Work

TAGS = ["Limits"]


@get("/limits", permission=Permission.usage_read, tags=TAGS, responses=problems())
async def show_limits(work: NamedDependency[Work]) -> LimitsReport:
    """What a tenant, its services and its keys may use in a minute and at once, and what they used in the last minute.

    The use is what was metered so far: it follows the gateways' own, exact count by some seconds. Token budgets have
    routes of their own, and so have quotas.
    """
    return await limits.report(work)


def tenant_routes() -> list[ControllerRouterHandler]:
    """On both ports."""
    return [show_limits]
