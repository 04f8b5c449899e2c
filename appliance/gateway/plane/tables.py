"""What a request is looked up in: built from a snapshot when one arrives, so that a request decodes nothing.

What did not change is used again as it is: the table of a service whose shard is the same, the directory of a tenant
none of whose services changed its name, models, routes or gateway. Directories and principals are made at their
first use.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec
from msgspec import Raw

from appliance.gateway.plane.affinity import Ring, seed_of
from appliance.gateway.plane.backends import Backends
from appliance.gateway.plane.directory import Directory, card, list_models, names, offered, seen_alike
from appliance.gateway.plane.principal import UNKNOWN_TENANT, Principal
from appliance.gateway.plane.routes import route_table
from appliance.gateway.plane.schemas.listeners import Listener
from appliance.gateway.plane.schemas.manifest import KEY_BUCKETS
from appliance.gateway.plane.schemas.services import Deployment, Mirror, SamplingDefaults, ServiceShard
from appliance.gateway.plane.schemas.tenants import KeyEntry, TenantEntry
from appliance.gateway.plane.snapshot import Snapshot

_encode = msgspec.json.Encoder().encode


class DeploymentTable:
    """`turn` and `ring` are `balance`'s."""

    __slots__ = ("_backends", "_ring", "id", "name", "replicas", "seed", "turn", "weight")

    def __init__(self, described: Deployment, backends: Backends) -> None:
        self.id = described.id
        self.name = described.name
        self.weight = described.weight
        self.replicas = [backends.get(replica, described.id) for replica in described.replicas]
        self.seed = seed_of(described.id)
        self.turn = 0
        self._backends = backends
        self._ring: Ring | None = None

    def ring(self) -> Ring:
        """Made at its first use, or the one of the snapshot before if the replicas are the same."""
        if self._ring is None:
            self._ring = self._backends.ring(self.id, self.replicas)
        return self._ring


class MirrorTable(NamedTuple):
    """`share` (0 to 1) of the requests is copied to `deployment`."""

    deployment: DeploymentTable
    share: float


class ServiceTable:
    """A service with its answers and look-ups made ready. `sampling`, `system_message`, `served_model` and
    `cache_salt` are JSON to be put into a request's body. `split` are the deployments with a share of the traffic,
    `by_name` finds any by name or id; `by_prefix`: prompts that begin alike belong together.
    """

    __slots__ = (
        "by_name",
        "by_prefix",
        "cache_salt",
        "deployments",
        "listing",
        "mirror",
        "models",
        "replica_ids",
        "routes",
        "sampling",
        "served_model",
        "shard",
        "split",
        "system_message",
    )

    def __init__(self, shard: ServiceShard, backends: Backends) -> None:
        self.shard = shard
        self.deployments = [DeploymentTable(deployment, backends) for deployment in shard.deployments]
        self.split = [deployment for deployment in self.deployments if deployment.weight > 0]
        self.by_name = {each.name.encode(): each for each in self.deployments}
        self.by_name |= {each.id.encode(): each for each in self.deployments}
        several = any(len(deployment.replicas) > 1 for deployment in self.deployments)
        self.by_prefix = several and shard.affinity == "prefix"
        self.mirror = _mirror(shard.mirror, self.deployments)
        self.replica_ids = frozenset(replica.id for deployment in self.deployments for replica in deployment.replicas)
        self.routes = route_table(tuple(shard.routes))
        self.models = names(shard)
        self.listing = list_models([card(shard, name) for name in offered(shard)])
        self.served_model = Raw(_encode(shard.served_model))
        self.sampling = _sampling(shard.defaults)
        prompt = shard.defaults.system_prompt
        self.system_message = _encode({"role": "system", "content": prompt}) if prompt else None
        self.cache_salt = None if shard.cache_salt is None else Raw(_encode(shard.cache_salt))


def _mirror(described: Mirror | None, deployments: list[DeploymentTable]) -> MirrorTable | None:
    """None also for a deployment that has live traffic."""
    if described is None or described.percent <= 0:
        return None
    for deployment in deployments:
        if deployment.id == described.deployment_id and deployment.weight <= 0:
            return MirrorTable(deployment, described.percent / 100)
    return None


def _sampling(defaults: SamplingDefaults) -> tuple[tuple[str, Raw], ...]:
    values = {
        "temperature": defaults.temperature,
        "top_p": defaults.top_p,
        "repetition_penalty": defaults.repetition_penalty,
    }
    return tuple((name, Raw(_encode(value))) for name, value in values.items() if value is not None)


class Tables:
    """One version, whole. Replaced, never changed but for what is made at its first use."""

    __slots__ = ("_directories", "_keys", "_principals", "listeners", "services", "tenants", "version")

    def __init__(
        self,
        version: int,
        listeners: dict[str, Listener],
        services: dict[str, ServiceTable],
        keys: list[dict[str, KeyEntry]],
        tenants: dict[str, TenantEntry],
        directories: Mapping[tuple[str, str], Directory] | None = None,
    ) -> None:
        self.version = version
        self.listeners = listeners
        self.services = services
        self._keys = keys
        self.tenants = tenants
        self._directories = dict(directories or {})
        self._principals: dict[str, Principal] = {}

    def principal(self, sha256_hex: str) -> Principal | None:
        """Whose key has this hash."""
        principal = self._principals.get(sha256_hex)
        if principal is None:
            key = self._keys[int(sha256_hex[:2], 16) % KEY_BUCKETS].get(sha256_hex)
            if key is None:
                return None
            principal = Principal(key, self.tenants.get(key.tenant_id, UNKNOWN_TENANT))
            self._principals[sha256_hex] = principal
        return principal

    def deployment_ids(self) -> set[str]:
        """Of all services. Made anew at each call."""
        return {deployment.id for service in self.services.values() for deployment in service.deployments}

    def keys(self) -> dict[str, KeyEntry]:
        """All of them by their id. Made anew at each call."""
        return {entry.key_id: entry for bucket in self._keys for entry in bucket.values()}

    def service_of(self, listener_id: str) -> ServiceTable | None:
        listener = self.listeners.get(listener_id)
        if listener is None or listener.service_id is None:
            return None
        return self.services.get(listener.service_id)

    def directory(self, gateway_id: str, tenant_id: str) -> Directory:
        """What keys of this tenant find on the gateway's shared listeners."""
        found = self._directories.get((gateway_id, tenant_id))
        if found is None:
            shards = (table.shard for table in self.services.values() if table.shard.gateway_id == gateway_id)
            visible = [shard for shard in shards if shard.tenant_id == tenant_id or tenant_id in shard.shared_with]
            found = self._directories[gateway_id, tenant_id] = Directory(gateway_id, tenant_id, visible)
        return found

    def directories_without(self, changed: list[ServiceShard]) -> Mapping[tuple[str, str], Directory]:
        """Those in which none of `changed` is to be found."""
        stale = {
            (shard.gateway_id, tenant_id) for shard in changed for tenant_id in (shard.tenant_id, *shard.shared_with)
        }
        return {where: directory for where, directory in self._directories.items() if where not in stale}


EMPTY: Final = Tables(0, {}, {}, [{} for _ in range(KEY_BUCKETS)], {})


def build(snapshot: Snapshot, before: Tables, backends: Backends) -> Tables:
    """The tables of `snapshot`. Afterwards `backends` knows exactly its replicas (and those still in use)."""
    services = {}
    named: set[str] = set()
    changed = [table.shard for service_id, table in before.services.items() if service_id not in snapshot.services]
    for shard in snapshot.services.values():
        table = before.services.get(shard.id)
        if table is None or table.shard is not shard:
            if table is None or not seen_alike(table.shard, shard):
                changed += [shard] if table is None else [table.shard, shard]
            table = ServiceTable(shard, backends)
        services[shard.id] = table
        named |= table.replica_ids
    backends.retire_all_but(named)
    return Tables(
        snapshot.version,
        {listener.id: listener for listener in snapshot.listeners.listeners},
        services,
        snapshot.key_buckets,
        snapshot.tenants,
        before.directories_without(changed),
    )
