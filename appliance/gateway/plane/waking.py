"""Services that sleep: the control plane is told that somebody waits, and clients of streams that they still do.

A demand (see `demands`) is written when the first request comes to wait for a sleeping service, once per sleep. While
requests wait it is looked after now and then and written again if it is gone, so neither a control plane that lost it
nor a full disk keeps them waiting in vain.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from appliance.gateway.plane.demands import Demand, is_demanded, write_demand
from appliance.gateway.plane.log import Log

PROGRESS_S: Final = 5.0
"""Between comments to a client that waits for a stream."""
PROGRESS: Final = b": waiting for the service to start\n\n"
REPEAT_S: Final = 5.0
"""Between looks at whether a demand is still there."""


class Waker:
    """Of one worker. Times are on the loop's clock."""

    def __init__(self, directory: Path, log: Log) -> None:
        self._directory = directory
        self._log = log
        self._looked: dict[str, float] = {}
        """When the demand for a sleeping service was last written or seen."""

    def ask(self, service_id: str, now: float) -> None:
        """Somebody waits for this service, which sleeps. May be called at any rate."""
        looked = self._looked.get(service_id)
        if looked is not None and now - looked < REPEAT_S:
            return
        self._looked[service_id] = now
        try:
            if looked is not None and is_demanded(self._directory, service_id):
                return
            write_demand(self._directory, Demand(service_id, time.time()))
        except OSError as error:
            self._log.error("demand.failed", service=service_id, reason=str(error))
            return
        self._log.info("demand.written", service=service_id)

    def rests(self, service_id: str) -> None:
        """The service sleeps no more, or is gone: the next sleep has a demand of its own."""
        self._looked.pop(service_id, None)
