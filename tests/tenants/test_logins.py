import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import func, select

from appliance.kernel.clock import ManualClock
from appliance.kernel.crypto import Passwords, sha256_hex
from appliance.kernel.db import Database
from appliance.kernel.errors import Forbidden, Unauthenticated, Unavailable
from appliance.kernel.leases import Lease
from tenants import authentication, logins, users
from tenants.activity import ActivityReconciler, Sightings
from tenants.actors import Actor
from tenants.backoff import LONGEST_WAIT_S, UnknownNames, wait_after
from tenants.bootstrap import Bootstrapped
from tenants.errors import PasswordChangeRequired, TooManyAttempts, UnsuitablePassword
from tenants.logins import LOGINS_PER_USER, LoginDesk, StartedLogin
from tenants.schemas import Credentials, NewUser, PasswordChange
from tenants.tables import LoginRow
from tests.tenants.conftest import WorkAs
from tests.tenants.support import actions

GOOD = "correct horse battery"
WRONG = Credentials(name="admin", password="wrong")


async def _log_in(desk: LoginDesk, name: str, password: str) -> StartedLogin:
    return await logins.log_in_member(desk, Credentials(name=name, password=password), request_id="req_1")


async def _whose(
    desk: LoginDesk, token: str, *, sightings: Sightings | None = None, change: bool = False
) -> tuple[Actor, str]:
    async with desk.database.read() as session:
        return await authentication.authenticate_login(
            session,
            desk.clock,
            token,
            request_id=None,
            chosen_tenant=None,
            platform=True,
            allow_password_change=change,
            sightings=sightings,
        )


@pytest.fixture
async def admin(desk: LoginDesk, platform: Bootstrapped) -> str:
    """The administrator's password, which is no longer the one-time one."""
    started = await _log_in(desk, "admin", platform.admin_password or "")
    actor, _ = await _whose(desk, started.token, change=True)
    change = PasswordChange(current=platform.admin_password or "", new=GOOD)
    await logins.change_password(desk, actor, started.token, change)
    return GOOD


async def test_a_one_time_password_must_be_changed(desk: LoginDesk, platform: Bootstrapped, database: Database):
    started = await _log_in(desk, "admin", platform.admin_password or "")
    assert started.must_change_password
    with pytest.raises(PasswordChangeRequired):
        await _whose(desk, started.token)
    actor, csrf_token = await _whose(desk, started.token, change=True)
    assert csrf_token == started.csrf_token
    await logins.change_password(
        desk, actor, started.token, PasswordChange(current=platform.admin_password or "", new=GOOD)
    )
    assert (await _whose(desk, started.token))[0].name == "admin"
    assert {"login.started", "user.password_changed"} <= set(await actions(database))


async def test_the_token_is_kept_as_a_hash(desk: LoginDesk, admin: str, database: Database):
    started = await _log_in(desk, "admin", admin)
    async with database.read() as session:
        assert await session.get_one(LoginRow, sha256_hex(started.token))
        assert await session.get(LoginRow, started.token) is None


async def test_wrong_names_and_wrong_passwords_look_the_same(desk: LoginDesk, admin: str, database: Database):
    answers = []
    for name in ("admin", "nobody"):
        with pytest.raises(Unauthenticated) as caught:
            await _log_in(desk, name, "wrong")
        answers.append(caught.value.detail)
    assert answers[0] == answers[1]
    assert (await actions(database)).count("login.refused") == 1


@pytest.mark.parametrize("name", ["admin", "nobody"])
async def test_guessing_slows_down_and_never_locks_out(desk: LoginDesk, clock: ManualClock, admin: str, name: str):
    for _ in range(6):
        with pytest.raises(Unauthenticated):
            await _log_in(desk, name, "wrong")
    with pytest.raises(TooManyAttempts, match="try again in 1 s") as caught:
        await _log_in(desk, name, admin)
    assert caught.value.retry_after_s == 1
    clock.advance(1)
    if name == "admin":
        await _log_in(desk, "admin", admin)
        with pytest.raises(Unauthenticated):
            await _log_in(desk, name, "wrong")
        await _log_in(desk, "admin", admin)
    else:
        with pytest.raises(Unauthenticated):
            await _log_in(desk, name, admin)


def test_waits_grow_to_a_bound():
    waits = [wait_after(failures).total_seconds() for failures in range(1, 16)]
    assert waits == [0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60]
    assert wait_after(10**9).total_seconds() == LONGEST_WAIT_S


def test_unknown_names_take_bounded_memory(clock: ManualClock):
    names = UnknownNames()
    for number in range(20_000):
        names.charge(f"name-{number}", clock.now())
    assert len(names._failures) == 10_000


async def test_parallel_guesses_do_not_slip_through(desk: LoginDesk, admin: str):
    outcomes = await asyncio.gather(*(_log_in(desk, "admin", "wrong") for _ in range(20)), return_exceptions=True)
    assert sum(isinstance(outcome, Unauthenticated) for outcome in outcomes) == 6
    assert sum(isinstance(outcome, TooManyAttempts) for outcome in outcomes) == 14


async def test_a_flood_is_turned_away(desk: LoginDesk, admin: str):
    desk.verifying = 32
    with pytest.raises(Unavailable):
        await _log_in(desk, "admin", admin)


async def test_only_administrators_sign_in_to_the_admin_port(
    desk: LoginDesk, admin: str, work_as: WorkAs, administrator: Actor, passwords: Passwords
):
    async with work_as(administrator) as work:
        password = (await users.create_user(work, NewUser(name="mia"), passwords)).one_time_password or ""
    with pytest.raises(Forbidden, match="no administrator"):
        await logins.log_in_administrator(desk, Credentials(name="mia", password=password), request_id=None)
    assert (await logins.log_in_administrator(desk, Credentials(name="admin", password=admin), request_id=None)).token
    member = await _log_in(desk, "mia", password)
    with pytest.raises(Forbidden):
        await _whose(desk, member.token, change=True)


async def test_a_login_ends_when_idle_and_at_its_end(desk: LoginDesk, clock: ManualClock, admin: str):
    started, sightings = await _log_in(desk, "admin", admin), Sightings()
    for _ in range(6):
        clock.advance(599)
        await _whose(desk, started.token, sightings=sightings)
    clock.advance(6)  # 3600 s after it began
    with pytest.raises(Unauthenticated, match="has ended"):
        await _whose(desk, started.token, sightings=sightings)
    second = await _log_in(desk, "admin", admin)
    clock.advance(600)
    with pytest.raises(Unauthenticated):
        await _whose(desk, second.token, sightings=sightings)


async def test_sightings_are_written_and_expired_logins_deleted(
    desk: LoginDesk, clock: ManualClock, admin: str, lease: Lease
):
    sightings = Sightings()
    reconciler = ActivityReconciler(desk.database, clock, lease, sightings)
    await reconciler.reconcile()
    started = await _log_in(desk, "admin", admin)
    clock.advance(500)
    await _whose(desk, started.token, sightings=sightings)
    assert (await reconciler.reconcile()).logins == 1
    assert (await reconciler.reconcile()).logins == 0
    clock.advance(500)
    await _whose(desk, started.token)  # from the row alone
    clock.advance(3600)
    await reconciler.reconcile()
    async with desk.database.read() as session:
        assert await session.scalar(select(func.count()).select_from(LoginRow)) == 0


async def test_logging_out(desk: LoginDesk, admin: str, work_as: WorkAs):
    first, second, third = [await _log_in(desk, "admin", admin) for _ in range(3)]
    actor, _ = await _whose(desk, first.token)
    async with work_as(actor) as work:
        await logins.log_out(work, first.token)
    with pytest.raises(Unauthenticated):
        await _whose(desk, first.token)
    await _whose(desk, second.token)
    async with work_as(actor) as work:
        await logins.log_out_everywhere(work)
    for started in (second, third):
        with pytest.raises(Unauthenticated):
            await _whose(desk, started.token)


async def test_changing_the_password_ends_the_other_logins(desk: LoginDesk, admin: str):
    here, elsewhere = await _log_in(desk, "admin", admin), await _log_in(desk, "admin", admin)
    actor, _ = await _whose(desk, here.token)
    await logins.change_password(desk, actor, here.token, PasswordChange(current=admin, new="another good one"))
    await _whose(desk, here.token)
    with pytest.raises(Unauthenticated):
        await _whose(desk, elsewhere.token)
    with pytest.raises(Unauthenticated):
        await _log_in(desk, "admin", admin)


@pytest.mark.parametrize(
    ("current", "new", "error"),
    [
        ("wrong", "another good one", Forbidden),
        (GOOD, "short", UnsuitablePassword),
        (GOOD, GOOD, UnsuitablePassword),
        (GOOD, "my-Admin-password", UnsuitablePassword),
    ],
)
async def test_unsuitable_changes(desk: LoginDesk, admin: str, current: str, new: str, error: type[Exception]):
    started = await _log_in(desk, "admin", admin)
    actor, _ = await _whose(desk, started.token)
    with pytest.raises(error):
        await logins.change_password(desk, actor, started.token, PasswordChange(current=current, new=new))


async def test_a_reset_ends_all_logins(
    desk: LoginDesk, admin: str, work_as: WorkAs, administrator: Actor, passwords: Passwords
):
    started = await _log_in(desk, "admin", admin)
    async with work_as(administrator) as work:
        fresh = await users.reset_password(work, await users.lock_user(work, "admin"), passwords)
    with pytest.raises(Unauthenticated):
        await _whose(desk, started.token)
    assert (await _log_in(desk, "admin", fresh)).must_change_password


async def test_a_user_has_a_bounded_number_of_logins(desk: LoginDesk, clock: ManualClock, admin: str):
    started = []
    for _ in range(LOGINS_PER_USER + 2):
        clock.advance(timedelta(seconds=1).total_seconds())
        started.append(await _log_in(desk, "admin", admin))
    with pytest.raises(Unauthenticated):
        await _whose(desk, started[0].token)
    await _whose(desk, started[-1].token)
    async with desk.database.read() as session:
        assert await session.scalar(select(func.count()).select_from(LoginRow)) == LOGINS_PER_USER
