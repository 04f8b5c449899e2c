"""What the gateways must know of the services: the service shards of the snapshot.

Of five hundred services few change at once. A few narrow queries tell what each shard depends on; only where that
differs from the last time are rows read and the shard is built again. All the same everything is read again once a
minute, so that a change that this reasoning misses lives no longer than that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.gateway.budgets import BudgetsBySubject
from appliance.gateway.keys import limits_of
from appliance.gateway.plane import wire
from appliance.gateway.tables import ListenerRow
from appliance.gateway.tenancy import CacheSalt
from appliance.kernel.clock import Clock
from appliance.models.tables import ModelVersionRow
from appliance.runtimes.arguments import number_in, text_in, with_defaults
from appliance.runtimes.catalog import Catalog, RuntimeSpec
from appliance.services.states import SERVING, Desired
from appliance.services.tables import DeploymentRow, ReplicaRow, ServiceRow, ServiceShareRow
from tenants.tables import TenantRow

REREAD_S: Final = 60.0
_MAX_QUEUED: Final = 1000


class _Facts(NamedTuple):
    """All that a shard is made of besides what raises its service's version."""

    version: int
    tenant_name: str
    gateway_id: str | None
    serving: tuple[tuple[str, str], ...]
    """Of each replica that serves: its deployment's id and its own."""
    shared_with: tuple[str, ...]
    budgets: Sequence[wire.Budget]


class Routes:
    """The snapshot publisher's source of service shards, by service id; an unchanged shard is the same object."""

    def __init__(
        self, catalog: Catalog, home: Path, clock: Clock, *, salt: CacheSalt, body_bytes: int, owner_uid: int
    ) -> None:
        self._catalog, self._home, self._clock = catalog, home, clock
        self._salt, self._body_bytes, self._owner_uid = salt, body_bytes, owner_uid
        self._facts: Mapping[str, _Facts] = {}
        self._shards: Mapping[str, wire.ServiceShard] = {}
        self._read_at = float("-inf")

    async def __call__(self, session: AsyncSession, budgets: BudgetsBySubject) -> Mapping[str, wire.ServiceShard]:
        facts = await _facts(session, budgets)
        before = self._facts
        if self._clock.monotonic() - self._read_at >= REREAD_S:
            before, self._read_at = {}, self._clock.monotonic()
        fresh = await self._build(session, {key: value for key, value in facts.items() if before.get(key) != value})
        self._shards = {
            service_id: shard
            for service_id in facts
            if (shard := _same_or(self._shards.get(service_id), fresh.get(service_id))) is not None
        }
        self._facts = facts
        return self._shards

    async def _build(self, session: AsyncSession, changed: Mapping[str, _Facts]) -> Mapping[str, wire.ServiceShard]:
        if not changed:
            return {}
        ids = list(changed)
        deployments: dict[str, list[DeploymentRow]] = defaultdict(list)
        query = select(DeploymentRow).where(DeploymentRow.service_id.in_(ids)).order_by(DeploymentRow.id)
        for deployment in await session.scalars(query):
            deployments[deployment.service_id].append(deployment)
        contexts = await _model_contexts(session, [row for rows in deployments.values() for row in rows])
        services = await session.scalars(select(ServiceRow).where(ServiceRow.id.in_(ids)))
        return {row.id: self._shard(row, changed[row.id], deployments[row.id], contexts) for row in services}

    def _shard(
        self, row: ServiceRow, facts: _Facts, deployments: Sequence[DeploymentRow], contexts: Mapping[str, int | None]
    ) -> wire.ServiceShard:
        runtimes = [self._catalog.get(deployment.runtime) for deployment in deployments]
        pairs = list(zip(deployments, runtimes, strict=True))
        queue = row.queue or {}
        return wire.ServiceShard(
            id=row.id,
            tenant_id=row.tenant_id,
            tenant_name=facts.tenant_name,
            name=row.name,
            served_model=row.served_model,
            routes=sorted({route for runtime in runtimes for route in runtime.routes}),
            usage_in_every_chunk=all(runtime.usage_in_every_chunk for runtime in runtimes),
            defaults=_defaults(row.defaults),
            timeouts=_timeouts(row.timeouts, queue),
            max_body_bytes=self._body_bytes,
            cache_salt=self._salt(row.tenant_id) if all(r.accepts_cache_salt for r in runtimes) else None,
            created_at=int(row.created_at.timestamp()),
            gateway_id=facts.gateway_id,
            shared_with=list(facts.shared_with),
            limits=limits_of(row.limits),
            budgets=list(facts.budgets),
            affinity=cast("wire.Affinity", row.affinity or "prefix"),
            capture=wire.Capture(**row.capture) if row.capture else None,
            max_queued=queue.get("max_queued", _MAX_QUEUED),
            context_tokens=_context_tokens(pairs, contexts),
            priorities=all(_has_priorities(runtime, deployment.args) for deployment, runtime in pairs),
            deployments=[self._deployment(deployment, runtime, facts) for deployment, runtime in pairs],
        )

    def _deployment(self, row: DeploymentRow, runtime: RuntimeSpec, facts: _Facts) -> wire.Deployment:
        most = number_in(row.args, runtime.concurrency_argument) or runtime.max_in_flight
        replicas = [
            wire.Replica(id=replica_id, socket=self._socket(replica_id), owner_uid=self._owner_uid, max_in_flight=most)
            for deployment_id, replica_id in facts.serving
            if deployment_id == row.id
        ]
        return wire.Deployment(id=row.id, name=row.name, weight=row.weight, replicas=replicas)

    def _socket(self, replica_id: str) -> str:
        return str(self._home / "run" / "e" / replica_id / "engine.sock")


def _same_or(before: wire.ServiceShard | None, fresh: wire.ServiceShard | None) -> wire.ServiceShard | None:
    """The shard of the last time unless another was built that differs; None for a service that went meanwhile."""
    return before if fresh is None or fresh == before else fresh


async def _facts(session: AsyncSession, budgets: BudgetsBySubject) -> Mapping[str, _Facts]:
    """Of every service that is not being deleted."""
    serving: dict[str, list[tuple[str, str]]] = defaultdict(list)
    replicas = select(ReplicaRow.service_id, ReplicaRow.deployment_id, ReplicaRow.id).where(
        ReplicaRow.state.in_([state.value for state in SERVING])
    )
    for service_id, deployment_id, replica_id in await session.execute(replicas.order_by(ReplicaRow.id)):
        serving[service_id].append((deployment_id, replica_id))
    shares: dict[str, list[str]] = defaultdict(list)
    shared = select(ServiceShareRow.service_id, ServiceShareRow.tenant_id)
    for service_id, tenant_id in await session.execute(shared.order_by(ServiceShareRow.tenant_id)):
        shares[service_id].append(tenant_id)
    services = (
        select(
            ServiceRow.id,
            ServiceRow.version,
            TenantRow.name,
            func.coalesce(ServiceRow.gateway_id, ListenerRow.gateway_id),
        )
        .join(TenantRow, TenantRow.id == ServiceRow.tenant_id)
        .outerjoin(ListenerRow, ListenerRow.service_id == ServiceRow.id)
        .where(ServiceRow.desired != Desired.deleted)
    )
    return {
        service_id: _Facts(
            version,
            tenant_name,
            gateway_id,
            tuple(serving.get(service_id, ())),
            tuple(shares.get(service_id, ())),
            budgets.get(service_id, ()),
        )
        for service_id, version, tenant_name, gateway_id in await session.execute(services)
    }


async def _model_contexts(session: AsyncSession, deployments: Sequence[DeploymentRow]) -> Mapping[str, int | None]:
    """The longest context that each model version is made for, as far as its files tell."""
    ids = {deployment.model_version_id for deployment in deployments}
    query = select(ModelVersionRow.id, ModelVersionRow.details).where(ModelVersionRow.id.in_(ids))
    return {version_id: (details or {}).get("max_positions") for version_id, details in await session.execute(query)}


def _context_tokens(
    deployments: Sequence[tuple[DeploymentRow, RuntimeSpec]], contexts: Mapping[str, int | None]
) -> int | None:
    """What the least of the deployments takes; None where it is not known of all."""
    known = [
        number_in(deployment.args, runtime.context_argument) or contexts.get(deployment.model_version_id)
        for deployment, runtime in deployments
    ]
    return min((tokens for tokens in known if tokens), default=None) if all(known) else None


def _has_priorities(runtime: RuntimeSpec, args: Sequence[str]) -> bool:
    name, _, value = (runtime.priority_argument or "").partition("=")
    return bool(name) and text_in(with_defaults(runtime, args), name) == value


def _timeouts(stored: Mapping[str, float], queue: Mapping[str, Any]) -> wire.Timeouts:
    return wire.Timeouts(**stored, **({"queue_s": queue["queue_s"]} if "queue_s" in queue else {}))


def _defaults(stored: Mapping[str, Any]) -> wire.SamplingDefaults:
    penalty = stored.get("penalty_score")
    return wire.SamplingDefaults(
        temperature=stored.get("temperature"),
        top_p=stored.get("top_p"),
        repetition_penalty=None if penalty is None else round(1 + penalty, 6),
        system_prompt=stored.get("system_prompt"),
        max_tokens_ceiling=stored.get("max_tokens_ceiling"),
    )
