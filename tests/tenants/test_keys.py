import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from appliance.kernel.clock import ManualClock
from appliance.kernel.crypto import sha256_hex
from appliance.kernel.db import Database
from appliance.kernel.errors import BadInput, Conflict, NameTaken, NotFound
from appliance.kernel.ids import TenantId, new_id
from appliance.kernel.pagination import PageRequest
from tenants import authentication, keys, tenancy
from tenants.actors import Actor
from tenants.errors import PermissionExceeded
from tenants.permissions import PERMISSIONS, TENANT_PERMISSIONS, Permission, Role
from tenants.queries import keys as queries
from tenants.quotas import QuotaExceeded, Resource
from tenants.schemas import CreatedKey, KeyState, NewKey
from tenants.tables import ApiKeyRow
from tests.tenants.conftest import NewTenantOf, WorkAs, acting
from tests.tenants.support import actions, all_services, no_services

CreateKey = Callable[[Actor, NewKey], Awaitable[CreatedKey]]


@pytest.fixture
def create(work_as: WorkAs):
    async def create_key(actor: Actor, new: NewKey) -> CreatedKey:
        async with work_as(actor) as work:
            return await keys.create_key(work, new, all_services)

    return create_key


async def _used(work_as: WorkAs, tenant_id: TenantId) -> int:
    async with work_as(acting(Role.viewer, tenant_id)) as work:
        return next(quota.used for quota in await tenancy.list_quotas(work) if quota.resource is Resource.keys)


async def test_a_key_is_shown_once_and_kept_as_a_hash(
    create: CreateKey, database: Database, work_as: WorkAs, acme: TenantId
):
    created = await create(acting(Role.developer, acme), NewKey(name="ci"))
    assert created.secret.startswith(f"{created.key.prefix}_")
    assert len(created.secret) == 55
    assert created.key.scopes == [Permission.inference]
    async with database.read() as session:
        row = await session.get_one(ApiKeyRow, created.key.id)
        assert row.secret_sha256 == sha256_hex(created.secret)
        assert created.secret not in repr(vars(row))
    assert (await actions(database)).count("key.created") == 1
    assert await _used(work_as, acme) == 1


async def test_names_are_unique_until_the_key_is_deleted(create: CreateKey, work_as: WorkAs, acme: TenantId):
    me = acting(Role.developer, acme)
    await create(me, NewKey(name="ci"))
    with pytest.raises(NameTaken):
        await create(me, NewKey(name="ci"))
    with pytest.raises(Conflict, match="revoke it first"):
        async with work_as(me) as work:
            await keys.delete_key(work, "ci")
    async with work_as(me) as work:
        assert (await keys.revoke_key(work, "ci")).state is KeyState.revoked
    with pytest.raises(NameTaken):
        await create(me, NewKey(name="ci"))
    async with work_as(me) as work:
        await keys.delete_key(work, "ci")
    await create(me, NewKey(name="ci"))


async def test_the_quota_counts_keys_in_force(create: CreateKey, work_as: WorkAs, acme: TenantId):
    me = acting(Role.developer, acme)
    outcomes = await asyncio.gather(
        *(create(me, NewKey(name=f"key-{number}")) for number in range(20)), return_exceptions=True
    )
    assert sum(isinstance(outcome, CreatedKey) for outcome in outcomes) == 3
    assert sum(isinstance(outcome, QuotaExceeded) for outcome in outcomes) == 17
    async with work_as(me) as work:
        name = (await keys.list_keys(work, PageRequest())).items[0].name
    for _ in range(2):
        async with work_as(me) as work:
            await keys.revoke_key(work, name)
    assert await _used(work_as, acme) == 2


@pytest.mark.parametrize("role", [Role.viewer, Role.developer, Role.tenant_admin])
@pytest.mark.parametrize("scope", sorted(TENANT_PERMISSIONS))
async def test_a_scope_lies_within_the_makers_own(create: CreateKey, acme: TenantId, role: Role, scope: Permission):
    if scope in PERMISSIONS[role]:
        assert (await create(acting(role, acme), NewKey(name="k", scopes=[scope]))).key.scopes == [scope]
    else:
        with pytest.raises(PermissionExceeded, match=f"does not hold {scope.value}"):
            await create(acting(role, acme), NewKey(name="k", scopes=[scope]))


@pytest.mark.parametrize("scope", [Permission.platform_read, Permission.platform_write])
async def test_a_tenants_key_never_holds_the_platform(create: CreateKey, acme: TenantId, scope: Permission):
    with pytest.raises(BadInput, match="make a platform key"):
        await create(acting(Role.platform_admin, acme), NewKey(name="k", scopes=[scope]))


async def test_a_child_lies_within_its_parent(
    create: CreateKey, database: Database, clock: ManualClock, acme: TenantId
):
    expires_at = clock.now() + timedelta(days=1)
    scopes = [Permission.key_write, Permission.inference]
    parent = await create(acting(Role.developer, acme), NewKey(name="parent", scopes=scopes, expires_at=expires_at))
    async with database.read() as session:
        actor = await authentication.authenticate_key(
            session, clock, parent.secret, request_id=None, chosen_tenant=None, platform=False
        )
    with pytest.raises(PermissionExceeded):
        await create(actor, NewKey(name="child", scopes=[Permission.service_write], expires_at=expires_at))
    for later in (None, expires_at + timedelta(seconds=1)):
        with pytest.raises(PermissionExceeded, match="cannot make one that lives longer"):
            await create(actor, NewKey(name="child", expires_at=later))
    child = await create(actor, NewKey(name="child", expires_at=expires_at))
    assert child.key.created_by == parent.key.id


async def test_an_expiry_in_the_past_is_refused(create: CreateKey, clock: ManualClock, acme: TenantId):
    with pytest.raises(BadInput, match="lies in the past"):
        await create(acting(Role.developer, acme), NewKey(name="k", expires_at=clock.now()))


async def test_a_key_for_certain_services(create: CreateKey, work_as: WorkAs, acme: TenantId):
    me, service = acting(Role.developer, acme), new_id("svc")
    created = await create(me, NewKey(name="k", services=[service, service]))
    assert created.key.services == [service]
    with pytest.raises(BadInput, match="can only hold 'inference'"):
        await create(me, NewKey(name="k2", services=[service], scopes=[Permission.service_read]))
    with pytest.raises(BadInput, match=f"no service {service}") as caught:
        async with work_as(me) as work:
            await keys.create_key(work, NewKey(name="k2", services=[service]), no_services)
    assert caught.value.errors[0].pointer == "/services/0"


async def test_keys_of_other_tenants_are_not_there(
    create: CreateKey, work_as: WorkAs, acme: TenantId, new_tenant: NewTenantOf
):
    other = await new_tenant("other")
    created = await create(acting(Role.developer, acme), NewKey(name="ci"))
    for name in ("ci", created.key.id):
        for operation in (keys.get_key, keys.revoke_key, keys.delete_key):
            with pytest.raises(NotFound, match="no API key"):
                async with work_as(acting(Role.tenant_admin, other)) as work:
                    await operation(work, name)
    async with work_as(acting(Role.tenant_admin, other)) as work:
        assert (await keys.list_keys(work, PageRequest())).items == []
    await create(acting(Role.developer, other), NewKey(name="ci"))


@pytest.mark.usefixtures("acme")
async def test_platform_keys_are_apart(work_as: WorkAs, administrator: Actor, database: Database):
    async with work_as(administrator) as work:
        created = await keys.create_platform_key(work, NewKey(name="ops", scopes=[Permission.platform_read]))
    with pytest.raises(NameTaken):
        async with work_as(administrator) as work:
            await keys.create_platform_key(work, NewKey(name="ops", scopes=[Permission.platform_read]))
    with pytest.raises(BadInput, match="name the scopes"):
        async with work_as(administrator) as work:
            await keys.create_platform_key(work, NewKey(name="more"))
    async with work_as(administrator) as work:
        assert (await keys.list_keys(work, PageRequest())).items == []
        assert [key.id for key in (await keys.list_platform_keys(work, PageRequest())).items] == [created.key.id]
        with pytest.raises(NotFound):
            await keys.revoke_key(work, created.key.id)
        await keys.revoke_platform_key(work, "ops")
        await keys.delete_platform_key(work, "ops")


async def test_last_use_moves_forward_only(create: CreateKey, database: Database, clock: ManualClock, acme: TenantId):
    created = await create(acting(Role.developer, acme), NewKey(name="ci"))
    earlier, later = clock.now(), clock.now() + timedelta(minutes=1)
    for at in (later, earlier):
        async with database.write() as session:
            await queries.note_key_uses(session, {created.key.id: at, "key_gone": at})
    async with database.read() as session:
        assert (await session.get_one(ApiKeyRow, created.key.id)).last_used_at == later
