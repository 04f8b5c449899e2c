"""The active tenants as the snapshot's shard: limits, budgets, priority, and the salt of their prefix cache."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.gateway.budgets import BudgetsBySubject
from appliance.gateway.keys import limits_of
from appliance.gateway.plane.wire import Priority, TenantEntry, TenantsShard
from tenants.schemas import TenantState
from tenants.tables import TenantRow

CacheSalt = Callable[[str], str]
"""The salt of a tenant, by its id: the same for ever and nobody's to guess."""


class TenantShards:
    """Equal shards are the same object from one call to the next."""

    def __init__(self, salt: CacheSalt) -> None:
        self._salt = salt
        self._shard = TenantsShard({})

    async def load(self, session: AsyncSession, budgets: BudgetsBySubject) -> TenantsShard:
        query = select(TenantRow.id, TenantRow.name, TenantRow.limits, TenantRow.priority)
        rows = await session.execute(query.where(TenantRow.state == TenantState.active.value).order_by(TenantRow.id))
        fresh = TenantsShard(
            {
                row.id: TenantEntry(
                    name=row.name,
                    limits=limits_of(row.limits),
                    budgets=budgets.get(row.id, []),
                    priority=cast("Priority", row.priority),
                    cache_salt=self._salt(row.id),
                )
                for row in rows
            }
        )
        if fresh != self._shard:
            self._shard = fresh
        return self._shard
