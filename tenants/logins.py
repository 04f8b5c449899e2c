"""Logging in with a password, and the logins that come of it.

A login is a row, found by the SHA-256 of a 256-bit token that only the browser's cookie holds. It ends when it was
idle for too long, at its absolute end, by logging out, and when the password changes.

A password is verified while no transaction is open: argon2id takes tens of milliseconds, and on SQLite a
transaction that writes keeps every other one waiting. So an attempt is charged in one transaction, before the
verification (parallel guesses cannot slip through together), and settled in a second.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.clock import Clock
from appliance.kernel.crypto import Passwords, new_secret, sha256_hex
from appliance.kernel.db import Database
from appliance.kernel.errors import Forbidden, Unauthenticated, Unavailable
from appliance.kernel.logging import get_logger
from appliance.kernel.settings import LoginSettings
from tenants import audit, backoff
from tenants.actors import Actor, ActorKind
from tenants.errors import UnsuitablePassword
from tenants.queries import logins as queries
from tenants.queries import people
from tenants.schemas import Credentials, PasswordChange
from tenants.tables import LoginRow, UserRow
from tenants.work import Work

log = get_logger(__name__)
SHORTEST_PASSWORD: Final = 12
LOGINS_PER_USER: Final = 20
_VERIFICATIONS: Final = 32


@dataclass(frozen=True, slots=True)
class StartedLogin:
    """`token` goes into the cookie and nowhere else."""

    token: str
    csrf_token: str
    lifetime_s: int
    must_change_password: bool


@dataclass(slots=True)
class LoginDesk:
    """What logging in needs; one for the process, made by the composition root."""

    database: Database
    clock: Clock
    passwords: Passwords
    settings: LoginSettings
    unknown_names: backoff.UnknownNames = field(default_factory=backoff.UnknownNames)
    verifying: int = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """A place among those whose password is being verified; a flood of attempts is turned away."""
        if self.verifying >= _VERIFICATIONS:
            raise Unavailable("too many logins at once; try again in a moment")
        self.verifying += 1
        try:
            yield
        finally:
            self.verifying -= 1


async def log_in_administrator(desk: LoginDesk, given: Credentials, *, request_id: str | None) -> StartedLogin:
    """For the admin port: the same, and `Forbidden` for who is no administrator of the platform."""
    user = await _verify(desk, given, request_id)
    if not user.is_platform_admin:
        raise Forbidden(f"{user.name!r} is no administrator of the platform; sign in at the tenants' console")
    return await _start(desk, user, request_id)


async def log_in_member(desk: LoginDesk, given: Credentials, *, request_id: str | None) -> StartedLogin:
    """For the tenant port. Raises `Unauthenticated` or `TooManyAttempts`."""
    return await _start(desk, await _verify(desk, given, request_id), request_id)


async def _verify(desk: LoginDesk, given: Credentials, request_id: str | None) -> UserRow:
    async with desk.turn():
        user = await _charge(desk, given.name)
        right = await desk.passwords.verify(given.password, None if user is None else user.password_hash)
    if user is None or not right:
        log.info("login.refused", name=given.name)
        if user is not None:
            await _record_refusal(desk, user, request_id)
        raise Unauthenticated("the name or the password is wrong")
    return user


async def _charge(desk: LoginDesk, name: str) -> UserRow | None:
    """Count the attempt as failed; success takes that back."""
    async with desk.database.write() as session:
        now = desk.clock.now()
        user = await queries.lock_user_named(session, name)
        if user is None:
            desk.unknown_names.charge(name, now)
            return None
        backoff.require_unblocked(user.blocked_until, now)
        user.failed_logins += 1
        user.blocked_until = now + backoff.wait_after(user.failed_logins)
        return user


async def _record_refusal(desk: LoginDesk, user: UserRow, request_id: str | None) -> None:
    async with desk.database.write() as session:
        actor = _actor(user, request_id)
        audit.add(session, actor, desk.clock.now(), "login.refused", "user", user.id, tenant_id=None, detail=None)


async def _start(desk: LoginDesk, verified: UserRow, request_id: str | None) -> StartedLogin:
    token, csrf_token, now = new_secret(), new_secret(), desk.clock.now()
    async with desk.database.write() as session:
        user = await queries.lock_user_named(session, verified.name)
        if user is None or user.password_hash != verified.password_hash:
            raise Unauthenticated("the name or the password is wrong")  # changed while it was verified
        user.failed_logins, user.blocked_until = 0, None
        await queries.delete_surplus_logins(session, user.id, LOGINS_PER_USER - 1)
        session.add(
            LoginRow(
                token_sha256=sha256_hex(token),
                user_id=user.id,
                csrf_token=csrf_token,
                created_at=now,
                seen_at=now,
                idle_s=int(desk.settings.idle_s),
                expires_at=now + timedelta(seconds=desk.settings.lifetime_s),
            )
        )
        audit.add(session, _actor(user, request_id), now, "login.started", "user", user.id, tenant_id=None, detail=None)
    return StartedLogin(token, csrf_token, int(desk.settings.lifetime_s), user.must_change_password)


async def log_out(work: Work, token: str) -> None:
    """End the login of this token."""
    await queries.delete_login(work.session, sha256_hex(token))
    work.record("login.ended", "user", work.actor.id)


async def log_out_everywhere(work: Work) -> None:
    """End every login of the acting user."""
    await queries.delete_logins(work.session, work.actor.id)
    work.record("login.ended_everywhere", "user", work.actor.id)


async def change_password(desk: LoginDesk, actor: Actor, token: str, change: PasswordChange) -> None:
    """Change one's own password, given the current one, and end one's other logins."""
    _require_suitable(change, actor)
    async with desk.turn():
        user = await _charge(desk, actor.name)
        if user is None or not await desk.passwords.verify(change.current, user.password_hash):
            raise Forbidden("the current password is wrong")
        hashed = await desk.passwords.hash(change.new)
    async with desk.database.write() as session:
        fresh = await people.lock_user(session, user.id)
        if fresh.password_hash != user.password_hash:
            raise Forbidden("the password was changed meanwhile")
        fresh.password_hash, fresh.must_change_password = hashed, False
        fresh.failed_logins, fresh.blocked_until = 0, None
        fresh.version += 1
        await queries.delete_logins(session, fresh.id, but=sha256_hex(token))
        _record_change(session, desk, actor)


def _require_suitable(change: PasswordChange, actor: Actor) -> None:
    if len(change.new) < SHORTEST_PASSWORD:
        raise UnsuitablePassword(f"the new password has {len(change.new)} characters; {SHORTEST_PASSWORD} are needed")
    if change.new == change.current:
        raise UnsuitablePassword("the new password is the current one; choose another")
    if actor.name in change.new.lower():
        raise UnsuitablePassword("the new password contains the user name; choose another")


def _record_change(session: AsyncSession, desk: LoginDesk, actor: Actor) -> None:
    audit.add(session, actor, desk.clock.now(), "user.password_changed", "user", actor.id, tenant_id=None, detail=None)


def _actor(user: UserRow, request_id: str | None) -> Actor:
    return Actor(ActorKind.user, user.id, user.name, None, frozenset(), request_id)
