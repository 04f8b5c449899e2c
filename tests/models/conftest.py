"""A repository on a database of its own, and people who use it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from appliance.kernel import leases
from appliance.kernel.clock import ManualClock
from appliance.kernel.db import Database
from appliance.kernel.ids import TenantId, new_id
from appliance.kernel.leases import Guarded
from appliance.models.maintenance import ModelStoreKeeper
from appliance.models.repository import ModelRepository
from tenants.permissions import Role
from tenants.quotas import Resource
from tenants.tables import QuotaRow, TenantRow
from tenants.work import Work
from tests.models.library import Library, actor_of


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def guarded(database: Database, clock: ManualClock) -> Guarded:
    async with database.write() as session:
        return Guarded(database, await leases.take(session, "control", "test", clock))


@pytest.fixture
def repository(tmp_path: Path) -> ModelRepository:
    (tmp_path / "shelf").mkdir()
    return ModelRepository(tmp_path / "models", upload_bytes=1 << 30, import_roots=[tmp_path / "shelf"])


@pytest.fixture
async def keeper(guarded: Guarded, repository: ModelRepository, clock: ManualClock) -> AsyncIterator[ModelStoreKeeper]:
    keeper = ModelStoreKeeper(guarded, repository, clock, report_s=0.02)
    yield keeper
    await keeper.close()


@pytest.fixture
async def tenant_ids(database: Database, clock: ManualClock) -> list[TenantId]:
    async with database.write() as session:
        rows = [
            TenantRow(id=new_id("ten"), name=name, display_name=name, state="active", created_at=clock.now())
            for name in ("acme", "bolt")
        ]
        session.add_all(rows)
        session.add_all(
            QuotaRow(scope=row.id, resource=Resource.storage_bytes.value, used=0, quota_limit=1 << 40) for row in rows
        )
    return [TenantId(row.id) for row in rows]


@pytest.fixture
def library(
    database: Database,
    repository: ModelRepository,
    keeper: ModelStoreKeeper,
    clock: ManualClock,
    tenant_ids: list[TenantId],
    tmp_path: Path,
) -> Library:
    """What a developer of the tenant acme sees and does."""

    @asynccontextmanager
    async def work(role: Role, tenant_id: TenantId | None) -> AsyncIterator[Work]:
        async with database.write() as session:
            yield Work(session, actor_of(role, tenant_id), clock)

    return Library(work, repository, keeper, tmp_path / "shelf", *tenant_ids)
