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
from appliance.kernel.errors import LeaseLost, Misconfigured
from appliance.kernel.tables import LeaseRow


class Lease:
    def __init__(self, name: str, holder: str, epoch: int) -> None:
        self.name, self.holder, self.epoch = name, holder, epoch

    async def verify(self, session: AsyncSession) -> None:
        """Raise `LeaseLost` unless this is still the newest holder; locks nothing."""
        self._compare(await session.scalar(select(LeaseRow.epoch).where(LeaseRow.name == self.name)))

    async def guard(self, session: AsyncSession) -> None:
        """Raise `LeaseLost` unless this is still the newest holder; locks the row until the transaction ends."""
        query = select(LeaseRow.epoch).where(LeaseRow.name == self.name).with_for_update()
        self._compare(await session.scalar(query))

    def _compare(self, epoch: int | None) -> None:
        if epoch != self.epoch:
            raise LeaseLost(f"{self.holder} held epoch {self.epoch} of {self.name}; the epoch is now {epoch}")


async def check_owner(session: AsyncSession, name: str, owner: str) -> None:
    """`Misconfigured` if the last holder was of another installation than `owner` (its id, which begins each holder's
    name): two that share a database would stop each other's engines.
    """
    row = await session.get(LeaseRow, name, with_for_update=True)
    before = row.holder.partition(" ")[0] if row is not None else owner
    if before != owner:
        raise Misconfigured(
            f"the database belongs to the installation {before}, and this one is {owner}; give this one a database "
            "of its own, or, if that installation has moved here, its APPLIANCE_HOME with the file appliance.id"
        )


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


class LeaseWatch:
    """A reconciler that only looks whether the lease is still held, so that a loss is noticed by who writes nothing."""

    name = "lease"
    period_s = 2.0

    def __init__(self, database: Database, lease: Lease) -> None:
        self._database, self._lease = database, lease

    async def reconcile(self) -> int:
        """The epoch that is held; `LeaseLost`."""
        async with self._database.read() as session:
            await self._lease.verify(session)
        return self._lease.epoch


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
