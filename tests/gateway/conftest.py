"""Databases with the tables of the gateway, and a tenant on them."""

from pathlib import Path

import pytest

import tenants.usage_tables  # noqa: F401 - the tables of both are created below
from appliance.gateway.plane.wire import SnapshotWriter
from appliance.gateway.ports import PortRules
from appliance.gateway.publisher import GatewayNode, SnapshotPublisher
from appliance.kernel import leases
from appliance.kernel.clock import ManualClock
from appliance.kernel.db import Database
from appliance.kernel.ids import TenantId, new_id
from appliance.kernel.leases import Guarded
from tenants.tables import TenantRow
from tests.gateway.published import Routes, salt

NODE = "node-1"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def rules() -> PortRules:
    return PortRules(NODE, lowest=1024, reserved={4430: "the administrators' port"})


@pytest.fixture
async def tenant_id(database: Database, clock: ManualClock) -> TenantId:
    tenant = TenantRow(
        id=new_id("ten"), name="acme", display_name="Acme", state="active", version=1, created_at=clock.now()
    )
    async with database.write() as session:
        session.add(tenant)
    return TenantId(tenant.id)


@pytest.fixture
async def guarded(database: Database, clock: ManualClock) -> Guarded:
    async with database.write() as session:
        lease = await leases.take(session, "control", "test", clock)
    return Guarded(database, lease)


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
