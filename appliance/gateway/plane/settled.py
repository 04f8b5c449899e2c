"""Requests that have ended, on their way to being usage records: together, a few times a second.

What a record is made of stands in the request's slot from the moment of its end, so a kill loses none. To make it at
once, between the answer and the next request, costs several times what it does in a row with others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from appliance.gateway.plane.meter import encode_record, usage_record
from appliance.gateway.plane.slots import Ending, Progress, RequestIdentity

if TYPE_CHECKING:
    from appliance.gateway.plane.access_log import AccessLog
    from appliance.gateway.plane.capture import Captured, CaptureStore
    from appliance.gateway.plane.metrics import Metrics
    from appliance.gateway.plane.request import Request
    from appliance.gateway.plane.schemas.services import Capture
    from appliance.gateway.plane.spool import Spool

MOST_WAITING: Final = 64
"""Requests that wait for their records: more would be a pause of their own."""


class Settled(NamedTuple):
    """`slot` None: it never had one. `captured`: the exchange and its policy, if it is kept for backflow."""

    identity: RequestIdentity
    progress: Progress
    ending: Ending
    slot: int | None
    request: Request
    captured: tuple[Captured, Capture] | None


class Books:
    """Where the records go: to the spool, into the metrics, the access log and the captures."""

    def __init__(self, spool: Spool, metrics: Metrics, access_log: AccessLog, captures: CaptureStore) -> None:
        self._spool = spool
        self._metrics = metrics
        self._access_log = access_log
        self._captures = captures
        self._waiting: list[Settled] = []

    def settle(self, settled: Settled) -> None:
        self._waiting.append(settled)
        if len(self._waiting) >= MOST_WAITING:
            self.write_up()

    def write_up(self) -> None:
        """Make the records that are due. Whoever looks at what they go to calls this before."""
        waiting, self._waiting = self._waiting, []
        for identity, progress, ending, slot, request, captured in waiting:
            record = usage_record(identity, progress, ending)
            self._spool.append(encode_record(record), slot)
            self._metrics.observe(record, request.service.shard.tenant_id)
            self._access_log.tell(record, request.peer, request.head.fields.get(b"traceparent"))
            if captured is not None:
                self._captures.end(captured[0], record, captured[1])
