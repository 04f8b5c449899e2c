"""The keys that open the gateway, as the snapshot's shards.

Ten thousand keys are not read to learn that one has changed. One aggregate query tells for each 256th part of them
(by the first two digits of the hash) whether anything in it did: a key's version grows with each change, the
revocation included, and time makes keys expire. Only the shards of parts that changed are read. Which tenants are
active is compared beside it. All the same everything is read again once a minute, so that a change that this
reasoning misses lives no longer than that.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import Row, Select, case, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.gateway.budgets import BudgetsBySubject
from appliance.gateway.plane.wire import SCOPE_INFERENCE, KeyEntry, KeysShard, Limits, key_shard
from appliance.kernel.clock import Clock
from tenants.schemas import TenantState
from tenants.tables import ApiKeyRow, TenantRow

REREAD_S: Final = 60.0
_ROWS_AT_ONCE: Final = 500
"""After so many rows the event loop has its turn."""
_PARTS: Final = tuple(f"{number:02x}" for number in range(256))
_PART = func.substr(ApiKeyRow.secret_sha256, 1, 2)
_PART_SHARDS: Final = {part: key_shard(part) for part in _PARTS}

_Entries = dict[str, KeyEntry]


class KeyShards:
    """Equal shards are the same objects from one call to the next."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._active: frozenset[str] = frozenset()
        self._fingerprints: Mapping[str, tuple[object, ...]] = {}
        self._read_at = float("-inf")
        self._entries: dict[str, _Entries] = {shard_id: {} for shard_id in _PART_SHARDS.values()}
        self._budgets: BudgetsBySubject = {}
        self._shards: dict[str, KeysShard] = {shard_id: KeysShard({}) for shard_id in self._entries}

    async def load(self, session: AsyncSession, budgets: BudgetsBySubject) -> Mapping[str, KeysShard]:
        """All buckets, the empty ones too. A key counts unless it is revoked, expired or its tenant suspended."""
        now = self._clock.now()
        # The fingerprints first: what changes after them is seen by the next call at the latest.
        active = await _active_tenants(session)
        fingerprints = await _fingerprints(session, now)
        if active != self._active or self._clock.monotonic() - self._read_at >= REREAD_S:
            changed = set(self._entries)
            await self._read(session, now, None)
            self._read_at = self._clock.monotonic()
        else:
            parts = {part for part in _PARTS if fingerprints.get(part) != self._fingerprints.get(part)}
            changed = {_PART_SHARDS[part] for part in parts}
            if changed:
                await self._read(session, now, changed)
        self._active, self._fingerprints = active, fingerprints
        self._assemble(changed, budgets)
        return self._shards

    async def _read(self, session: AsyncSession, now: datetime, shard_ids: Collection[str] | None) -> None:
        """Read these shards' keys again, or all."""
        query = _query(now)
        if shard_ids is not None:
            query = query.where(_PART.in_([part for part in _PARTS if _PART_SHARDS[part] in shard_ids]))
        fresh: dict[str, _Entries] = {shard_id: {} for shard_id in (shard_ids or self._entries)}
        found = await session.stream(query)
        async for rows in found.partitions(_ROWS_AT_ONCE):
            for row in rows:
                if SCOPE_INFERENCE in row.scopes:
                    fresh[_PART_SHARDS[row.secret_sha256[:2]]][row.secret_sha256] = _entry(row)
        self._entries |= fresh

    def _assemble(self, changed: Collection[str], budgets: BudgetsBySubject) -> None:
        before, self._budgets = self._budgets, budgets
        if budgets is not before:
            changed = {*changed, *(shard_id for shard_id in self._entries if self._differs(shard_id, before))}
        for shard_id in changed:
            fresh = KeysShard(_with_budgets(self._entries[shard_id], budgets))
            if fresh != self._shards[shard_id]:
                self._shards = {**self._shards, shard_id: fresh}

    def _differs(self, shard_id: str, before: BudgetsBySubject) -> bool:
        """Whether a key of the shard has other budgets than before; equal ones are the same list."""
        now = self._budgets
        return any(now.get(entry.key_id) is not before.get(entry.key_id) for entry in self._entries[shard_id].values())


def _with_budgets(entries: _Entries, budgets: BudgetsBySubject) -> _Entries:
    return {
        digest: entry if (own := budgets.get(entry.key_id)) is None else msgspec.structs.replace(entry, budgets=own)
        for digest, entry in entries.items()
    }


async def _active_tenants(session: AsyncSession) -> frozenset[str]:
    query = select(TenantRow.id).where(TenantRow.state == TenantState.active.value)
    return frozenset((await session.scalars(query)).all())


async def _fingerprints(session: AsyncSession, now: datetime) -> Mapping[str, tuple[object, ...]]:
    """For each part that has keys: a value that differs when any of them was made, changed, removed or has expired."""
    part = _PART.label("part")
    query = select(
        part,
        func.count(),
        func.sum(ApiKeyRow.version),
        func.max(ApiKeyRow.id),
        func.count(ApiKeyRow.revoked_at),
        func.count(case((ApiKeyRow.expires_at <= now, 1))),
    ).group_by(part)
    return {row[0]: tuple(row[1:]) for row in await session.execute(query)}


def _query(now: datetime) -> Select[*tuple[Any, ...]]:
    return (
        select(
            ApiKeyRow.secret_sha256,
            ApiKeyRow.id,
            ApiKeyRow.tenant_id,
            ApiKeyRow.name,
            ApiKeyRow.scopes,
            ApiKeyRow.services,
            ApiKeyRow.expires_at,
            ApiKeyRow.routes,
            ApiKeyRow.networks,
            ApiKeyRow.limits,
        )
        .join(TenantRow, TenantRow.id == ApiKeyRow.tenant_id)
        .where(
            TenantRow.state == TenantState.active.value,
            ApiKeyRow.revoked_at.is_(None),
            or_(ApiKeyRow.expires_at.is_(None), ApiKeyRow.expires_at > now),
        )
    )


def _entry(row: Row[*tuple[Any, ...]]) -> KeyEntry:
    return KeyEntry(
        key_id=row.id,
        tenant_id=row.tenant_id,
        name=row.name,
        scopes=row.scopes,
        services=row.services or None,
        expires_at=row.expires_at.timestamp() if row.expires_at is not None else None,
        routes=row.routes or None,
        networks=row.networks or [],
        limits=limits_of(row.limits),
    )


def limits_of(column: dict[str, int] | None) -> Limits:
    """As the gateway reads them."""
    return Limits(**column) if column else _UNLIMITED


_UNLIMITED: Final = Limits()
