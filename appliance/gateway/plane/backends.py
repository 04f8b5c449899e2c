"""The replicas as a worker sees them: identity that outlives snapshots, counters, idle connections.

A replica that the snapshot no longer names stays until its last request has ended, so that its count in the status
is true to the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from appliance.gateway.plane import schemas
from appliance.gateway.plane.status import StatusWriter

if TYPE_CHECKING:
    from appliance.gateway.plane.upstream import UpstreamConnection


class Replica:
    """`down_until`: no new requests before this time (the loop's clock), after a connection failed."""

    __slots__ = (
        "deployment_id",
        "down_until",
        "id",
        "idle",
        "in_flight",
        "max_in_flight",
        "owner_uid",
        "retired",
        "socket",
        "status_entry",
    )

    def __init__(self, described: schemas.Replica, deployment_id: str, status_entry: int) -> None:
        self.id = described.id
        self.deployment_id = deployment_id
        self.status_entry = status_entry
        self.in_flight = 0
        self.down_until = 0.0
        self.retired = False
        self.idle: list[UpstreamConnection] = []
        self.socket = described.socket
        self.owner_uid = described.owner_uid
        self.max_in_flight = described.max_in_flight

    def update(self, described: schemas.Replica) -> None:
        if described.socket != self.socket or described.owner_uid != self.owner_uid:
            self.close_idle()
        self.socket = described.socket
        self.owner_uid = described.owner_uid
        self.max_in_flight = described.max_in_flight
        self.retired = False

    def has_room(self) -> bool:
        return self.max_in_flight is None or self.in_flight < self.max_in_flight

    def close_idle(self) -> None:
        for connection in self.idle:
            connection.close()
        self.idle.clear()


class Backends:
    """All replicas of a worker, by id."""

    def __init__(self, status: StatusWriter) -> None:
        self._status = status
        self._replicas: dict[str, Replica] = {}
        self.in_flight = 0

    def __iter__(self) -> Iterator[Replica]:
        return iter(self._replicas.values())

    def get(self, described: schemas.Replica, deployment_id: str) -> Replica:
        """The replica of a snapshot: the one that is known by this id, or a new one."""
        replica = self._replicas.get(described.id)
        if replica is None:
            replica = Replica(described, deployment_id, self._status.claim(described.id))
            self._replicas[described.id] = replica
        else:
            replica.update(described)
        return replica

    def retire_all_but(self, named: set[str]) -> None:
        for replica in list(self._replicas.values()):
            if replica.id not in named:
                replica.retired = True
                replica.close_idle()
                self._forget_if_unused(replica)

    def begin(self, replica: Replica) -> None:
        replica.in_flight += 1
        self.in_flight += 1
        self._status.set_in_flight(replica.status_entry, replica.in_flight, self.in_flight)

    def end(self, replica: Replica) -> None:
        replica.in_flight -= 1
        self.in_flight -= 1
        self._status.set_in_flight(replica.status_entry, replica.in_flight, self.in_flight)
        if replica.retired:
            self._forget_if_unused(replica)

    def _forget_if_unused(self, replica: Replica) -> None:
        if replica.in_flight == 0:
            del self._replicas[replica.id]
            self._status.release(replica.status_entry)
