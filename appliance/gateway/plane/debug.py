"""What a worker tells of itself at this moment: `/debug/state` on its local socket, shown by `appliance gateway top`.

No secret, prompt or answer is in it, and no single client: it is counts, ids and times.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from appliance.gateway.plane.metrics import Gauge
from appliance.gateway.plane.schemas.records import Durations

if TYPE_CHECKING:
    from appliance.gateway.plane.context import Context

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


class ReplicaState(Struct, frozen=True, omit_defaults=True):
    """`ejected`: by what failure, if it is; `down_s`: for how long it still gets no requests if there are others, then
    it is tried by one at a time. `failures` in a row. `idle`: kept connections.
    """

    id: str
    deployment_id: str
    in_flight: int = 0
    idle: int = 0
    max_in_flight: int | None = None
    ejected: str = ""
    down_s: float = 0.0
    failures: int = 0
    retired: bool = False


class DeploymentState(Struct, frozen=True, omit_defaults=True):
    """Sums and histograms since the worker's start. `outcomes` by outcome; `failed`: statuses of errors, or none."""

    tenant_id: str
    service_id: str
    deployment_id: str
    service: str = ""
    requests: int = 0
    failed: int = 0
    outcomes: dict[str, int] = {}
    prompt_tokens: int = 0
    completion_tokens: int = 0
    duration: Durations = Durations()
    queue: Durations = Durations()
    first_token: Durations = Durations()
    inter_token: Durations = Durations()


class SpoolState(Struct, frozen=True):
    """`pending` records are not in a file yet; `slots` of requests whose record is not; `failing`: the disk."""

    pending: int
    slots: int
    failing: bool


class WorkerState(Struct, frozen=True, omit_defaults=True):
    """`at`: Unix seconds. `more` is what other parts of the worker tell: queues, limits."""

    worker: int
    pid: int
    at: float
    uptime_s: float
    draining: bool
    snapshot_version: int
    connections: int
    in_flight: int
    resident_bytes: int
    spool: SpoolState
    refused: dict[str, int] = {}
    captures: dict[str, int] = {}
    replicas: list[ReplicaState] = []
    deployments: list[DeploymentState] = []
    more: dict[str, object] = {}


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_bytes().split()[1]) * _PAGE_BYTES


def state(context: Context) -> WorkerState:
    context.books.write_up()
    now = context.now()
    return WorkerState(
        worker=context.metrics.worker,
        pid=os.getpid(),
        at=time.time(),
        uptime_s=round(now - context.started, 3),
        draining=context.draining,
        snapshot_version=context.tables.version,
        connections=len(context.connections),
        in_flight=context.backends.in_flight,
        resident_bytes=resident_bytes(),
        spool=SpoolState(context.spool.pending, context.slots.in_use, context.spool.failing),
        refused=dict(context.metrics.refusals),
        captures=context.captures.results(),
        replicas=list(_replicas(context, now)),
        deployments=list(_deployments(context)),
        more={name: tell() for name, tell in context.told.items()},
    )


def _replicas(context: Context, now: float) -> Iterator[ReplicaState]:
    for replica in context.backends:
        yield ReplicaState(
            id=replica.id,
            deployment_id=replica.deployment_id,
            in_flight=replica.in_flight,
            idle=len(replica.idle),
            max_in_flight=replica.max_in_flight,
            ejected=replica.down_reason if replica.down_until else "",
            failures=replica.failures,
            down_s=round(max(replica.down_until - now, 0.0), 3),
            retired=replica.retired,
        )


def _deployments(context: Context) -> Iterator[DeploymentState]:
    for series, metrics in context.metrics.deployments.items():
        service = context.tables.services.get(series.service)
        latencies = metrics.latencies()
        outcomes: dict[str, int] = {}
        failed = 0
        for (status, outcome), count in metrics.outcomes.items():
            outcomes[outcome] = outcomes.get(outcome, 0) + count
            failed += 0 if 0 < status < 400 else count
        yield DeploymentState(
            *series,
            service=service.shard.name if service is not None else "",
            requests=sum(outcomes.values()),
            failed=failed,
            outcomes=outcomes,
            prompt_tokens=metrics.prompt_tokens,
            completion_tokens=metrics.completion_tokens,
            duration=latencies.duration.durations(),
            queue=latencies.queue.durations(),
            first_token=latencies.first_token.durations(),
            inter_token=latencies.inter_token.durations(),
        )


def gauges(context: Context) -> Iterator[Gauge]:
    """What is read when a scraper asks."""
    yield "connections", {}, len(context.connections)
    for reason, count in context.connections.refused.items():
        yield "connections_refused_total", {"reason": reason}, count
    yield "requests_in_flight", {}, context.backends.in_flight
    yield "snapshot_version", {}, context.tables.version
    yield "spool_pending_records", {}, context.spool.pending
    yield "access_log_dropped_total", {}, context.access_log.dropped
    for result, count in context.captures.results().items():
        yield "captures_total", {"result": result}, count
    yield "resident_bytes", {}, resident_bytes()
    for (deployment_id, reason), count in context.backends.ejections.items():
        yield "ejections_total", {"deployment": deployment_id, "reason": reason}, count
    for (deployment_id, result), count in context.backends.mirrored.items():
        yield "mirrored_total", {"deployment": deployment_id, "result": result}, count
    yield "mirrors_in_flight", {}, len(context.backends.mirrors)
    for service_id, count in context.waiting.counts():
        yield "requests_queued", {"service": service_id}, count
    for service in context.tables.services.values():
        for deployment in service.deployments:
            labels = {"service": service.shard.id, "deployment": deployment.id}
            yield "replicas", labels, len(deployment.replicas)
            yield "replicas_ejected", labels, sum(replica.down_until > 0 for replica in deployment.replicas)
            yield "deployment_in_flight", labels, sum(replica.in_flight for replica in deployment.replicas)
