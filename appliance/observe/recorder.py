"""The reconciler that writes the history: a round of samples after each probe, and the file's housekeeping.

Whatever fails costs samples, is told once and in the status, and is tried again with the next round.
"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from appliance.kernel.clock import Clock
from appliance.kernel.db import Database
from appliance.kernel.logging import get_logger
from appliance.observe.sampling import Sampler
from appliance.observe.store import HistoryFailed, Samples, Store

log = get_logger(__name__)

NAME: Final = "telemetry"
PERIOD_S: Final = 60.0
"""Where no probe wakes it."""


class TelemetryStatus(msgspec.Struct, frozen=True):
    """`bytes` of the history's file, which never grows above `most_bytes`; `lost` rounds of samples could not be
    written since the start, `failure` is why the last could not be.
    """

    bytes: int
    most_bytes: int
    series: int
    lost: int
    failure: str | None


class Telemetry:
    name = NAME
    period_s = PERIOD_S

    def __init__(self, database: Database, clock: Clock, store: Store) -> None:
        self.store = store
        self._database, self._clock = database, clock
        self._sampler = Sampler()
        self.latest: Samples = {}
        """The last round's, whether or not it could be written."""
        self.lost = 0
        self._failure: str | None = None

    async def reconcile(self) -> TelemetryStatus:
        async with self._database.read() as session:
            samples = self.latest = await self._sampler.sample(session)
        now = int(self._clock.now().timestamp())
        failure = await asyncio.to_thread(self._keep, now, samples)
        if failure is not None:
            self.lost += 1
            if failure != self._failure:
                log.warning("telemetry.failed", reason=failure)
        elif self._failure is not None:
            log.info("telemetry.resumed", lost=self.lost)
        self._failure = failure
        return await self.status(len(samples))

    async def status(self, series: int) -> TelemetryStatus:
        size = await asyncio.to_thread(self.store.size)
        return TelemetryStatus(size, self.store.most_bytes, series, self.lost, self._failure)

    def _keep(self, now: int, samples: Samples) -> str | None:
        """Why it could not be. Room is made first, and the sample is tried whether that worked or not."""
        failure = None
        try:
            self.store.keep_house(now)
        except HistoryFailed as error:
            failure = str(error)
        try:
            self.store.append(now, samples)
        except HistoryFailed as error:
            failure = str(error)
        return failure
