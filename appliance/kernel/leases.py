"""The control lease: only its newest holder may write as the control plane (invariant I8).

A new holder raises the epoch; `guard` at the start of each apply phase compares it, under the row's lock, so that
a process that was thought dead and comes back writes nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.clock import Clock
from appliance.kernel.db import Database
from appliance.kernel.errors import LeaseLost
from appliance.kernel.tables import LeaseRow


class Lease:
    def __init__(self, name: str, holder: str, epoch: int) -> None:
        self.name, self.holder, self.epoch = name, holder, epoch

    async def guard(self, session: AsyncSession) -> None:
        """Raise `LeaseLost` unless this is still the newest holder; locks the row until the transaction ends."""
        query = select(LeaseRow.epoch).where(LeaseRow.name == self.name).with_for_update()
        epoch = await session.scalar(query)
        if epoch != self.epoch:
            raise LeaseLost(f"{self.holder} held epoch {self.epoch} of {self.name}; the epoch is now {epoch}")


async def take(session: AsyncSession, name: str, holder: str, clock: Clock) -> Lease:
    """Become the holder, whoever it was before."""
    row = await session.get(LeaseRow, name, with_for_update=True)
    if row is None:
        row = LeaseRow(name=name, holder=holder, epoch=1, taken_at=clock.now())
        session.add(row)
    else:
        row.holder, row.epoch, row.taken_at = holder, row.epoch + 1, clock.now()
    await session.flush()
    return Lease(name, holder, row.epoch)


class Guarded:
    """Write transactions of the control plane's own loops: each begins by checking that the lease is still held."""

    def __init__(self, database: Database, lease: Lease) -> None:
        self.database, self.lease = database, lease

    def read(self) -> AbstractAsyncContextManager[AsyncSession]:
        return self.database.read()

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        async with self.database.write() as session:
            await self.lease.guard(session)
            yield session
