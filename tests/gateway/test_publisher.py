"""The manifest equals the database, and a caller's commit is in the version it is told."""

import asyncio
import shutil
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import delete, update
from sqlalchemy.ext.asyncio import AsyncSession

from appliance.gateway import operations
from appliance.gateway.budgets import BudgetsBySubject
from appliance.gateway.plane.wire import (
    ServiceShard,
    SnapshotWriter,
    key_shard,
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
from tenants.tables import ApiKeyRow, TenantRow
from tenants.work import Work
from tests.gateway.conftest import NODE
from tests.gateway.published import Published, Routes, add_key, salt


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
