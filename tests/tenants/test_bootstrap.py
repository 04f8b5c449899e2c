from collections.abc import Awaitable, Callable

import pytest
from sqlalchemy import update

from appliance.kernel.clock import ManualClock
from appliance.kernel.crypto import Passwords
from appliance.kernel.db import Database
from appliance.kernel.errors import Unauthenticated
from tenants import authentication, bootstrap, keys, tenancy
from tenants.actors import Actor, system
from tenants.bootstrap import Bootstrapped
from tenants.permissions import Permission
from tenants.quotas import Resource
from tenants.tables import ApiKeyRow
from tests.tenants.conftest import WorkAs
from tests.tenants.support import actions

Start = Callable[[str | None], Awaitable[Bootstrapped]]


@pytest.fixture
def start(work_as: WorkAs, passwords: Passwords):
    async def ensure(operator_key: str | None) -> Bootstrapped:
        async with work_as(system("bootstrap")) as work:
            return await bootstrap.ensure_platform(
                work, services_limit=500, passwords=passwords, operator_key=operator_key
            )

    return ensure


async def _authenticate(database: Database, clock: ManualClock, secret: str | None) -> Actor:
    async with database.read() as session:
        return await authentication.authenticate_key(
            session, clock, secret or "", request_id=None, chosen_tenant=None, platform=True
        )


async def test_the_second_start_changes_nothing(start: Start, platform: Bootstrapped):
    assert platform.admin_password
    assert await start(platform.operator_key) == Bootstrapped(admin_password=None, operator_key=None)


@pytest.mark.parametrize("found", [None, "", "ak_something_else"])
async def test_a_lost_operator_key_is_replaced(
    start: Start, platform: Bootstrapped, database: Database, clock: ManualClock, found: str | None
):
    fresh = (await start(found)).operator_key
    assert (await _authenticate(database, clock, fresh)).permissions == frozenset(Permission)
    with pytest.raises(Unauthenticated):
        await _authenticate(database, clock, platform.operator_key)


async def test_a_revoked_operator_key_is_replaced(
    start: Start, platform: Bootstrapped, work_as: WorkAs, administrator: Actor
):
    async with work_as(administrator) as work:
        await keys.revoke_platform_key(work, bootstrap.OPERATOR_KEY)
    assert (await start(platform.operator_key)).operator_key


async def test_a_limit_that_was_set_stays(start: Start, platform: Bootstrapped, work_as: WorkAs, administrator: Actor):
    async with work_as(administrator) as work:
        await tenancy.set_limit(work, Resource.services, 7)
    await start(platform.operator_key)
    async with work_as(administrator) as work:
        assert [quota.limit for quota in await tenancy.list_quotas(work)] == [7]


async def test_the_operator_may_do_what_a_newer_release_brings(
    start: Start, platform: Bootstrapped, database: Database, clock: ManualClock
):
    async with database.write() as session:
        older = sorted(frozenset(Permission) - {Permission.budget_write})
        await session.execute(update(ApiKeyRow).values(scopes=older))
    assert (await start(platform.operator_key)).operator_key is None
    assert (await _authenticate(database, clock, platform.operator_key)).permissions == frozenset(Permission)
    assert (await actions(database)).count("key.updated") == 1
    await start(platform.operator_key)
    assert (await actions(database)).count("key.updated") == 1
