from collections.abc import Mapping

import msgspec
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.db import Database
from appliance.kernel.errors import InUse, NameTaken, NotFound
from appliance.kernel.ids import TenantId
from appliance.kernel.pagination import PageRequest
from tenants import keys, tenancy
from tenants.actors import Actor
from tenants.permissions import Role
from tenants.quotas import Resource
from tenants.schemas import NewKey, NewTenant, TenantChange, TenantState, Trust
from tenants.scope import NOWHERE, PLATFORM, TenantScope
from tests.tenants.conftest import DEFAULTS, NewTenantOf, WorkAs, acting
from tests.tenants.support import no_services


async def test_a_new_tenant_has_its_counters(work_as: WorkAs, acme: TenantId):
    async with work_as(acting(Role.viewer, acme)) as work:
        limits = {quota.resource: quota.limit for quota in await tenancy.list_quotas(work)}
    assert limits == {
        Resource.services: 5,
        Resource.replicas: 5,
        Resource.devices: 5,
        Resource.device_memory_bytes: 1 << 40,
        Resource.cpu_millis: 64_000,
        Resource.memory_bytes: 1 << 40,
        Resource.storage_bytes: 1 << 40,
        Resource.keys: 3,
    }


@pytest.mark.usefixtures("acme")
async def test_names_are_unique(work_as: WorkAs, administrator: Actor):
    with pytest.raises(NameTaken, match="'acme' already; choose another"):
        async with work_as(administrator) as work:
            await tenancy.create_tenant(work, NewTenant(name="acme"), DEFAULTS)


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a_b", "a\n", "a" * 64, "../a", "a b"])
def test_names_are_host_labels(name: str):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"name": name}, NewTenant)


@pytest.mark.parametrize("name", ["a", "a1", "my-tenant", "a" * 63])
def test_host_labels_are_names(name: str):
    assert msgspec.convert({"name": name}, NewTenant).name == name


async def test_a_tenant_is_found_by_name_or_id_within_the_scope(
    database: Database, acme: TenantId, new_tenant: NewTenantOf
):
    other = await new_tenant("other")
    async with database.read() as session:
        for scope in (PLATFORM, TenantScope(acme)):
            assert (await tenancy.resolve_tenant(session, scope, "acme")).id == acme
            assert (await tenancy.resolve_tenant(session, scope, acme)).id == acme
        for scope in (TenantScope(other), NOWHERE):
            for name in ("acme", acme):
                with pytest.raises(NotFound, match=f"no tenant '{name}'"):
                    await tenancy.resolve_tenant(session, scope, name)


async def test_lists_are_paged(work_as: WorkAs, administrator: Actor, new_tenant: NewTenantOf):
    created = [await new_tenant(f"tenant-{number}") for number in range(5)]
    seen, page = [], PageRequest(2)
    async with work_as(administrator) as work:
        while True:
            answer = await tenancy.list_tenants(work, page)
            seen += [tenant.id for tenant in answer.items]
            if answer.next_cursor is None:
                break
            page = PageRequest(2, answer.next_cursor)
    assert seen == sorted(created, reverse=True)


async def test_a_change_raises_the_version(work_as: WorkAs, administrator: Actor, acme: TenantId):
    async with work_as(administrator) as work:
        row = await tenancy.lock_tenant(work, "acme")
        changed = await tenancy.update_tenant(work, row, TenantChange(state=TenantState.suspended))
        assert (changed.state, changed.version) == (TenantState.suspended, 2)
        assert "snapshot" in work.session.info["wake"]
        assert (await tenancy.update_tenant(work, row, TenantChange(state=TenantState.suspended))).version == 2
        assert (await tenancy.get_tenant(work, acme)).state is TenantState.suspended


async def test_a_tenant_that_owns_something_stays(work_as: WorkAs, administrator: Actor, acme: TenantId):
    async def services(_: AsyncSession, __: TenantId) -> Mapping[str, int]:
        return {"services": 2, "models": 0}

    async with work_as(acting(Role.tenant_admin, acme)) as work:
        await keys.create_key(work, NewKey(name="k"), no_services)
    with pytest.raises(InUse, match=r"still has 1 API keys, 2 services; delete them"):
        async with work_as(administrator) as work:
            await tenancy.delete_tenant(work, await tenancy.lock_tenant(work, "acme"), [services])


async def test_deleting_takes_counters_and_revoked_keys_along(work_as: WorkAs, administrator: Actor, acme: TenantId):
    async with work_as(acting(Role.tenant_admin, acme)) as work:
        await keys.create_key(work, NewKey(name="k"), no_services)
        await keys.revoke_key(work, "k")
    async with work_as(administrator) as work:
        await tenancy.delete_tenant(work, await tenancy.lock_tenant(work, "acme"), [])
    async with work_as(acting(Role.viewer, acme)) as work:
        assert await tenancy.list_quotas(work) == []
        assert (await keys.list_keys(work, PageRequest())).items == []
    async with work_as(administrator) as work:
        with pytest.raises(NotFound):
            await tenancy.get_tenant(work, acme)


@pytest.mark.parametrize("default", Trust)
async def test_a_new_tenant_is_trusted_as_it_was_said_or_as_the_setting_has_it(
    work_as: WorkAs, administrator: Actor, default: Trust
):
    defaults = msgspec.structs.replace(DEFAULTS, trust=default)
    async with work_as(administrator) as work:
        silent = await tenancy.create_tenant(work, NewTenant(name="silent"), defaults)
        said = await tenancy.create_tenant(work, NewTenant(name="said", trust=Trust.untrusted), defaults)
        row = await tenancy.lock_tenant(work, "said")
        changed = await tenancy.update_tenant(work, row, TenantChange(trust=Trust.trusted))
    assert (silent.trust, said.trust, changed.trust) == (default, Trust.untrusted, Trust.trusted)
    assert changed.version == said.version + 1
