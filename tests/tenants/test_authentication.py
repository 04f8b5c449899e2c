from collections.abc import Awaitable, Callable

import pytest

from appliance.kernel.clock import ManualClock
from appliance.kernel.crypto import Passwords
from appliance.kernel.db import Database
from appliance.kernel.errors import ApplianceError, BadInput, Forbidden, NotFound, Unauthenticated
from appliance.kernel.ids import TenantId
from tenants import authentication, identity, keys, logins, members, tenancy
from tenants.actors import Actor
from tenants.bootstrap import Bootstrapped
from tenants.errors import TenantSuspended
from tenants.logins import LoginDesk
from tenants.permissions import PERMISSIONS, TENANT_PERMISSIONS, MemberRole, Permission, Role
from tenants.schemas import Credentials, NewKey, NewMember, TenantChange, TenantState
from tenants.work import Work
from tests.tenants.conftest import NewTenantOf, WorkAs, acting
from tests.tenants.support import no_services

Authenticate = Callable[..., Awaitable[Actor]]
Join = Callable[[str, TenantId, Role], Awaitable[str | None]]


@pytest.fixture
def by_key(database: Database, clock: ManualClock) -> Authenticate:
    async def authenticate(secret: str, *, platform: bool, tenant: str | None = None) -> Actor:
        async with database.read() as session:
            return await authentication.authenticate_key(
                session, clock, secret, request_id="req_2", chosen_tenant=tenant, platform=platform
            )

    return authenticate


@pytest.fixture
def by_login(database: Database, clock: ManualClock) -> Authenticate:
    async def authenticate(token: str, *, platform: bool, tenant: str | None = None) -> Actor:
        async with database.read() as session:
            actor, _ = await authentication.authenticate_login(
                session,
                clock,
                token,
                request_id="req_2",
                chosen_tenant=tenant,
                platform=platform,
                allow_password_change=True,
            )
        return actor

    return authenticate


@pytest.fixture
async def acme_key(work_as: WorkAs, acme: TenantId) -> str:
    async with work_as(acting(Role.developer, acme)) as work:
        created = await keys.create_key(
            work, NewKey(name="ci", scopes=[Permission.service_read, Permission.inference]), no_services
        )
    return created.secret or ""


@pytest.fixture
def join(work_as: WorkAs, passwords: Passwords) -> Join:
    async def add(name: str, tenant_id: TenantId, role: Role) -> str | None:
        async with work_as(acting(Role.platform_admin, tenant_id)) as work:
            added = await members.add_member(work, NewMember(name=name, role=MemberRole(role)), passwords)
        return added.one_time_password

    return add


async def _token(desk: LoginDesk, name: str, password: str | None) -> str:
    started = await logins.log_in_member(desk, Credentials(name=name, password=password or ""), request_id=None)
    return started.token


async def test_a_tenants_key_acts_in_its_tenant(by_key: Authenticate, acme: TenantId, acme_key: str):
    for chosen in (None, "acme", acme):
        actor = await by_key(acme_key, platform=False, tenant=chosen)
        assert actor.tenant_id == acme
        assert actor.permissions == {Permission.service_read, Permission.inference}
        assert (actor.name, actor.request_id) == ("ci", "req_2")


async def test_a_tenants_key_chooses_no_other_tenant(by_key: Authenticate, acme_key: str, new_tenant: NewTenantOf):
    details = []
    for name in (await new_tenant("other"), "other", "nowhere"):
        with pytest.raises(NotFound) as caught:
            await by_key(acme_key, platform=False, tenant=name)
        details.append(caught.value.detail.replace(name, "..."))
    assert set(details) == {"there is no tenant '...'"}


async def test_each_port_has_its_keys(by_key: Authenticate, acme_key: str, platform: Bootstrapped):
    with pytest.raises(Unauthenticated, match="tenant port"):
        await by_key(acme_key, platform=True)
    with pytest.raises(Unauthenticated, match="admin port"):
        await by_key(platform.operator_key, platform=False)
    with pytest.raises(Unauthenticated):
        await by_key("ak_00000000_nonsense", platform=True)


async def test_a_platform_key_narrows_its_scope(by_key: Authenticate, acme: TenantId, platform: Bootstrapped):
    assert (await by_key(platform.operator_key, platform=True)).scope.tenant_id is None
    for chosen in ("acme", acme):
        assert (await by_key(platform.operator_key, platform=True, tenant=chosen)).scope.tenant_id == acme
    with pytest.raises(NotFound):
        await by_key(platform.operator_key, platform=True, tenant="nowhere")


async def test_revoked_and_expired_keys_open_nothing(
    by_key: Authenticate, work_as: WorkAs, clock: ManualClock, acme: TenantId, acme_key: str
):
    me = acting(Role.developer, acme)
    async with work_as(me) as work:
        expires_at = clock.now().replace(year=2027)
        secret = (await keys.create_key(work, NewKey(name="soon", expires_at=expires_at), no_services)).secret
        await keys.revoke_key(work, "ci")
    with pytest.raises(Unauthenticated, match="was revoked"):
        await by_key(acme_key, platform=False)
    await by_key(secret, platform=False)
    clock.advance(366 * 86400)
    with pytest.raises(Unauthenticated, match="expired"):
        await by_key(secret, platform=False)


async def _suspend(work_as: WorkAs, administrator: Actor, tenant: str) -> None:
    async with work_as(administrator) as work:
        row = await tenancy.lock_tenant(work, tenant)
        await tenancy.update_tenant(work, row, TenantChange(state=TenantState.suspended))


async def test_a_suspended_tenant_is_told_so(
    by_key: Authenticate,
    by_login: Authenticate,
    desk: LoginDesk,
    join: Join,
    work_as: WorkAs,
    acme: TenantId,
    acme_key: str,
):
    token = await _token(desk, "mia", await join("mia", acme, Role.developer))
    await _suspend(work_as, acting(Role.platform_admin, acme), "acme")
    with pytest.raises(TenantSuspended, match="'acme' is suspended"):
        await by_key(acme_key, platform=False)
    actor = await by_login(token, platform=False)
    with pytest.raises(TenantSuspended):
        actor.require(Permission.service_read)


@pytest.mark.parametrize("role", [Role.viewer, Role.developer, Role.tenant_admin])
async def test_a_member_acts_in_his_only_tenant(
    by_login: Authenticate, desk: LoginDesk, join: Join, acme: TenantId, role: Role
):
    token = await _token(desk, "mia", await join("mia", acme, role))
    for chosen in (None, "acme", acme):
        actor = await by_login(token, platform=False, tenant=chosen)
        assert (actor.tenant_id, actor.permissions) == (acme, PERMISSIONS[role])
    with pytest.raises(Forbidden, match="no administrator"):
        await by_login(token, platform=True)


async def test_a_member_of_several_chooses(
    by_login: Authenticate,
    desk: LoginDesk,
    join: Join,
    database: Database,
    clock: ManualClock,
    acme: TenantId,
    new_tenant: NewTenantOf,
):
    other, third = await new_tenant("other"), await new_tenant("third")
    token = await _token(desk, "mia", await join("mia", acme, Role.developer))
    await join("mia", other, Role.viewer)
    undecided = await by_login(token, platform=False)
    with pytest.raises(BadInput, match="member of acme, other; choose one"):
        undecided.require(Permission.service_read)
    async with database.read() as session:
        with pytest.raises(NotFound):
            await tenancy.get_tenant(Work(session, undecided, clock), "acme")
        me = await identity.describe(Work(session, undecided, clock), token)
    assert [(membership.tenant_name, membership.role) for membership in me.memberships] == [
        ("acme", Role.developer),
        ("other", Role.viewer),
    ]
    assert (me.tenant_id, me.permissions, me.must_change_password) == (None, [], True)
    assert (await by_login(token, platform=False, tenant="other")).permissions == PERMISSIONS[Role.viewer]
    for name in (third, "third", "nowhere"):
        with pytest.raises(NotFound, match=f"no tenant '{name}'"):
            await by_login(token, platform=False, tenant=name)


async def test_the_platform_ends_at_the_tenant_port(
    by_login: Authenticate, desk: LoginDesk, join: Join, platform: Bootstrapped, acme: TenantId
):
    token = await _token(desk, "admin", platform.admin_password)
    assert (await by_login(token, platform=True)).permissions == PERMISSIONS[Role.platform_admin]
    assert (await by_login(token, platform=True, tenant="acme")).tenant_id == acme
    stranger = await by_login(token, platform=False)
    assert (stranger.tenant_id, stranger.permissions) == ("", frozenset())
    with pytest.raises(Forbidden, match="member of no tenant"):
        stranger.require(Permission.service_read)
    with pytest.raises(NotFound):
        await by_login(token, platform=False, tenant="acme")
    await join("admin", acme, Role.tenant_admin)
    member = await by_login(token, platform=False)
    assert member.tenant_id == acme
    assert member.permissions <= TENANT_PERMISSIONS


async def test_a_role_that_was_taken_away_is_gone_at_once(
    by_login: Authenticate, desk: LoginDesk, join: Join, work_as: WorkAs, acme: TenantId
):
    token = await _token(desk, "mia", await join("mia", acme, Role.developer))
    async with work_as(acting(Role.tenant_admin, acme)) as work:
        await members.remove_member(work, "mia")
    actor = await by_login(token, platform=False)
    with pytest.raises(ApplianceError):
        actor.require(Permission.service_read)
