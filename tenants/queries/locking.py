"""Reading rows under their lock, which is held until the transaction ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from sqlalchemy import Select
from sqlalchemy.ext.asyncio import AsyncSession

T = TypeVar("T")


async def lock_one(session: AsyncSession, query: Select[T]) -> T | None:
    """The first row as it is under the lock, also where the session had read it before.

    What the session has changed is flushed first: reading the row again would undo it.
    """
    await session.flush()
    return await session.scalar(query.with_for_update().execution_options(populate_existing=True))


async def lock_all(session: AsyncSession, query: Select[T]) -> Sequence[T]:
    """The same for every row; `query` orders them, so that two transactions do not wait for each other."""
    await session.flush()
    rows = await session.scalars(query.with_for_update().execution_options(populate_existing=True))
    return rows.all()
