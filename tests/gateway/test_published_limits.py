"""Limits, restrictions and budgets in the snapshot, each change at once and no more often than it matters."""

from datetime import timedelta
from pathlib import Path

from sqlalchemy import delete, update

from appliance.gateway.plane.wire import (
    Limits,
    TenantEntry,
    key_shard,
)
from appliance.gateway.publisher import SnapshotPublisher
from appliance.kernel.clock import ManualClock
from appliance.kernel.crypto import sha256_hex
from appliance.kernel.db import Database
from appliance.kernel.ids import TenantId
from tenants.budget_tables import BudgetRow
from tenants.tables import ApiKeyRow, TenantRow
from tests.gateway.published import Published, Routes, add_budget, add_key


async def test_tenants_have_limits_priority_and_salt(
    database: Database, clock: ManualClock, tenant_id: TenantId, publisher: SnapshotPublisher, directory: Path
) -> None:
    await publisher.publish()
    assert Published(directory).tenants() == {tenant_id: TenantEntry("acme", cache_salt=f"salt of {tenant_id}")}
    async with database.write() as session:
        changed = update(TenantRow).values(limits={"tokens_per_minute": 7}, priority="high", version=2)
        await session.execute(changed)
    assert await publisher.publish() == 2
    entry = Published(directory).tenants()[tenant_id]
    assert (entry.limits, entry.priority) == (Limits(tokens_per_minute=7), "high")
    async with database.write() as session:
        await session.execute(update(TenantRow).values(state="suspended", version=3))
    await publisher.publish()
    assert Published(directory).tenants() == {}


async def test_a_changed_key_is_seen_at_once_and_alone(
    database: Database, clock: ManualClock, tenant_id: TenantId, publisher: SnapshotPublisher, directory: Path
) -> None:
    keys = [await add_key(database, clock, tenant_id, f"key-{number}") for number in range(40)]
    await publisher.publish()
    before = Published(directory).manifest.shards
    async with database.write() as session:
        restricted = {"routes": ["GET /v1/models"], "networks": ["10.0.0.0/8"], "limits": {"concurrent_requests": 3}}
        await session.execute(update(ApiKeyRow).where(ApiKeyRow.id == keys[7]).values(**restricted, version=2))
    await publisher.publish()
    published = Published(directory)
    entry = published.keys().keys[sha256_hex("key-7")]
    assert (entry.routes, entry.networks, entry.limits) == (
        ["GET /v1/models"],
        ["10.0.0.0/8"],
        Limits(concurrent_requests=3),
    )
    changed = {shard_id for shard_id, name in published.manifest.shards.items() if before[shard_id] != name}
    assert changed == {key_shard(sha256_hex("key-7"))}
    assert len(published.keys().keys) == 40


async def test_budgets_stand_with_what_they_bound(
    database: Database,
    clock: ManualClock,
    tenant_id: TenantId,
    routes: Routes,
    publisher: SnapshotPublisher,
    directory: Path,
) -> None:
    service_id = routes.add("chat", tenant_id)
    key_id = await add_key(database, clock, tenant_id, "ak_one")
    subjects = {"key": key_id, "service": service_id, "tenant": tenant_id}
    made = {kind: await add_budget(database, clock, tenant_id, kind, subject) for kind, subject in subjects.items()}
    await publisher.publish()
    published = Published(directory)
    service = published.service(service_id)
    assert service is not None
    found = {
        "key": published.keys().keys[sha256_hex("ak_one")].budgets,
        "service": service.budgets,
        "tenant": published.tenants()[tenant_id].budgets,
    }
    assert {kind: [budget.id for budget in budgets] for kind, budgets in found.items()} == {
        kind: [budget_id] for kind, budget_id in made.items()
    }
    async with database.write() as session:
        await session.execute(delete(BudgetRow))
    await publisher.publish()
    assert Published(directory).keys().keys[sha256_hex("ak_one")].budgets == []


async def test_what_was_spent_is_told_when_it_matters(
    database: Database, clock: ManualClock, tenant_id: TenantId, publisher: SnapshotPublisher, directory: Path
) -> None:
    await add_budget(database, clock, tenant_id, "tenant", tenant_id)

    async def told(after_s: float, **columns: object) -> int:
        async with database.write() as session:
            await session.execute(update(BudgetRow).values(**columns))
        clock.advance(after_s)
        await publisher.publish()
        (budget,) = Published(directory).tenants()[tenant_id].budgets
        return budget.spent

    assert await told(0, spent=0) == 0
    assert await told(5, spent=500) == 0, "half a minute has not passed"
    assert await told(26, spent=510) == 510
    assert await told(31, spent=519) == 510, "less than a hundredth"
    assert await told(31, spent=521) == 521
    assert await told(31, spent=998) == 998
    assert await told(31, spent=1000) == 1000, "used up"
    assert await told(0, tokens=2000, spent=1001, version=2) == 1001, "a change of the rules is told at once"
    assert await told(31, spent=1, period_start=clock.now() + timedelta(days=1)) == 1, "a new period"
