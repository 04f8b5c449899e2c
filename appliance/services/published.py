"""What the gateways must know of the services: the service shards of the snapshot."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.gateway.plane import wire
from appliance.kernel.crypto import hmac_hex
from appliance.runtimes.catalog import Catalog
from appliance.services.states import SERVING, Desired
from appliance.services.tables import DeploymentRow, ReplicaRow, ServiceRow
from tenants.tables import TenantRow


class Routes:
    """The snapshot publisher's source of service shards, by service id."""

    def __init__(self, catalog: Catalog, home: Path, *, salt_key: bytes, body_bytes: int, owner_uid: int) -> None:
        self._catalog, self._home = catalog, home
        self._salt_key, self._body_bytes, self._owner_uid = salt_key, body_bytes, owner_uid

    async def __call__(self, session: AsyncSession) -> Mapping[str, wire.ServiceShard]:
        services = (await session.scalars(select(ServiceRow).where(ServiceRow.desired != Desired.deleted))).all()
        tenants = dict((await session.execute(select(TenantRow.id, TenantRow.name))).all())
        deployments: dict[str, list[DeploymentRow]] = defaultdict(list)
        for deployment in (await session.scalars(select(DeploymentRow).order_by(DeploymentRow.id))).all():
            deployments[deployment.service_id].append(deployment)
        ready: dict[str, list[str]] = defaultdict(list)
        query = select(ReplicaRow.deployment_id, ReplicaRow.id).where(
            ReplicaRow.state.in_([state.value for state in SERVING])
        )
        for deployment_id, replica_id in await session.execute(query.order_by(ReplicaRow.id)):
            ready[deployment_id].append(replica_id)
        return {row.id: self._shard(row, tenants[row.tenant_id], deployments[row.id], ready) for row in services}

    def _shard(
        self, row: ServiceRow, tenant: str, deployments: list[DeploymentRow], ready: Mapping[str, list[str]]
    ) -> wire.ServiceShard:
        runtimes = [self._catalog.get(deployment.runtime) for deployment in deployments]
        return wire.ServiceShard(
            id=row.id,
            tenant_id=row.tenant_id,
            tenant_name=tenant,
            name=row.name,
            served_model=row.served_model,
            routes=sorted({route for runtime in runtimes for route in runtime.routes}),
            usage_in_every_chunk=all(runtime.usage_in_every_chunk for runtime in runtimes),
            defaults=_defaults(row.defaults),
            timeouts=wire.Timeouts(**row.timeouts),
            max_body_bytes=self._body_bytes,
            cache_salt=self._salt(row.tenant_id) if all(r.accepts_cache_salt for r in runtimes) else None,
            created_at=int(row.created_at.timestamp()),
            deployments=[
                wire.Deployment(
                    id=deployment.id,
                    name=deployment.name,
                    weight=deployment.weight,
                    replicas=[self._replica(replica_id) for replica_id in ready.get(deployment.id, ())],
                )
                for deployment in deployments
            ],
        )

    def _replica(self, replica_id: str) -> wire.Replica:
        socket = self._home / "run" / "e" / replica_id / "engine.sock"
        return wire.Replica(id=replica_id, socket=str(socket), owner_uid=self._owner_uid)

    def _salt(self, tenant_id: str) -> str:
        """Keeps one tenant's prefix cache apart from another's, so that timing tells nothing."""
        return hmac_hex(self._salt_key, f"cache-salt:{tenant_id}")[:32]


def _defaults(stored: Mapping[str, Any]) -> wire.SamplingDefaults:
    penalty = stored.get("penalty_score")
    return wire.SamplingDefaults(
        temperature=stored.get("temperature"),
        top_p=stored.get("top_p"),
        repetition_penalty=None if penalty is None else round(1 + penalty, 6),
        system_prompt=stored.get("system_prompt"),
        max_tokens_ceiling=stored.get("max_tokens_ceiling"),
    )
