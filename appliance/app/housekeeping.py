"""Removes what has had its time: answers that were kept for idempotency keys."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

import msgspec
from sqlalchemy import delete

from appliance.kernel.clock import Clock
from appliance.kernel.leases import Guarded
from appliance.kernel.tables import IdempotencyRow

KEPT: Final = timedelta(hours=24)


class Swept(msgspec.Struct, frozen=True):
    idempotency_keys: int


class Housekeeping:
    name = "housekeeping"
    period_s = 3600.0

    def __init__(self, guarded: Guarded, clock: Clock) -> None:
        self._guarded, self._clock = guarded, clock

    async def reconcile(self) -> Swept:
        old = delete(IdempotencyRow).where(IdempotencyRow.created_at < self._clock.now() - KEPT)
        async with self._guarded.write() as session:
            result = await session.execute(old)
        return Swept(idempotency_keys=result.rowcount)  # type: ignore[attr-defined]  # a DELETE's CursorResult
