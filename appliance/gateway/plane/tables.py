"""What a request is looked up in: built from a snapshot when one arrives, so that a request decodes nothing.

A table of a service whose shard did not change is used again as it is.
"""

from __future__ import annotations

from typing import Final

import msgspec

from appliance.gateway.plane.backends import Backends, Replica
from appliance.gateway.plane.schemas import KEY_BUCKETS, KeyEntry, Listener, ServiceShard, TenantEntry
from appliance.gateway.plane.snapshot import Snapshot

_encode = msgspec.json.Encoder().encode


class DeploymentTable:
    __slots__ = ("id", "replicas", "weight")

    def __init__(self, deployment_id: str, weight: float, replicas: list[Replica]) -> None:
        self.id = deployment_id
        self.weight = weight
        self.replicas = replicas


class ServiceTable:
    """A service with its answers and look-ups made ready."""

    __slots__ = ("deployments", "methods", "model_answers", "models", "models_answer", "routes", "shard")

    def __init__(self, shard: ServiceShard, backends: Backends) -> None:
        self.shard = shard
        self.deployments = [
            DeploymentTable(
                deployment.id,
                deployment.weight,
                [backends.get(replica, deployment.id) for replica in deployment.replicas],
            )
            for deployment in shard.deployments
        ]
        self.models = frozenset((shard.served_model, *shard.aliases))
        self.routes: dict[bytes, str] = {}
        """`METHOD /path` to itself as text."""
        self.methods: dict[bytes, list[str]] = {}
        """Path to the methods that it allows."""
        for route in shard.routes:
            method, _, path = route.partition(" ")
            self.routes[route.encode()] = route
            self.methods.setdefault(path.encode(), []).append(method)
        cards = {
            name: {"id": name, "object": "model", "created": shard.created_at, "owned_by": shard.tenant_name}
            for name in (shard.served_model, *shard.aliases)
        }
        self.models_answer = _encode({"object": "list", "data": list(cards.values())})
        self.model_answers = {name.encode(): _encode(card) for name, card in cards.items()}

    def replica_ids(self) -> set[str]:
        return {replica.id for deployment in self.deployments for replica in deployment.replicas}


class Tables:
    """One version, whole. Replaced, never changed."""

    __slots__ = ("_keys", "listeners", "services", "tenants", "version")

    def __init__(
        self,
        version: int,
        listeners: dict[str, Listener],
        services: dict[str, ServiceTable],
        keys: list[dict[str, KeyEntry]],
        tenants: dict[str, TenantEntry],
    ) -> None:
        self.version = version
        self.listeners = listeners
        self.services = services
        self._keys = keys
        self.tenants = tenants

    def key(self, sha256_hex: str) -> KeyEntry | None:
        return self._keys[int(sha256_hex[:2], 16) % KEY_BUCKETS].get(sha256_hex)

    def service_of(self, listener_id: str) -> ServiceTable | None:
        listener = self.listeners.get(listener_id)
        if listener is None or listener.service_id is None:
            return None
        return self.services.get(listener.service_id)


EMPTY: Final = Tables(0, {}, {}, [{} for _ in range(KEY_BUCKETS)], {})


def build(snapshot: Snapshot, before: Tables, backends: Backends) -> Tables:
    """The tables of `snapshot`. Afterwards `backends` knows exactly its replicas (and those still in use)."""
    services = {}
    named: set[str] = set()
    for shard in snapshot.services.values():
        table = before.services.get(shard.id)
        if table is None or table.shard is not shard:
            table = ServiceTable(shard, backends)
        services[shard.id] = table
        named |= table.replica_ids()
    backends.retire_all_but(named)
    return Tables(
        snapshot.version,
        {listener.id: listener for listener in snapshot.listeners.listeners},
        services,
        snapshot.key_buckets,
        snapshot.tenants,
    )
