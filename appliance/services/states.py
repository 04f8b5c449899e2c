"""States of services and replicas, each with its one transition table, and what may be asked of a service when."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Desired(StrEnum):
    running = "running"
    stopped = "stopped"
    deleted = "deleted"


class ServiceState(StrEnum):
    """Observed. `degraded`: some replicas are ready, fewer than desired; `failed`: none, and the last starts failed."""

    pending = "pending"
    starting = "starting"
    ready = "ready"
    degraded = "degraded"
    failed = "failed"
    stopping = "stopping"
    stopped = "stopped"
    deleting = "deleting"


class ReplicaState(StrEnum):
    """`joining`: a real token came back, and the gateways are being told; ready only once they know."""

    pending = "pending"
    placed = "placed"
    starting = "starting"
    joining = "joining"
    ready = "ready"
    draining = "draining"
    stopping = "stopping"
    stopped = "stopped"
    failed = "failed"


class Phase(StrEnum):
    """What a user sees of a start, in order; also the kinds of events that are not about a start."""

    placing = "placing"
    placed = "placed"
    pulling_image = "pulling_image"
    verifying_model = "verifying_model"
    waiting_for_device = "waiting_for_device"
    launching = "launching"
    loading_weights = "loading_weights"
    warming_up = "warming_up"
    ready = "ready"
    draining = "draining"
    stopping = "stopping"
    stopped = "stopped"
    failed = "failed"
    changed = "changed"


class Action(StrEnum):
    start = "start"
    stop = "stop"
    update = "update"
    delete = "delete"


REPLICA_TRANSITIONS: Final[dict[ReplicaState, frozenset[ReplicaState]]] = {
    ReplicaState.pending: frozenset({ReplicaState.placed, ReplicaState.stopped}),
    ReplicaState.placed: frozenset({ReplicaState.starting, ReplicaState.stopping}),
    ReplicaState.starting: frozenset({ReplicaState.joining, ReplicaState.stopping}),
    ReplicaState.joining: frozenset({ReplicaState.ready, ReplicaState.draining, ReplicaState.stopping}),
    ReplicaState.ready: frozenset({ReplicaState.draining, ReplicaState.stopping}),
    ReplicaState.draining: frozenset({ReplicaState.stopping}),
    ReplicaState.stopping: frozenset({ReplicaState.stopped, ReplicaState.failed}),
    ReplicaState.stopped: frozenset(),
    ReplicaState.failed: frozenset(),
}
SERVING: Final = frozenset({ReplicaState.joining, ReplicaState.ready})
"""Replicas that the snapshot holds."""
ENDED: Final = frozenset({ReplicaState.stopped, ReplicaState.failed})
LEAVING: Final = frozenset({ReplicaState.draining, ReplicaState.stopping})
COMING_OR_UP: Final = frozenset(ReplicaState) - ENDED - LEAVING
"""Replicas that count towards the desired number."""
HOLDING: Final = frozenset(ReplicaState) - ENDED - {ReplicaState.pending}
"""Replicas that hold leases and may have a process."""

ALLOWED: Final[dict[Desired, frozenset[Action]]] = {
    Desired.running: frozenset({Action.stop, Action.update, Action.delete}),
    Desired.stopped: frozenset({Action.start, Action.update, Action.delete}),
    Desired.deleted: frozenset(),
}


def can(desired: Desired, action: Action) -> bool:
    return action in ALLOWED[desired]
