import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from appliance.kernel.crypto import Passwords
from appliance.kernel.db import Database
from appliance.kernel.errors import ApplianceError, Forbidden, NameTaken, NotFound
from appliance.kernel.ids import TenantId
from appliance.kernel.pagination import PageRequest
from tenants import members, users
from tenants.actors import Actor
from tenants.errors import LastAdministrator, PermissionExceeded
from tenants.permissions import MemberRole, Role
from tenants.schemas import AddedMember, MemberChange, NewMember, NewUser, UserChange
from tests.tenants.conftest import NewTenantOf, WorkAs, acting
from tests.tenants.support import actions

AddMember = Callable[[Actor, str, Role], Awaitable[AddedMember]]
TENANT_ROLES = (Role.tenant_admin, Role.developer, Role.viewer)


@pytest.fixture
def add(work_as: WorkAs, passwords: Passwords):
    async def add_member(actor: Actor, name: str, role: Role) -> AddedMember:
        async with work_as(actor) as work:
            return await members.add_member(work, NewMember(name=name, role=MemberRole(role)), passwords)

    return add_member


async def test_a_tenants_administrator_adds_a_user(add: AddMember, database: Database, work_as: WorkAs, acme: TenantId):
    added = await add(acting(Role.tenant_admin, acme), "mia", Role.developer)
    assert added.member.role is Role.developer
    assert added.one_time_password
    async with work_as(acting(Role.viewer, acme)) as work:
        assert (await members.list_members(work, PageRequest())).items == [added.member]
    assert {"user.created", "member.added"} <= set(await actions(database))


async def test_members_of_other_tenants_are_not_there(
    add: AddMember, work_as: WorkAs, acme: TenantId, new_tenant: NewTenantOf
):
    other = await new_tenant("other")
    added = await add(acting(Role.tenant_admin, acme), "mia", Role.developer)
    for name in ("mia", added.member.user_id):
        with pytest.raises(NotFound):
            async with work_as(acting(Role.tenant_admin, other)) as work:
                await members.remove_member(work, name)
    async with work_as(acting(Role.tenant_admin, other)) as work:
        assert (await members.list_members(work, PageRequest())).items == []


async def test_a_tenant_cannot_take_a_user_of_another(
    add: AddMember, administrator: Actor, acme: TenantId, new_tenant: NewTenantOf
):
    other = await new_tenant("other")
    await add(acting(Role.tenant_admin, acme), "mia", Role.developer)
    with pytest.raises(NameTaken, match="ask an administrator of the platform"):
        await add(acting(Role.tenant_admin, other), "mia", Role.viewer)
    added = await add(acting(Role.platform_admin, other), "mia", Role.viewer)
    assert added.one_time_password is None
    with pytest.raises(NameTaken, match="is a member already"):
        await add(acting(Role.platform_admin, other), "mia", Role.developer)


@pytest.mark.parametrize("granted", TENANT_ROLES)
@pytest.mark.parametrize("own", TENANT_ROLES)
async def test_nobody_gives_more_than_his_own_role(add: AddMember, acme: TenantId, own: Role, granted: Role):
    ranks = {Role.viewer: 1, Role.developer: 2, Role.tenant_admin: 3}
    if ranks[granted] <= ranks[own]:
        assert (await add(acting(own, acme), "new", granted)).member.role is granted
    else:
        with pytest.raises(PermissionExceeded, match=f"may not give or take the role '{granted.value}'"):
            await add(acting(own, acme), "new", granted)


@pytest.mark.parametrize("own", [Role.developer, Role.viewer])
async def test_nobody_raises_himself_or_deposes_a_higher_one(
    add: AddMember, work_as: WorkAs, acme: TenantId, own: Role
):
    await add(acting(Role.tenant_admin, acme), "boss", Role.tenant_admin)
    await add(acting(Role.tenant_admin, acme), "boss2", Role.tenant_admin)
    await add(acting(Role.tenant_admin, acme), "me", own)
    for name, role in (("me", Role.tenant_admin), ("boss", Role.viewer)):
        with pytest.raises(PermissionExceeded):
            async with work_as(acting(own, acme, "me")) as work:
                await members.change_member(work, name, MemberChange(role=MemberRole(role)))
    with pytest.raises(PermissionExceeded):
        async with work_as(acting(own, acme, "me")) as work:
            await members.remove_member(work, "boss")


@pytest.mark.parametrize(
    ("shape", "body"),
    [
        (NewMember, {"name": "x", "role": "platform_admin"}),
        (MemberChange, {"role": "platform_admin"}),
        (NewMember, {"name": "x", "role": "viewer", "is_platform_admin": True}),
        (MemberChange, {"role": "viewer", "tenant_id": "ten_x"}),
        (UserChange, {"password_hash": "x"}),
        (UserChange, {"must_change_password": False}),
        (NewUser, {"name": "x", "id": "usr_x"}),
    ],
)
def test_only_listed_fields_can_be_written(shape: type, body: dict[str, object]):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(body, shape)


async def test_the_last_administrator_of_a_tenant_stays(add: AddMember, work_as: WorkAs, acme: TenantId):
    boss = acting(Role.tenant_admin, acme)
    await add(boss, "mia", Role.tenant_admin)
    with pytest.raises(LastAdministrator, match="'mia' is the tenant's last administrator"):
        async with work_as(boss) as work:
            await members.remove_member(work, "mia")
    with pytest.raises(LastAdministrator):
        async with work_as(boss) as work:
            await members.change_member(work, "mia", MemberChange(role=MemberRole.viewer))
    with pytest.raises(LastAdministrator, match="only administrator of acme"):
        async with work_as(acting(Role.platform_admin, acme)) as work:
            await users.delete_user(work, await users.lock_user(work, "mia"))
    await add(boss, "ben", Role.tenant_admin)
    async with work_as(boss) as work:
        await members.remove_member(work, "mia")


async def test_two_administrators_cannot_remove_one_another_at_once(add: AddMember, work_as: WorkAs, acme: TenantId):
    for name in ("mia", "ben"):
        await add(acting(Role.tenant_admin, acme), name, Role.tenant_admin)

    async def remove(actor: str, other: str) -> type[ApplianceError] | None:
        try:
            async with work_as(acting(Role.tenant_admin, acme, actor)) as work:
                await members.remove_member(work, other)
        except ApplianceError as error:
            return type(error)
        return None

    outcomes = await asyncio.gather(remove("mia", "ben"), remove("ben", "mia"))
    assert sorted(outcomes, key=str) == sorted([None, LastAdministrator], key=str)


@pytest.mark.usefixtures("platform")
async def test_the_last_administrator_of_the_platform_stays(
    work_as: WorkAs, administrator: Actor, passwords: Passwords
):
    async with work_as(administrator) as work:
        row = await users.lock_user(work, "admin")
        with pytest.raises(LastAdministrator, match="'admin' is the last administrator of the platform"):
            await users.update_user(work, row, UserChange(is_platform_admin=False))
        with pytest.raises(LastAdministrator):
            await users.delete_user(work, row)
    async with work_as(administrator) as work:
        await users.create_user(work, NewUser(name="second", is_platform_admin=True), passwords)
    async with work_as(administrator) as work:
        await users.delete_user(work, await users.lock_user(work, "admin"))


@pytest.mark.usefixtures("platform")
async def test_only_the_platforms_administrators_make_others(work_as: WorkAs, acme: TenantId, passwords: Passwords):
    lesser = acting(Role.tenant_admin, acme)
    with pytest.raises(PermissionExceeded):
        async with work_as(lesser) as work:
            await users.create_user(work, NewUser(name="x", is_platform_admin=True), passwords)
    with pytest.raises(PermissionExceeded):
        async with work_as(lesser) as work:
            await users.reset_password(work, await users.lock_user(work, "admin"), passwords)
    with pytest.raises(PermissionExceeded):
        async with work_as(lesser) as work:
            await users.delete_user(work, await users.lock_user(work, "admin"))


async def test_a_tenant_resets_passwords_of_its_own_alone(
    add: AddMember, work_as: WorkAs, acme: TenantId, new_tenant: NewTenantOf, passwords: Passwords
):
    boss = acting(Role.tenant_admin, acme)
    await add(boss, "mia", Role.developer)
    async with work_as(boss) as work:
        assert await members.reset_password(work, "mia", passwords)
    await add(acting(Role.platform_admin, await new_tenant("other")), "mia", Role.viewer)
    with pytest.raises(Forbidden, match="does not belong to this tenant alone"):
        async with work_as(boss) as work:
            await members.reset_password(work, "mia", passwords)
    async with work_as(acting(Role.platform_admin, acme)) as work:
        assert await members.reset_password(work, "mia", passwords)
