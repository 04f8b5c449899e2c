r"""The audit trail's hash chain, sealed by a follower so that writers do not wait for one another.

Each sealed row has a `sequence` (1, 2, 3 ... in the order of sealing, which is the order of ids within a batch), the
hash of the row before it (`previous_hash`, 64 zeros for the first), and its own

    hash = lower-case hex SHA-256 of: previous_hash as 64 ASCII bytes, followed by the row as canonical JSON

The canonical JSON is one object in ASCII with its members sorted by name and no white space between tokens. In
strings `"` and `\` are escaped by a backslash, control characters as `\b \f \n \r \t` where JSON has such a form, and
every other character outside 0x20 to 0x7e as `\uXXXX` in lower case (beyond U+FFFF: as a surrogate pair); `/` is not
escaped. That is Python's `json.dumps(row, sort_keys=True, separators=(",", ":"))`. The members are `action`,
`actor_id`, `actor_kind`, `actor_name`, `at`, `detail`, `id`, `request_id`, `sequence`, `target_id`, `target_kind` and
`tenant_id`. What is NULL in the row is `null`; `at` is a string in UTC with six digits of microseconds, as in
`2026-11-21T07:21:00.000000Z`; `detail` is the row's own JSON, its members sorted as well.

So a row that is changed, taken out or put in between breaks the chain. Cutting off its end does not: note the last
hash elsewhere (the export shows it) to notice that as well.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC
from typing import Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.kernel.clock import Clock
from appliance.kernel.db import Database
from appliance.kernel.leases import Lease
from tenants.audit import SEALER
from tenants.queries import audit as queries
from tenants.tables import AuditRow

GENESIS: Final = "0" * 64
BATCH: Final = 500
_BATCHES_A_ROUND: Final = 20


def canonical(row: AuditRow) -> bytes:
    """The row as canonical JSON, its `sequence` included."""
    at = row.at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    members = {
        "id": row.id,
        "at": at,
        "actor_kind": row.actor_kind,
        "actor_id": row.actor_id,
        "actor_name": row.actor_name,
        "tenant_id": row.tenant_id,
        "action": row.action,
        "target_kind": row.target_kind,
        "target_id": row.target_id,
        "request_id": row.request_id,
        "detail": row.detail,
        "sequence": row.sequence,
    }
    return json.dumps(members, sort_keys=True, separators=(",", ":")).encode("ascii")


def chained(previous_hash: str, row: AuditRow) -> str:
    """The row's hash after the row whose hash is `previous_hash`."""
    return hashlib.sha256(previous_hash.encode("ascii") + canonical(row)).hexdigest()


class Sealed(msgspec.Struct, frozen=True):
    """`last_sequence` is None where nothing was waiting."""

    rows: int
    last_sequence: int | None


class SealReconciler:
    """Seals what is not sealed yet, in batches of bounded transactions."""

    name = SEALER
    period_s = 10.0

    def __init__(self, database: Database, clock: Clock, lease: Lease) -> None:
        self._database, self._clock, self._lease = database, clock, lease

    async def reconcile(self) -> Sealed:
        total: int = 0
        last: int | None = None
        for _ in range(_BATCHES_A_ROUND):
            async with self._database.read() as session:
                waiting = await queries.count_unsealed(session)
            if not waiting:
                break
            async with self._database.write() as session:
                await self._lease.guard(session)
                count, last = await seal_batch(session)
            total += count
        return Sealed(total, last)


async def seal_batch(session: AsyncSession) -> tuple[int, int]:
    """Seal up to `BATCH` rows; how many, and the last sequence. The caller holds the lease: there is one sealer."""
    head = await queries.last_sealed(session)
    sequence, previous = (head.sequence or 0, head.hash or GENESIS) if head is not None else (0, GENESIS)
    rows = await queries.unsealed(session, BATCH)
    for row in rows:
        sequence += 1
        row.sequence, row.previous_hash = sequence, previous
        row.hash = previous = chained(previous, row)
    await session.flush()
    return len(rows), sequence


class ChainReport(msgspec.Struct, frozen=True):
    """`broken_at` is the sequence of the first row that does not verify, None if all do."""

    sealed: int
    unsealed: int
    last_hash: str | None
    broken_at: int | None
    reason: str | None


async def verify_chain(session: AsyncSession) -> ChainReport:
    """Work out every hash again."""
    previous, expected = GENESIS, 1
    unsealed = await queries.count_unsealed(session)
    while rows := await queries.sealed_from(session, expected, BATCH):
        for row in rows:
            if reason := _flaw(row, expected, previous):
                return ChainReport(expected - 1, unsealed, previous, expected, reason)
            previous, expected = row.hash or "", expected + 1
        _forget(session, rows)
    return ChainReport(expected - 1, unsealed, previous if expected > 1 else None, None, None)


def _flaw(row: AuditRow, expected: int, previous: str) -> str | None:
    if row.sequence != expected:
        return f"row {expected} is missing; the next one is {row.sequence}"
    if row.previous_hash != previous:
        return f"row {row.id} does not continue the row before it"
    if row.hash != chained(previous, row):
        return f"row {row.id} was changed after it was sealed"
    return None


def _forget(session: AsyncSession, rows: Sequence[AuditRow]) -> None:
    """Let go of rows that are done with, so that a long chain takes no more memory than a batch."""
    for row in rows:
        session.expunge(row)
