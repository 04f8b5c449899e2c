"""Routes of the audit trail."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from litestar import Request, get
from litestar.di import NamedDependency, Provide
from litestar.params import QueryParameter
from litestar.response import Stream
from litestar.types import ControllerRouterHandler

from appliance.api.context import context_of
from appliance.api.problems import problems
from appliance.api.work import open_work
from appliance.kernel.pagination import Page, PageRequest
from tenants import sealing, trail
from tenants.permissions import Permission
from tenants.queries.audit import AuditFilter
from tenants.sealing import ChainReport
from tenants.trail import AuditEvent
from tenants.work import Work

TAGS = ["Audit"]


async def provide_filter(
    actor: Annotated[str | None, QueryParameter(name="actor", description="id or name of who did it")] = None,
    action: Annotated[str | None, QueryParameter(name="action", description="for example service.created")] = None,
    target: Annotated[str | None, QueryParameter(name="target", description="id of what it was done to")] = None,
    since: Annotated[datetime | None, QueryParameter(name="since", description="from then on")] = None,
    until: Annotated[datetime | None, QueryParameter(name="until", description="before then")] = None,
) -> AuditFilter:
    return trail.filter_of(actor=actor, action=action, target=target, since=since, until=until)


FILTER = {"wanted": Provide(provide_filter)}


@get("/audit", permission=Permission.audit_read, tags=TAGS, responses=problems(), dependencies=FILTER)
async def list_audit_events(
    work: NamedDependency[Work], page: NamedDependency[PageRequest], wanted: NamedDependency[AuditFilter]
) -> Page[AuditEvent]:
    """What was changed, the latest first."""
    return await trail.list_events(work, wanted, page)


@get(
    "/audit/export",
    permission=Permission.audit_read,
    media_type="application/x-ndjson",
    tags=TAGS,
    responses=problems(),
    dependencies=FILTER,
)
async def export_audit_events(request: Request[Any, Any, Any], wanted: NamedDependency[AuditFilter]) -> Stream:
    """The same as JSON lines, the oldest first, with the hashes of the chain."""
    async with open_work(request) as work:  # closed before the answer streams
        scope = work.scope
    lines = trail.export(context_of(request).database, scope, wanted)
    headers = {"Content-Disposition": 'attachment; filename="audit.jsonl"'}
    return Stream(lines, media_type="application/x-ndjson", headers=headers)


@get("/audit/chain", permission=Permission.platform_read, tags=TAGS, responses=problems())
async def verify_chain(work: NamedDependency[Work]) -> ChainReport:
    """Work out the hash chain again and say where it breaks."""
    return await sealing.verify_chain(work.session)


def tenant_routes() -> list[ControllerRouterHandler]:
    """On both ports."""
    return [list_audit_events, export_audit_events]


def admin_routes() -> list[ControllerRouterHandler]:
    """On the admin port alone."""
    return [verify_chain]
