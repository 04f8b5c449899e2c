import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import msgspec
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
from tenants.limits import Limits
from tenants.permissions import PERMISSIONS, TENANT_PERMISSIONS, Permission, Role
from tenants.queries import keys as queries
from tenants.quotas import QuotaExceeded, Resource
from tenants.schemas import CreatedKey, Key, KeyChange, KeyState, NewKey
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


async def test_what_a_key_is_restricted_to_changes_live(
    create: CreateKey, database: Database, work_as: WorkAs, acme: TenantId
):
    me, service = acting(Role.developer, acme), new_id("svc")
    limits = Limits(requests_per_minute=60, concurrent_requests=4)
    made = (await create(me, NewKey(name="k", routes=["POST /v1/completions"] * 2, limits=limits))).key
    assert (made.routes, made.networks, made.limits, made.version) == (["POST /v1/completions"], [], limits, 1)

    async def change(**members: Any) -> Key:
        async with work_as(me) as work:
            return await keys.update_key(work, await keys.lock_key(work, "k"), KeyChange(**members), all_services)

    changed = await change(networks=["10.0.0.0/8", "192.0.2.7", "10.0.0.0/8"], services=[service])
    assert changed.networks == ["10.0.0.0/8", "192.0.2.7/32"]
    assert (changed.routes, changed.services, changed.limits, changed.version) == (made.routes, [service], limits, 2)
    lifted = await change(networks=[], routes=[], services=[], limits=Limits())
    assert (lifted.routes, lifted.networks, lifted.services, lifted.limits) == ([], [], [], Limits())
    async with database.read() as session:
        row = await session.get_one(ApiKeyRow, made.id)
        assert (row.limits, row.version) == (None, 3)
    assert (await actions(database)).count("key.updated") == 2
    async with work_as(me) as work:
        assert (await keys.revoke_key(work, "k")).version == 4
    with pytest.raises(Conflict, match="was revoked"):
        await change(networks=[])


@pytest.mark.parametrize(
    "restriction",
    [
        {"services": ["svc_1"]},
        {"routes": ["GET /v1/models"]},
        {"networks": ["10.0.0.0/8"]},
        {"limits": Limits(tokens_per_minute=1)},
    ],
    ids=lambda restriction: next(iter(restriction)),
)
async def test_what_could_make_a_key_without_a_restriction_has_none(
    create: CreateKey, work_as: WorkAs, acme: TenantId, restriction: dict[str, Any]
):
    me, scopes = acting(Role.developer, acme), [Permission.inference, Permission.key_write]
    with pytest.raises(BadInput, match="can only hold 'inference'"):
        await create(me, NewKey(name="k", scopes=scopes, **restriction))
    await create(me, NewKey(name="k", scopes=scopes))
    with pytest.raises(BadInput, match="can only hold 'inference'"):
        async with work_as(me) as work:
            await keys.update_key(work, await keys.lock_key(work, "k"), KeyChange(**restriction), all_services)


@pytest.mark.parametrize(
    ("network", "hint"), [("10.0.0.1/8", "write 10.0.0.0/8"), ("10.0.0/8", "such as 192.0.2.0/24"), ("::1/129", "such")]
)
async def test_a_network_is_a_network(create: CreateKey, acme: TenantId, network: str, hint: str):
    with pytest.raises(BadInput, match=hint) as caught:
        await create(acting(Role.developer, acme), NewKey(name="k", networks=["2001:db8::/32", network]))
    assert [error.pointer for error in caught.value.errors] == ["/networks/1"]


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("routes", ["TRACE /v1/models"]),
        ("routes", ["GET /v1/models?x"]),
        ("routes", ["GET /v1/models\n"]),
        ("limits", {"requests_per_minute": 0}),
        ("limits", {"requests_per_second": 1}),
        ("limits", {"concurrent_requests": 1.5}),
    ],
)
def test_restrictions_are_bounded(member: str, value: object):
    for schema in (NewKey, KeyChange):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"name": "k", member: value} if schema is NewKey else {member: value}, schema)


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
