"""The manifest equals the database, and a caller's commit is in the version it is told."""

import asyncio
import shutil
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import delete, update
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.gateway import operations
from appliance.gateway.budgets import BudgetsBySubject
from appliance.gateway.plane.wire import (
    LISTENERS_SHARD,
    TENANTS_SHARD,
    KeysShard,
    Limits,
    ListenersShard,
    ServiceShard,
    SnapshotWriter,
    TenantEntry,
    TenantsShard,
    key_shard,
    service_shard,
)
from appliance.gateway.ports import PortRules, PortUse
from appliance.gateway.publisher import GatewayNode, SnapshotPublisher
from appliance.gateway.schemas import NewGateway
from appliance.kernel import leases
from appliance.kernel.clock import ManualClock
from appliance.kernel.crypto import sha256_hex
from appliance.kernel.db import Database
from appliance.kernel.errors import LeaseLost
from appliance.kernel.ids import TenantId, new_id
from appliance.kernel.leases import Guarded
from tenants import actors
from tenants.budget_tables import BudgetRow
from tenants.tables import ApiKeyRow, TenantRow
from tenants.work import Work
from tests.gateway.conftest import NODE


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


@pytest.fixture
def routes() -> Routes:
    return Routes()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "snapshot"


@pytest.fixture
def publisher(guarded: Guarded, directory: Path, routes: Routes, clock: ManualClock) -> SnapshotPublisher:
    return SnapshotPublisher(
        guarded, SnapshotWriter(directory), routes, clock, node=GatewayNode(name=NODE, workers=3), salt=salt
    )


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


async def test_snapshot_holds_listeners_keys_and_services(
    database: Database,
    clock: ManualClock,
    rules: PortRules,
    tenant_id: TenantId,
    routes: Routes,
    publisher: SnapshotPublisher,
    directory: Path,
) -> None:
    service_id = routes.add("chat", tenant_id)
    key_id = await add_key(database, clock, tenant_id, "ak_one", services=[service_id])
    async with database.write() as session:
        work = Work(session, actors.system("test", tenant_id), clock)
        await operations.create_gateway(work, NewGateway(name="default", first_port=9000, host="127.0.0.1"), rules)
        await operations.allocate_listener(work, "default", service_id, probe=lambda *_: PortUse.free)
    assert await publisher.publish() == 1

    published = Published(directory)
    assert published.manifest.version == publisher.version == 1
    (listener,) = published.listeners().listeners
    assert (listener.host, listener.port, listener.service_id) == ("127.0.0.1", 9000, service_id)
    assert published.listeners().workers == 3
    service = published.service(service_id)
    assert service is not None
    assert service.name == "chat"
    entry = published.keys().keys[sha256_hex("ak_one")]
    assert (entry.key_id, entry.tenant_id, entry.services) == (key_id, tenant_id, [service_id])
    assert key_shard(sha256_hex("ak_one")) in published.manifest.shards


async def test_version_grows_only_when_something_changed(
    routes: Routes, publisher: SnapshotPublisher, tenant_id: TenantId
) -> None:
    assert await publisher.publish() == 1
    assert await publisher.publish() == 1
    routes.add("chat", tenant_id)
    assert await publisher.publish() == 2
    assert await publisher.publish() == 2


async def test_restart_keeps_the_version(
    guarded: Guarded, directory: Path, routes: Routes, clock: ManualClock, publisher: SnapshotPublisher
) -> None:
    await publisher.publish()
    again = SnapshotPublisher(
        guarded, SnapshotWriter(directory), routes, clock, node=GatewayNode(name=NODE, workers=3), salt=salt
    )
    assert await again.publish() == 1


async def test_only_keys_that_open_the_gateway_are_published(
    database: Database, clock: ManualClock, tenant_id: TenantId, publisher: SnapshotPublisher, directory: Path
) -> None:
    soon = clock.now() + timedelta(seconds=60)
    await add_key(database, clock, tenant_id, "good")
    await add_key(database, clock, tenant_id, "expiring", expires_at=soon)
    await add_key(database, clock, tenant_id, "expired", expires_at=clock.now())
    await add_key(database, clock, tenant_id, "revoked", revoked_at=clock.now())
    await add_key(database, clock, tenant_id, "reader", scopes=["service:read"])
    await add_key(database, clock, None, "platform")
    await publisher.publish()
    keys = Published(directory).keys().keys
    assert set(keys) == {sha256_hex("good"), sha256_hex("expiring")}
    assert keys[sha256_hex("good")].services is None
    assert keys[sha256_hex("expiring")].expires_at == soon.timestamp()


async def test_each_change_of_keys_is_seen_at_once(
    database: Database, clock: ManualClock, tenant_id: TenantId, publisher: SnapshotPublisher, directory: Path
) -> None:
    """Although keys are read again only when their fingerprint changed."""

    async def published() -> set[str]:
        await publisher.publish()
        return {entry.name for entry in Published(directory).keys().keys.values()}

    first = await add_key(database, clock, tenant_id, "first")
    await add_key(database, clock, tenant_id, "brief", expires_at=clock.now() + timedelta(seconds=5))
    assert await published() == {"first", "brief"}
    await add_key(database, clock, tenant_id, "second")
    assert await published() == {"first", "brief", "second"}
    clock.advance(5)
    assert await published() == {"first", "second"}
    async with database.write() as session:
        await session.execute(update(ApiKeyRow).where(ApiKeyRow.id == first).values(revoked_at=clock.now()))
    assert await published() == {"second"}
    async with database.write() as session:
        await session.execute(update(TenantRow).values(state="suspended", version=TenantRow.version + 1))
    assert await published() == set()
    async with database.write() as session:
        await session.execute(update(TenantRow).values(state="active", version=TenantRow.version + 1))
        await session.execute(delete(ApiKeyRow).where(ApiKeyRow.id == first))
    assert await published() == {"second"}


async def test_caller_during_a_build_gets_the_next_one(
    routes: Routes, publisher: SnapshotPublisher, tenant_id: TenantId, directory: Path
) -> None:
    routes.gate.clear()
    first = asyncio.create_task(publisher.publish())
    await routes.reading.wait()  # it has read; what is added now is not in it
    service_id = routes.add("late", tenant_id)
    late = [asyncio.create_task(publisher.publish()) for _ in range(20)]
    await asyncio.sleep(0)
    routes.gate.set()
    assert await first == 1
    assert await asyncio.gather(*late) == [2] * 20
    assert Published(directory).service(service_id) is not None
    assert routes.calls == 2, "the twenty shared one build"


async def test_cancelled_caller_does_not_cancel_the_others(
    routes: Routes, publisher: SnapshotPublisher, tenant_id: TenantId
) -> None:
    routes.gate.clear()
    impatient = asyncio.create_task(publisher.publish())
    patient = asyncio.create_task(publisher.publish())
    await routes.reading.wait()
    impatient.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    routes.gate.set()
    assert await patient == 1


async def test_failed_build_fails_its_callers_and_not_the_next(
    guarded: Guarded, directory: Path, routes: Routes, clock: ManualClock
) -> None:
    failures = [RuntimeError("the catalog is gone")]

    async def failing_once(session: AsyncSession, budgets: BudgetsBySubject) -> Mapping[str, ServiceShard]:
        if failures:
            raise failures.pop()
        return await routes(session, budgets)

    publisher = SnapshotPublisher(
        guarded, SnapshotWriter(directory), failing_once, clock, node=GatewayNode(name=NODE, workers=1), salt=salt
    )
    answers = await asyncio.gather(publisher.publish(), publisher.publish(), return_exceptions=True)
    assert {str(answer) for answer in answers} == {"the catalog is gone"}
    assert await publisher.publish() == 1


async def test_removed_files_come_back(publisher: SnapshotPublisher, directory: Path, clock: ManualClock) -> None:
    await publisher.publish()
    shutil.rmtree(directory)
    clock.advance(61)
    await publisher.publish()
    Published(directory).listeners()


async def test_stale_holder_publishes_nothing(
    database: Database, clock: ManualClock, publisher: SnapshotPublisher, directory: Path
) -> None:
    """Invariant I8."""
    async with database.write() as session:
        await leases.take(session, "control", "another", clock)
    with pytest.raises(LeaseLost):
        await publisher.publish()
    assert SnapshotWriter(directory).current() is None


async def test_other_nodes_listeners_are_left_out(
    database: Database, clock: ManualClock, tenant_id: TenantId, publisher: SnapshotPublisher, directory: Path
) -> None:
    elsewhere = PortRules("node-2", 1024, {})
    async with database.write() as session:
        work = Work(session, actors.system("test", tenant_id), clock)
        await operations.create_gateway(work, NewGateway(name="far", first_port=9000), elsewhere)
        await operations.allocate_listener(work, "far", new_id("svc"), probe=lambda *_: PortUse.free)
    await publisher.publish()
    assert Published(directory).listeners().listeners == []


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
