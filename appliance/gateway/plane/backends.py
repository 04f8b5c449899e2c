"""The replicas as a worker sees them: identity that outlives snapshots, counters, idle connections.

A replica that the snapshot no longer names stays until its last request has ended, so that its count in the status
is true to the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING

from appliance.gateway.plane.affinity import Ring
from appliance.gateway.plane.limits.counter import Counter
from appliance.gateway.plane.limits.layout import HELD_REQUESTS, HELD_TOKENS, Kind
from appliance.gateway.plane.limits.shared import Counters
from appliance.gateway.plane.schemas import services
from appliance.gateway.plane.status import StatusWriter

if TYPE_CHECKING:
    from appliance.gateway.plane.mirroring import Mirror
    from appliance.gateway.plane.upstream import UpstreamConnection


class Replica:
    """`down_until` is 0 unless the replica is ejected (see `ejection`): then it gets no requests before this time (on
    the loop's clock), and one at a time after it. `troubled`: it is ejected or has failures in a row.

    `in_flight` is this worker's. Of a replica that takes only so many at once, `shared` counts all workers': its
    requests in flight, and what waits for it (in shares of attention, see `waiting`).
    """

    __slots__ = (
        "deployment_id",
        "down_reason",
        "down_until",
        "ejections",
        "failures",
        "gate",
        "id",
        "idle",
        "in_flight",
        "max_in_flight",
        "owner_uid",
        "retired",
        "returned_at",
        "shared",
        "socket",
        "standing",
        "status_entry",
        "troubled",
    )

    def __init__(self, described: services.Replica, deployment_id: str, status_entry: int) -> None:
        self.id = described.id
        self.deployment_id = deployment_id
        self.status_entry = status_entry
        self.in_flight = 0
        self.gate = asyncio.Lock()
        """Held by who waits for room in the engine's accept queue."""
        self.retired = False
        self.forgive()
        self.idle: list[UpstreamConnection] = []
        self.socket = described.socket
        self.owner_uid = described.owner_uid
        self.max_in_flight = described.max_in_flight
        self.shared: Counter | None = None

    def update(self, described: services.Replica) -> None:
        if described.socket != self.socket or described.owner_uid != self.owner_uid:
            self.close_idle()
            self.forgive()
        self.socket = described.socket
        self.owner_uid = described.owner_uid
        self.max_in_flight = described.max_in_flight
        self.retired = False

    def forgive(self) -> None:
        """As if it had never failed."""
        self.troubled = False
        self.down_until = 0.0
        self.down_reason = ""
        self.failures = 0
        """In a row."""
        self.ejections = 0
        """In a row, without a quiet time between them."""
        self.returned_at = float("-inf")
        self.standing = 0
        """Of the requests in flight, those that were begun before it was ejected (or at most so many)."""

    def is_eligible(self, now: float) -> bool:
        """Neither full nor ejected; after its time of ejection it may be tried by one request at a time."""
        if self.down_until and (self.down_until > now or self.in_flight > self.standing):
            return False
        return self.has_room()

    def has_room(self) -> bool:
        """Over all workers. Two that ask at once may both take the last place."""
        most = self.max_in_flight
        if most is None:
            return True
        shared = self.shared
        return (self.in_flight if shared is None else shared.held()) < most

    def is_awaited(self) -> bool:
        """Whether any worker has requests that wait for it."""
        return self.shared is not None and self.shared.held(HELD_TOKENS) > 0

    def close_idle(self) -> None:
        for connection in self.idle:
            connection.close()
        self.idle.clear()


class Backends:
    """All replicas of a worker, by id. Without `counters` this worker counts for itself alone."""

    def __init__(self, status: StatusWriter, counters: Counters | None = None) -> None:
        self._status = status
        self._counters = counters
        self._replicas: dict[str, Replica] = {}
        self.in_flight = 0
        self.rings: dict[str, Ring] = {}
        """By deployment; those of a replica that retired go with the snapshot that retired it."""
        self.ejections: dict[tuple[str, str], int] = {}
        """How often replicas were ejected, by deployment and reason."""
        self.mirrored: dict[tuple[str, str], int] = {}
        """What became of mirrored requests, by deployment and result."""
        self.mirrors: set[Mirror] = set()
        """Those that are running."""
        self.mirrored_bytes = 0
        """Of bodies that they hold."""

    def __iter__(self) -> Iterator[Replica]:
        return iter(self._replicas.values())

    def get(self, described: services.Replica, deployment_id: str) -> Replica:
        """The replica of a snapshot: the one that is known by this id, or a new one."""
        replica = self._replicas.get(described.id)
        if replica is None:
            replica = Replica(described, deployment_id, self._status.claim(described.id))
            self._replicas[described.id] = replica
        else:
            replica.update(described)
        self._share(replica)
        return replica

    def _share(self, replica: Replica) -> None:
        """Count its requests where the other workers see them, while their number is bounded."""
        if self._counters is None:
            return
        shared = replica.shared
        if replica.max_in_flight is None:
            if shared is not None:
                replica.shared = None
                _empty(shared)
                self._counters.release(shared)
        elif shared is None:
            shared = replica.shared = self._counters.claim(Kind.REPLICA, replica.id)
            shared.add(HELD_REQUESTS, replica.in_flight)

    def of_deployment(self, deployment_id: str) -> list[Replica]:
        return [each for each in self if each.deployment_id == deployment_id and not each.retired]

    def ring(self, deployment_id: str, replicas: list[Replica]) -> Ring:
        """The ring of these replicas, made when they changed."""
        ring = self.rings.get(deployment_id)
        if ring is None or ring.replicas != tuple(replicas):
            ring = self.rings[deployment_id] = Ring(replicas)
        return ring

    def retire_all_but(self, named: set[str]) -> None:
        for replica in list(self._replicas.values()):
            if replica.id not in named:
                replica.retired = True
                replica.close_idle()
                self._forget_if_unused(replica)
        self.rings = {
            deployment: ring
            for deployment, ring in self.rings.items()
            if not any(replica.retired for replica in ring.replicas)
        }

    def begin(self, replica: Replica) -> None:
        replica.in_flight += 1
        self.in_flight += 1
        if replica.shared is not None:
            replica.shared.add(HELD_REQUESTS, 1)
        self._status.set_in_flight(replica.status_entry, replica.in_flight, self.in_flight)

    def end(self, replica: Replica) -> None:
        replica.in_flight -= 1
        if replica.standing:
            replica.standing -= 1
        self.in_flight -= 1
        if replica.shared is not None:
            replica.shared.add(HELD_REQUESTS, -1)
        self._status.set_in_flight(replica.status_entry, replica.in_flight, self.in_flight)
        if replica.retired:
            self._forget_if_unused(replica)

    def set_waiting(self, replica: Replica, requests: int, shares: int) -> None:
        """So many of this worker's requests wait for it, and stand for so many shares of its attention."""
        if self._replicas.get(replica.id) is not replica:
            return  # forgotten: its places are another's
        self._status.set_queued(replica.status_entry, requests)
        if replica.shared is not None:
            replica.shared.set(HELD_TOKENS, shares)

    def _forget_if_unused(self, replica: Replica) -> None:
        if replica.in_flight == 0:
            del self._replicas[replica.id]
            self._status.release(replica.status_entry)
            if self._counters is not None and replica.shared is not None:
                _empty(replica.shared)
                self._counters.release(replica.shared)


def _empty(counter: Counter) -> None:
    counter.set(HELD_REQUESTS, 0)
    counter.set(HELD_TOKENS, 0)
