"""Records and identities of requests, as a worker makes them, and what counts them."""

from collections.abc import Callable
from itertools import count
from typing import Any

import msgspec

from appliance.gateway.plane import wire
from appliance.gateway.plane.log import Log
from appliance.gateway.plane.metrics import Known, Metrics
from appliance.gateway.plane.slots import RequestIdentity

LOG = Log(test=True)


_WHOSE: dict[str, Any] = {
    "request_id": "q",
    "at": 1.0,
    "tenant_id": "ten_1",
    "key_id": "key_1",
    "service_id": "svc_1",
    "deployment_id": "dep_1",
    "replica_id": "rpl_1",
    "route": "POST /v1/chat/completions",
    "model": "m",
}


def record(number: int, **changes: Any) -> wire.UsageRecord:
    plain = wire.UsageRecord(record_id=f"r{number}", **_WHOSE, status=200, outcome="completed")
    return msgspec.structs.replace(plain, **changes)


def identity(number: int, **changes: Any) -> RequestIdentity:
    plain = RequestIdentity(record_id=f"r{number}", **_WHOSE, prompt_estimate=5)
    return msgspec.structs.replace(plain, **changes)


def metrics_of(worker: int = 0, known: Callable[[], Known] = lambda: Known(frozenset(), frozenset())) -> Metrics:
    """Without gauges; `known`: what its snapshot names."""
    return Metrics(worker, lambda: iter(()), map(str, count()).__next__, known)
