"""Removes what has had its time: kept answers of idempotency keys, old events, logs of replicas that are forgotten."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Final

import msgspec
from sqlalchemy import delete

from appliance.kernel.clock import Clock
from appliance.kernel.leases import Guarded
from appliance.kernel.tables import IdempotencyRow
from appliance.services.events import prune_events
from appliance.services.logs import sweep_logs

KEPT: Final = timedelta(hours=24)


class Swept(msgspec.Struct, frozen=True):
    idempotency_keys: int
    events: int
    logs: int


class Housekeeping:
    """`logs` is the folder of the replicas' logs."""

    name = "housekeeping"
    period_s = 3600.0

    def __init__(self, guarded: Guarded, clock: Clock, logs: Path) -> None:
        self._guarded, self._clock, self._logs = guarded, clock, logs

    async def reconcile(self) -> Swept:
        old = delete(IdempotencyRow).where(IdempotencyRow.created_at < self._clock.now() - KEPT)
        async with self._guarded.write() as session:
            keys = await session.execute(old)
            events = await prune_events(session)
        logs = await sweep_logs(self._guarded, self._logs)
        return Swept(keys.rowcount, events, logs)  # type: ignore[attr-defined]  # a DELETE's CursorResult
