"""The one generator dependency: a request is one transaction, begun after its body was read.

Safe methods read, the others write. The route says which permission it needs (`permission=`); a route that says
nothing does not start. A write that left no audit row is rolled back. Litestar closes a single generator before
the response is sent, so a failed COMMIT is an error the caller sees; there must be no second generator.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from litestar import Request
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.api.authentication import authenticate
from appliance.api.context import context_of
from appliance.kernel.errors import AuditMissing
from appliance.kernel.logging import bind
from tenants import audit
from tenants.work import Work

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


async def provide_work(request: Request[Any, Any, Any]) -> AsyncGenerator[Work, None]:
    if request.method not in SAFE_METHODS:
        await request.body()  # whoever sends it slowly holds no transaction; a handler without `data` has not read it
    async with open_work(request) as work:
        yield work


@asynccontextmanager
async def open_work(request: Request[Any, Any, Any]) -> AsyncIterator[Work]:
    """For the few routes that must not hold a session while they answer: a stream, a log, a file."""
    if request.method in SAFE_METHODS:
        async with open_reading(request) as work:
            yield work
        return
    context = context_of(request)
    async with context.database.write() as session:
        yield await _work(session, request)
        if "unaudited" not in request.route_handler.opt and not audit.is_recorded(session):
            raise AuditMissing(path=request.scope["path"])


@asynccontextmanager
async def open_reading(request: Request[Any, Any, Any]) -> AsyncIterator[Work]:
    """For what a request looks up before its transaction begins."""
    async with context_of(request).database.read() as session:
        yield await _work(session, request)


async def _work(session: AsyncSession, request: Request[Any, Any, Any]) -> Work:
    context = context_of(request)
    actor = await authenticate(session, context, request)
    bind(actor=actor.name, tenant=actor.tenant_id)
    return Work(session, actor, context.clock)
