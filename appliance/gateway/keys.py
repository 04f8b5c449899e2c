"""The keys that open the gateway, as the snapshot's shards.

Ten thousand keys are read again only when one aggregate query says that something changed: a key is never changed
in place but made, revoked or deleted, or it expires with time; a tenant's changes raise its version. All the same
everything is read again once a minute, so that a change this reasoning misses lives no longer than that.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from sqlalchemy import Row, case, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.gateway.plane.wire import KEY_BUCKETS, SCOPE_INFERENCE, KeyEntry, KeysShard, key_shard
from appliance.kernel.clock import Clock
from tenants.schemas import TenantState
from tenants.tables import ApiKeyRow, TenantRow

REREAD_S: Final = 60.0
_ROWS_AT_ONCE: Final = 500
"""After so many rows the event loop has its turn."""


class KeyShards:
    """Equal shards are the same objects from one call to the next."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._fingerprint: tuple[object, ...] | None = None
        self._read_at = 0.0
        self._shards: Mapping[str, KeysShard] = {}

    async def load(self, session: AsyncSession) -> Mapping[str, KeysShard]:
        """All buckets, the empty ones too. A key counts unless it is revoked, expired or its tenant suspended."""
        now = self._clock.now()
        # The fingerprint first: what changes after it is seen by the next call at the latest.
        fingerprint = await _fingerprint(session, now)
        if fingerprint != self._fingerprint or self._clock.monotonic() - self._read_at >= REREAD_S:
            fresh = await _read(session, now)
            self._shards = {
                shard_id: before if (before := self._shards.get(shard_id)) == shard else shard
                for shard_id, shard in fresh.items()
            }
            self._fingerprint, self._read_at = fingerprint, self._clock.monotonic()
        return self._shards


async def _fingerprint(session: AsyncSession, now: datetime) -> tuple[object, ...]:
    keys = select(
        func.count(),
        func.max(ApiKeyRow.id),
        func.max(ApiKeyRow.created_at),
        func.count(ApiKeyRow.revoked_at),
        func.max(ApiKeyRow.revoked_at),
        func.count(case((ApiKeyRow.expires_at <= now, 1))),
    ).select_from(ApiKeyRow)
    tenants = select(
        func.count(), func.sum(TenantRow.version), func.count(case((TenantRow.state == TenantState.active.value, 1)))
    ).select_from(TenantRow)
    return (*(await session.execute(keys)).one(), *(await session.execute(tenants)).one())


async def _read(session: AsyncSession, now: datetime) -> Mapping[str, KeysShard]:
    query = (
        select(
            ApiKeyRow.secret_sha256,
            ApiKeyRow.id,
            ApiKeyRow.tenant_id,
            ApiKeyRow.name,
            ApiKeyRow.scopes,
            ApiKeyRow.services,
            ApiKeyRow.expires_at,
        )
        .join(TenantRow, TenantRow.id == ApiKeyRow.tenant_id)
        .where(
            TenantRow.state == TenantState.active.value,
            ApiKeyRow.revoked_at.is_(None),
            or_(ApiKeyRow.expires_at.is_(None), ApiKeyRow.expires_at > now),
        )
    )
    buckets: dict[str, dict[str, KeyEntry]] = {key_shard(f"{number:02x}"): {} for number in range(KEY_BUCKETS)}
    found = await session.stream(query)
    async for rows in found.partitions(_ROWS_AT_ONCE):
        for row in rows:
            if SCOPE_INFERENCE in row.scopes:
                buckets[key_shard(row.secret_sha256)][row.secret_sha256] = _entry(row)
    return {shard_id: KeysShard(keys) for shard_id, keys in buckets.items()}


def _entry(row: Row[tuple[str, str, str | None, str, list[str], list[str], datetime | None]]) -> KeyEntry:
    return KeyEntry(
        key_id=row.id,
        tenant_id=row.tenant_id,
        name=row.name,
        scopes=row.scopes,
        services=row.services or None,
        expires_at=row.expires_at.timestamp() if row.expires_at is not None else None,
    )
