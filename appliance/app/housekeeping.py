"""Removes what has had its time: kept answers of idempotency keys, old events and latencies, logs of forgotten
replicas.
"""

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
from tenants.usage import prune_latencies

KEPT: Final = timedelta(hours=24)


class Swept(msgspec.Struct, frozen=True):
    idempotency_keys: int
    events: int
    latencies: int
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
            latencies = await prune_latencies(session, self._clock.now())
        logs = await sweep_logs(self._guarded, self._logs)
        return Swept(keys.rowcount, events, latencies, logs)  # type: ignore[attr-defined]  # a DELETE's CursorResult
