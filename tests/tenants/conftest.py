"""An appliance's people for tests: the platform's administrator, tenants, and work in anybody's name."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from argon2 import PasswordHasher

from appliance.kernel import leases
from appliance.kernel.clock import ManualClock
from appliance.kernel.crypto import Passwords
from appliance.kernel.db import Database
from appliance.kernel.ids import TenantId
from appliance.kernel.leases import Lease
from appliance.kernel.settings import LoginSettings
from tenants import bootstrap, tenancy
from tenants.actors import Actor, ActorKind, system
from tenants.logins import LoginDesk
from tenants.permissions import PERMISSIONS, Role
from tenants.schemas import NewTenant, QuotaDefaults
from tenants.work import Work

DEFAULTS = QuotaDefaults(
    services=5,
    replicas=5,
    devices=5,
    device_memory_bytes=1 << 40,
    cpu_millis=64_000,
    memory_bytes=1 << 40,
    storage_bytes=1 << 40,
    keys=3,
)

WorkAs = Callable[[Actor], AbstractAsyncContextManager[Work]]
NewTenantOf = Callable[[str], Awaitable[TenantId]]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(scope="session")
def passwords() -> Iterator[Passwords]:
    passwords = Passwords(PasswordHasher(time_cost=1, memory_cost=64, parallelism=1))  # as cheap as can be
    yield passwords
    passwords.close()


@pytest.fixture
async def lease(database: Database, clock: ManualClock) -> Lease:
    async with database.write() as session:
        return await leases.take(session, "control", "test", clock)


@pytest.fixture
def work_as(database: Database, clock: ManualClock) -> WorkAs:
    """`async with work_as(actor) as work`: one transaction in the actor's name, committed at the end."""

    @asynccontextmanager
    async def begin(actor: Actor) -> AsyncIterator[Work]:
        async with database.write() as session:
            yield Work(session, actor, clock)

    return begin


@pytest.fixture
async def platform(work_as: WorkAs, passwords: Passwords) -> bootstrap.Bootstrapped:
    """A new appliance; the secrets of its first administrator and operator."""
    async with work_as(system("bootstrap")) as work:
        return await bootstrap.ensure_platform(work, services_limit=500, passwords=passwords, operator_key=None)


@pytest.fixture
def administrator() -> Actor:
    """Someone who may do everything and has chosen no tenant."""
    return Actor(ActorKind.user, "usr_administrator", "root", None, PERMISSIONS[Role.platform_admin], "req_1")


@pytest.fixture
def new_tenant(work_as: WorkAs, administrator: Actor) -> NewTenantOf:
    async def create(name: str) -> TenantId:
        async with work_as(administrator) as work:
            return TenantId((await tenancy.create_tenant(work, NewTenant(name=name), DEFAULTS)).id)

    return create


@pytest.fixture
async def acme(new_tenant: NewTenantOf) -> TenantId:
    return await new_tenant("acme")


@pytest.fixture
def desk(database: Database, clock: ManualClock, passwords: Passwords) -> LoginDesk:
    return LoginDesk(database, clock, passwords, LoginSettings(idle_s=600, lifetime_s=3600))


def acting(role: Role, tenant_id: TenantId, name: str = "someone") -> Actor:
    """Someone with `role` in the tenant, as the tenant port sees him."""
    return Actor(ActorKind.user, f"usr_{name}", name, tenant_id, PERMISSIONS[role], "req_1")
