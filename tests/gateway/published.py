"""A publisher's sources, and what it has published."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.gateway.budgets import BudgetsBySubject
from appliance.gateway.plane.wire import (
    LISTENERS_SHARD,
    TENANTS_SHARD,
    KeysShard,
    ListenersShard,
    ServiceShard,
    SnapshotWriter,
    TenantEntry,
    TenantsShard,
    service_shard,
)
from appliance.kernel.clock import ManualClock
from appliance.kernel.crypto import sha256_hex
from appliance.kernel.db import Database
from appliance.kernel.ids import new_id
from tenants.budget_tables import BudgetRow
from tenants.tables import ApiKeyRow


def salt(tenant_id: str) -> str:
    return f"salt of {tenant_id}"


class Routes:
    """A source of routes whose answers the test sets; `gate` makes it wait, after it has read."""

    def __init__(self) -> None:
        self.services: dict[str, ServiceShard] = {}
        self.calls = 0
        self.reading = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    def add(self, name: str, tenant_id: str) -> str:
        service_id = new_id("svc")
        self.services[service_id] = ServiceShard(service_id, tenant_id, "acme", name, name, [], ["POST /v1/x"])
        return service_id

    async def __call__(self, _: AsyncSession, budgets: BudgetsBySubject) -> Mapping[str, ServiceShard]:
        self.calls += 1
        seen = {
            service_id: msgspec.structs.replace(shard, budgets=budgets.get(service_id, []))
            for service_id, shard in self.services.items()
        }
        self.reading.set()
        await self.gate.wait()
        return seen


class Published:
    """What lies in the directory."""

    def __init__(self, directory: Path) -> None:
        manifest = SnapshotWriter(directory).current()
        assert manifest is not None
        self._directory, self.manifest = directory, manifest

    def listeners(self) -> ListenersShard:
        return msgspec.json.decode(self._read(LISTENERS_SHARD), type=ListenersShard)

    def service(self, service_id: str) -> ServiceShard | None:
        shard_id = service_shard(service_id)
        return (
            msgspec.json.decode(self._read(shard_id), type=ServiceShard) if shard_id in self.manifest.shards else None
        )

    def keys(self) -> KeysShard:
        shards = [
            msgspec.json.decode(self._read(shard_id), type=KeysShard)
            for shard_id in self.manifest.shards
            if shard_id.startswith("keys-")
        ]
        return KeysShard({digest: entry for shard in shards for digest, entry in shard.keys.items()})

    def tenants(self) -> dict[str, TenantEntry]:
        return msgspec.json.decode(self._read(TENANTS_SHARD), type=TenantsShard).tenants

    def _read(self, shard_id: str) -> bytes:
        return (self._directory / self.manifest.shards[shard_id]).read_bytes()


async def add_key(database: Database, clock: ManualClock, tenant_id: str | None, secret: str, **columns: object) -> str:
    row = ApiKeyRow(
        id=new_id("key"),
        tenant_id=tenant_id,
        name=secret,
        prefix=secret,
        secret_sha256=sha256_hex(secret),
        created_by="test",
        created_at=clock.now(),
        **{"scopes": ["inference"], "services": [], **columns},
    )
    async with database.write() as session:
        session.add(row)
    return row.id


async def add_budget(
    database: Database, clock: ManualClock, tenant_id: str, kind: str, subject: str, **columns: object
) -> str:
    row = BudgetRow(
        id=new_id("bdg"),
        tenant_id=tenant_id,
        kind=kind,
        subject_id=subject,
        subject_name="test",
        created_by="test",
        created_at=clock.now(),
        **{"period": "total", "tokens": 1000, "spent": 0, "version": 1, "period_start": clock.now(), **columns},
    )
    async with database.write() as session:
        session.add(row)
    return row.id
