"""Services with few places, and what waits for them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from appliance.gateway.plane import wire
from tests.plane.fake_engine import FakeEngine
from tests.plane.harness import SERVICE, Connection, Gateway, chat, request, service
from tests.support.waiting import eventually


def deployment(engine: Path, *, places: int | None = 1, replica: str = "rpl_1") -> wire.Deployment:
    return wire.Deployment("dep_1", "main", 100, [wire.Replica(replica, str(engine), max_in_flight=places)])


def publish(gateway: Gateway, engine: FakeEngine, *, places: int = 1, **changes: Any) -> None:
    deployments = changes.pop("deployments", [deployment(engine.path, places=places)])
    gateway.services = {SERVICE: service(engine.path, deployments=deployments, **changes)}
    gateway.publish()


def queued(gateway: Gateway, replica: str = "rpl_1") -> int:
    return sum(status.replicas.get(replica, (0, 0))[1] for status in gateway.statuses())


def await_queued(gateway: Gateway, count: int) -> None:
    """And a moment longer: the worker's clock counts milliseconds."""
    eventually(lambda: queued(gateway) == count, message=f"{count} requests wait")
    seen = time.monotonic()
    eventually(lambda: time.monotonic() > seen + 0.005, message="time passes")


@contextmanager
def taken(gateway: Gateway) -> Iterator[Connection]:
    """A place is taken by a stream that has begun and is held."""
    with gateway.connect() as first:
        first.send(request(chat(stream=True)))
        first.read_until(b"first")
        yield first
