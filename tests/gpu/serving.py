"""The two applications over the routes of compute and runtimes, with a platform's and a tenant's key."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import httpx
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.api.context import Context, Port
from appliance.kernel.clock import ManualClock
from appliance.kernel.db import Database
from appliance.kernel.ids import TenantId
from appliance.runtimes.catalog import Catalog, RuntimeSpec
from tenants import keys, tenancy
from tenants.actors import system
from tenants.permissions import Permission
from tenants.schemas import NewKey, NewTenant, QuotaDefaults
from tenants.work import Work
from tests.support.apps import application


@dataclass
class Stage:
    """What the routes reach besides the database; `users` keep each flavor from being deleted."""

    catalog: Catalog = field(default_factory=lambda: Catalog([]))
    users: list[str] = field(default_factory=list)
    ready: bool = True

    @property
    def publishing(self) -> Any:
        return self

    @property
    def tenancy(self) -> Any:
        return self

    sightings: None = None

    def is_ready(self, _: RuntimeSpec) -> bool:
        return self.ready

    async def flavor_blockers(self, _: AsyncSession, __: str) -> Sequence[str]:
        return self.users

    async def pool_blockers(self, _: AsyncSession, __: str) -> Sequence[str]:
        return self.users


@asynccontextmanager
async def served(database: Database, clock: ManualClock, stage: Stage, port: Port) -> AsyncIterator[httpx.AsyncClient]:
    """A client of one port that sends the key that belongs there."""
    secret = await (_platform_key if port is Port.admin else _tenant_key)(database, clock)
    context = Context(port, cast("Any", None), database, clock, cast("Any", None), cast("Any", stage))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(cast("Any", application(context))),
        base_url="https://appliance.test",
        headers={"Authorization": f"Bearer {secret}"},
    ) as client:
        yield client


async def _platform_key(database: Database, clock: ManualClock) -> str:
    async with database.write() as session:
        work = Work(session, system("test"), clock)
        return str((await keys.create_platform_key(work, NewKey("root", list(Permission)))).secret)


async def _tenant_key(database: Database, clock: ManualClock) -> str:
    async def none(*_: object) -> Sequence[str]:
        return []

    async with database.write() as session:
        defaults = QuotaDefaults(
            services=5,
            replicas=5,
            devices=5,
            device_memory_bytes=1 << 40,
            cpu_millis=64_000,
            memory_bytes=1 << 40,
            storage_bytes=1 << 40,
            keys=3,
        )
        tenant = await tenancy.create_tenant(Work(session, system("test"), clock), NewTenant(name="acme"), defaults)
    async with database.write() as session:
        work = Work(session, system("test", TenantId(tenant.id)), clock)
        return str((await keys.create_key(work, NewKey("app", [Permission.compute_read]), none)).secret)


def runtimes_folder(folder: Path) -> Catalog:
    return Catalog.load([folder], has_devices=lambda: False)
