import asyncio

import pytest
from sqlalchemy.exc import IntegrityError

from appliance.kernel.db import Database
from appliance.kernel.errors import NotFound
from appliance.kernel.ids import TenantId
from tenants import quotas, tenancy
from tenants.actors import Actor
from tenants.errors import LimitBelowUse
from tenants.permissions import Role
from tenants.quotas import QuotaExceeded, Resource
from tenants.schemas import Quota
from tests.tenants.conftest import WorkAs, acting

ATTEMPTS, LIMIT = 100, 10


async def _set_limit(work_as: WorkAs, tenant_id: TenantId, resource: Resource, limit: int) -> Quota:
    async with work_as(acting(Role.platform_admin, tenant_id)) as work:
        return await tenancy.set_limit(work, resource, limit)


async def test_a_hundred_at_once_at_a_limit_of_ten(database: Database, work_as: WorkAs, acme: TenantId):
    await _set_limit(work_as, acme, Resource.services, LIMIT)
    refusals: list[str] = []

    async def attempt() -> bool:
        try:
            async with database.write() as session:
                await quotas.take(session, acme, Resource.services)
        except QuotaExceeded as error:
            refusals.append(error.detail)
            return False
        return True

    taken = await asyncio.gather(*(attempt() for _ in range(ATTEMPTS)))
    assert sum(taken) == LIMIT
    assert len(refusals) == ATTEMPTS - LIMIT
    assert "uses 10 of 10 services" in refusals[0]
    async with work_as(acting(Role.viewer, acme)) as work:
        assert Quota(acme, Resource.services, LIMIT, LIMIT) in await tenancy.list_quotas(work)


async def test_what_is_given_back_can_be_taken_again(database: Database, work_as: WorkAs, acme: TenantId):
    await _set_limit(work_as, acme, Resource.devices, 1)
    for _ in range(2):
        async with database.write() as session:
            await quotas.take(session, acme, Resource.devices)
        async with database.write() as session:
            await quotas.give_back(session, acme, Resource.devices)


async def test_giving_back_twice_is_an_error(database: Database, acme: TenantId):
    with pytest.raises(IntegrityError):
        async with database.write() as session:
            await quotas.give_back(session, acme, Resource.devices)


async def test_without_a_counter_nothing_can_be_taken(database: Database):
    with pytest.raises(QuotaExceeded, match="has no quota of services"):
        async with database.write() as session:
            await quotas.take(session, "ten_nobody", Resource.services)


async def test_a_limit_below_the_use_is_refused(database: Database, work_as: WorkAs, acme: TenantId):
    async with database.write() as session:
        await quotas.take(session, acme, Resource.replicas, 4)
    with pytest.raises(LimitBelowUse, match="4 replicas are in use"):
        await _set_limit(work_as, acme, Resource.replicas, 3)
    assert (await _set_limit(work_as, acme, Resource.replicas, 4)).used == 4


async def test_a_counter_that_is_not_there_has_no_limit(work_as: WorkAs, acme: TenantId):
    with pytest.raises(NotFound):
        await _set_limit(work_as, acme, Resource.listeners, 3)


@pytest.mark.usefixtures("platform")
async def test_the_platform_has_a_counter_of_its_own(work_as: WorkAs, administrator: Actor):
    async with work_as(administrator) as work:
        assert await tenancy.list_quotas(work) == [Quota("platform", Resource.services, 0, 500)]
