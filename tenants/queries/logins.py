"""Rows of logins, and the counters that slow down guessing."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import bindparam, delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from tenants.queries.locking import lock_one
from tenants.tables import LoginRow, UserRow


async def login_with_hash(session: AsyncSession, token_sha256: str) -> tuple[LoginRow, UserRow] | None:
    query = select(LoginRow, UserRow).join(UserRow, UserRow.id == LoginRow.user_id)
    found = (await session.execute(query.where(LoginRow.token_sha256 == token_sha256))).one_or_none()
    return None if found is None else (found[0], found[1])


async def lock_user_named(session: AsyncSession, name: str) -> UserRow | None:
    return await lock_one(session, select(UserRow).where(UserRow.name == name))


async def delete_login(session: AsyncSession, token_sha256: str) -> None:
    await session.execute(delete(LoginRow).where(LoginRow.token_sha256 == token_sha256))


async def delete_logins(session: AsyncSession, user_id: str, *, but: str | None = None) -> None:
    """End all logins of the user, but the one whose token has the hash `but`."""
    statement = delete(LoginRow).where(LoginRow.user_id == user_id)
    await session.execute(statement if but is None else statement.where(LoginRow.token_sha256 != but))


async def delete_surplus_logins(session: AsyncSession, user_id: str, keep: int) -> None:
    """End the oldest logins of the user, but the newest `keep`."""
    oldest = (
        select(LoginRow.token_sha256)
        .where(LoginRow.user_id == user_id)
        .order_by(LoginRow.seen_at.desc(), LoginRow.token_sha256)
        .offset(keep)
    )
    hashes = (await session.scalars(oldest)).all()
    await session.execute(delete(LoginRow).where(LoginRow.token_sha256.in_(hashes)))


async def delete_expired_logins(session: AsyncSession, now: datetime) -> None:
    await session.execute(delete(LoginRow).where(LoginRow.expires_at <= now))


async def note_login_uses(session: AsyncSession, uses: Mapping[str, datetime]) -> None:
    """Move `seen_at` of these logins (by the hash of their token) forward; never back."""
    if not uses:
        return
    statement = (
        update(LoginRow)
        .where(LoginRow.token_sha256 == bindparam("token"), LoginRow.seen_at < bindparam("at"))
        .values(seen_at=bindparam("at"))
    )
    connection = await session.connection()
    await connection.execute(statement, [{"token": token, "at": at} for token, at in sorted(uses.items())])
