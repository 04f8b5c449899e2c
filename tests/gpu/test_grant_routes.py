"""Grants over HTTP: what an administrator does, and what a tenant sees."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import httpx
import pytest
from sqlalchemy import update

from appliance.api.context import Port
from appliance.gateway.states import GatewayState
from appliance.gateway.tables import GatewayRow
from appliance.kernel.clock import ManualClock
from appliance.kernel.db import Database
from appliance.kernel.ids import new_id
from gpu import queries
from gpu.discovery import record_devices, record_node
from gpu.tables import DeviceRow, PoolRow
from tests.gpu.serving import Stage, served
from tests.gpu.test_leasing import MACHINE, seen
from tests.gpu.test_routes import problem

# Litestar 3 wants dependencies and bodies marked; the other routes are to follow.
pytestmark = pytest.mark.filterwarnings("ignore::litestar.exceptions.LitestarDeprecationWarning")


@pytest.fixture(autouse=True)
async def _furnished(database: Database, clock: ManualClock) -> None:
    async with database.write() as session:
        row = await record_node(session, clock, None, MACHINE)
        await record_devices(session, clock, row, seen(2))
        gateway = GatewayRow(id=new_id("gwy"), name="vip", host="127.0.0.1", node="n1", first_port=9000, port_count=16)
        gateway.state, gateway.access, gateway.created_at = GatewayState.open.value, "dedicated", clock.now()
        session.add(gateway)


@pytest.fixture
async def admin(database: Database, clock: ManualClock) -> AsyncIterator[httpx.AsyncClient]:
    async with served(database, clock, Stage(), Port.admin) as client:
        await client.post("/api/v1/pools", json={"name": "night", "access": "dedicated"})
        yield client


@pytest.fixture
async def tenant(admin: httpx.AsyncClient, database: Database, clock: ManualClock) -> AsyncIterator[httpx.AsyncClient]:
    """A key of the tenant `acme`, on the tenants' port."""
    async with served(database, clock, Stage(), Port.tenant) as client:
        yield client


async def give(admin: httpx.AsyncClient, kind: str, target: str, **members: object) -> dict[str, object]:
    answer = await admin.post("/api/v1/grants", json={"tenant": "acme", "kind": kind, "target": target, **members})
    assert answer.is_success, answer.text
    made: dict[str, object] = answer.json()
    return made


async def pools(client: httpx.AsyncClient) -> set[str]:
    return {pool["name"] for pool in (await client.get("/api/v1/pools")).json()["items"]}


async def test_a_tenant_sees_the_pools_that_it_may_use(
    admin: httpx.AsyncClient, tenant: httpx.AsyncClient, clock: ManualClock
) -> None:
    assert (await pools(admin), await pools(tenant)) == ({"default", "night"}, {"default"})
    assert await problem(tenant, "GET", "/pools/night") == (404, "not-found")
    ends = clock.now() + timedelta(hours=1)
    made = await give(admin, "pool", "night", expires_at=ends.isoformat())
    assert await pools(tenant) == {"default", "night"}
    assert (await tenant.get("/api/v1/pools/night")).json()["access"] == "dedicated"
    clock.advance(3600)
    assert await pools(tenant) == {"default"}
    assert await problem(tenant, "GET", "/pools/night") == (404, "not-found")
    (own,) = (await tenant.get("/api/v1/grants")).json()["items"]
    assert (own["id"], own["target_name"], own["expired"]) == (made["id"], "night", True)


async def test_a_tenant_sees_the_gateways_that_it_may_use(admin: httpx.AsyncClient, tenant: httpx.AsyncClient) -> None:
    assert await problem(tenant, "GET", "/gateways/vip") == (404, "not-found")
    assert (await problem(tenant, "GET", "/grants/grt_none")) == (404, "not-found")
    await give(admin, "gateway", "vip")
    (grant,) = (await tenant.get("/api/v1/grants")).json()["items"]
    assert (grant["kind"], grant["tenant"], grant["expires_at"]) == ("gateway", "acme", None)
    assert (await tenant.get(f"/api/v1/grants/{grant['id']}")).json() == grant


async def test_an_administrator_keeps_grants(admin: httpx.AsyncClient, tenant: httpx.AsyncClient) -> None:
    assert (await tenant.get("/api/v1/grants")).json()["items"] == []
    headers = {"Idempotency-Key": "one"}
    body = {"tenant": "acme", "kind": "pool", "target": "night"}
    first, again = [await admin.post("/api/v1/grants", json=body, headers=headers) for _ in range(2)]
    assert first.json() == again.json()
    assert await problem(admin, "POST", "/grants", json=body) == (409, "grant-exists")
    of_class = await give(admin, "device_class", "nvidia/L4")
    path = f"/api/v1/grants/{of_class['id']}"
    etag = (await admin.get(path)).headers["ETag"]
    later = {"expires_at": "2999-01-01T00:00:00Z"}
    assert (await admin.patch(path, json=later, headers={"If-Match": etag})).headers["ETag"] == '"2"'
    stale = await problem(admin, "PATCH", f"/grants/{of_class['id']}", json=later, headers={"If-Match": etag})
    assert stale == (412, "stale-version")
    assert (await admin.get(f"{path}/preview?ending=expiry")).json()["replicas"] == []
    for query, found in (("kind=device_class", [of_class["id"]]), ("target=nvidia/L4", [of_class["id"]])):
        listed = (await admin.get(f"/api/v1/grants?tenant=acme&{query}")).json()["items"]
        assert [item["id"] for item in listed] == found
    assert (await admin.delete(path)).is_success
    assert await problem(admin, "GET", f"/grants/{of_class['id']}") == (404, "not-found")


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        ({"tenant": "nobody"}, (404, "not-found")),
        ({"target": "nowhere"}, (404, "not-found")),
        ({"kind": "device_class", "target": "nvidia/none"}, (404, "not-found")),
        ({"kind": "flavor"}, (400, "bad-input")),
        ({"expires_at": "2020-01-01T00:00:00Z"}, (400, "bad-input")),
        ({"expires_at": "2999-01-01T00:00:00"}, (400, "bad-input")),
    ],
)
async def test_a_grant_that_makes_no_sense_is_refused(
    admin: httpx.AsyncClient, tenant: httpx.AsyncClient, change: dict[str, str], answer: tuple[int, str]
) -> None:
    assert (await tenant.get("/api/v1/grants")).is_success
    body = {"tenant": "acme", "kind": "pool", "target": "night"} | change
    assert await problem(admin, "POST", "/grants", json=body) == answer


async def test_grants_go_with_what_they_are_of(admin: httpx.AsyncClient, tenant: httpx.AsyncClient) -> None:
    await give(admin, "pool", "night")
    assert (await admin.delete("/api/v1/pools/night")).is_success
    assert (await tenant.get("/api/v1/grants")).json()["items"] == []


async def test_previews_of_what_nobody_uses_are_empty(admin: httpx.AsyncClient) -> None:
    device = (await admin.get("/api/v1/devices")).json()["items"][0]["id"]
    for path in ("nodes/n1", f"devices/{device}"):
        found = (await admin.get(f"/api/v1/{path}/maintenance-preview")).json()
        assert (found["services"], found["replicas"], found["fitting"], found["memory_bytes"]) == ([], [], 0, 0)
    for path in ("/nodes/none", "/devices/none", "/grants/none"):
        end = "preview" if "grants" in path else "maintenance-preview"
        assert await problem(admin, "GET", f"{path}/{end}") == (404, "not-found")


async def test_what_devices_there_are_is_told_of_pools_that_may_be_used(database: Database, clock: ManualClock) -> None:
    async with database.write() as session:
        night = PoolRow(id=new_id("pol"), name="night", access="dedicated", created_at=clock.now())
        session.add(night)
        await session.flush()
        await session.execute(update(DeviceRow).where(DeviceRow.index == 1).values(pool_id=night.id, model="H200"))
    async with database.read() as session:
        everywhere = [kind.model for kind in await queries.device_kinds(session)]
        public = [kind.model for kind in await queries.device_kinds(session, PoolRow.access == "public")]
    assert (everywhere, public) == (["H200", "L4"], ["L4"])
