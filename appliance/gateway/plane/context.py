"""What the connections of one worker share. One thread, one event loop: nothing here needs a lock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from appliance.gateway.plane import debug, tables
from appliance.gateway.plane.access_log import AccessLog
from appliance.gateway.plane.answers import DateHeader
from appliance.gateway.plane.backends import Backends
from appliance.gateway.plane.body import BodyMemory
from appliance.gateway.plane.capture import CaptureStore
from appliance.gateway.plane.connections import Connections
from appliance.gateway.plane.familiar import FamiliarHeads
from appliance.gateway.plane.identifiers import RequestIds
from appliance.gateway.plane.limits.limiter import Limiter
from appliance.gateway.plane.limits.shared import Counters
from appliance.gateway.plane.log import Log
from appliance.gateway.plane.metrics import Known, Metrics
from appliance.gateway.plane.settled import Books
from appliance.gateway.plane.slots import SlotTable
from appliance.gateway.plane.spool import Spool
from appliance.gateway.plane.status import StatusWriter
from appliance.gateway.plane.turns import Turns
from appliance.gateway.plane.waiting import WaitingRoom
from appliance.gateway.plane.waking import Waker

if TYPE_CHECKING:
    from appliance.gateway.plane.client_protocol import ClientConnection

NEWCOMERS: Final = 2
"""Connections whose first request one turn of the loop begins."""


class Context:
    """`now` is the loop's clock, in seconds; it equals CLOCK_MONOTONIC."""

    def __init__(  # noqa: PLR0913 - everything that connections share
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        status: StatusWriter,
        slots: SlotTable,
        spool: Spool,
        counters: Counters,
        access_log: AccessLog,
        captures: CaptureStore,
        demands: Path,
        worker: int,
        log: Log,
    ) -> None:
        """`demands`: the folder in which sleeping services are asked for."""
        self.loop = loop
        self.now = loop.time
        self.status = status
        self.slots = slots
        self.spool = spool
        self.counters = counters
        self.access_log = access_log
        self.captures = captures
        self.limiter = Limiter(counters)
        self.log = log
        self.backends = Backends(status, counters)
        self.bodies = BodyMemory()
        self.tables = tables.EMPTY
        self.familiar = FamiliarHeads()
        self.ids = RequestIds()
        self.date = DateHeader()
        self.connections = Connections()
        self.held_back: set[ClientConnection] = set()
        """Those that are not read for now: they have sent ahead too much."""
        self.newcomers = Turns(loop, NEWCOMERS)
        """A storm of new connections does not keep those waiting that are being served."""
        self.bulk = Turns(loop, 1)
        """Reading on of large bodies, and giving back what they took: one such step a turn for all connections."""
        self.draining = False
        self.emptied = asyncio.Event()
        """Set when the last connection is gone while draining."""
        self.metrics = Metrics(worker, lambda: debug.gauges(self), self.ids.next, self._known)
        self.books = Books(spool, self.metrics, access_log, captures)
        self.settle = self.books.settle
        self.started = loop.time()
        self.waiting = WaitingRoom(self, Waker(demands, log))
        self.told: dict[str, Callable[[], object]] = {}
        """What further parts of the worker tell in `/debug/state`, by name."""
        self.told["queues"] = self.waiting.describe

    def _known(self) -> Known:
        return Known(self.tables.deployment_ids(), self.tables.tenants.keys())

    def disconnected(self, connection: ClientConnection) -> None:
        self.connections.remove(connection)
        if self.draining and not self.connections:
            self.emptied.set()
