"""Compute over HTTP: who sees what, and what a change answers."""

import httpx
import pytest
from litestar.status_codes import HTTP_200_OK, HTTP_201_CREATED, HTTP_204_NO_CONTENT

from appliance.api.context import Port
from appliance.kernel.clock import ManualClock
from appliance.kernel.db import Database
from gpu.discovery import record_devices, record_node
from tests.gpu.serving import Stage, served
from tests.gpu.test_leasing import MACHINE, seen

# Litestar 3 wants dependencies and bodies marked; the other routes are to follow.
pytestmark = pytest.mark.filterwarnings("ignore::litestar.exceptions.LitestarDeprecationWarning")
FLAVOR = {"name": "tiny", "cpus": 0.5, "memory_bytes": 1024**3}


@pytest.fixture(autouse=True)
async def _furnished(database: Database, clock: ManualClock) -> None:
    async with database.write() as session:
        row = await record_node(session, clock, None, MACHINE)
        await record_devices(session, clock, row, seen(2))


async def problem(client: httpx.AsyncClient, method: str, path: str, **request: object) -> tuple[int, str]:
    response = await client.request(method, f"/api/v1{path}", **request)  # type: ignore[arg-type]
    body = response.json()
    return response.status_code, body["code"]


async def test_a_tenant_sees_pools_and_flavors_and_nothing_else(database: Database, clock: ManualClock) -> None:
    async with served(database, clock, Stage(), Port.tenant) as client:
        pools = (await client.get("/api/v1/pools")).json()["items"]
        assert [(pool["name"], pool["devices"][0]["free"]) for pool in pools] == [("default", 2)]
        flavors = (await client.get("/api/v1/flavors?limit=2")).json()
        assert len(flavors["items"]) == 2
        assert (await client.get("/api/v1/flavors/gpu-2")).json()["devices"] == 2
        for path in ("/nodes", "/devices"):
            assert await problem(client, "GET", path) == (404, "not-found")
        assert await problem(client, "POST", "/pools", json={"name": "mine"}) == (405, "http-405")


async def test_an_administrator_forms_pools(database: Database, clock: ManualClock) -> None:
    async with served(database, clock, Stage(), Port.admin) as client:
        created = await client.post("/api/v1/pools", json={"name": "night"}, headers={"Idempotency-Key": "1"})
        assert created.status_code == HTTP_201_CREATED
        again = await client.post("/api/v1/pools", json={"name": "night"}, headers={"Idempotency-Key": "1"})
        assert again.json() == created.json()
        assert await problem(client, "POST", "/pools", json={"name": "night"}) == (409, "name-taken")
        assert await problem(client, "POST", "/pools", json={"name": "No!"}) == (400, "bad-input")
        moved = await client.patch("/api/v1/nodes/n1", json={"pool": "night"})
        assert moved.json()["pool_id"] == created.json()["id"]
        assert await problem(client, "DELETE", "/pools/night") == (409, "in-use")
        assert (await client.delete("/api/v1/pools/default")).status_code == HTTP_204_NO_CONTENT


async def test_an_update_may_name_the_version_it_is_based_on(database: Database, clock: ManualClock) -> None:
    async with served(database, clock, Stage(), Port.admin) as client:
        etag = (await client.get("/api/v1/pools/default")).headers["ETag"]
        changed = await client.patch("/api/v1/pools/default", json={"description": "x"}, headers={"If-Match": etag})
        assert changed.status_code == HTTP_200_OK
        assert changed.headers["ETag"] == '"2"'
        stale = await problem(client, "PATCH", "/pools/default", json={"name": "y"}, headers={"If-Match": etag})
        assert stale == (412, "stale-version")


async def test_an_administrator_sees_and_fences_devices(database: Database, clock: ManualClock) -> None:
    async with served(database, clock, Stage(), Port.admin) as client:
        nodes = (await client.get("/api/v1/nodes?pool=default")).json()["items"]
        assert [(node["name"], node["devices"], node["memory_claimed"]) for node in nodes] == [("n1", 2, 0)]
        devices = (await client.get("/api/v1/devices?node=n1")).json()["items"]
        path = f"/api/v1/devices/{devices[0]['id']}"
        fenced = await client.post(f"{path}/fence", json={"reason": "too hot"})
        assert (fenced.status_code, fenced.json()["state"], fenced.json()["reason"]) == (200, "fenced", "too hot")
        pool = (await client.get("/api/v1/pools/default")).json()
        assert (pool["devices"][0]["total"], pool["devices"][0]["free"]) == (2, 1)
        assert (await client.post(f"{path}/clear")).json()["state"] == "stale"
        assert (await client.get(path)).json()["state"] == "stale"


async def test_an_administrator_keeps_flavors(database: Database, clock: ManualClock) -> None:
    stage = Stage(users=["service 'chat'"])
    async with served(database, clock, stage, Port.admin) as client:
        assert (await client.post("/api/v1/flavors", json=FLAVOR)).status_code == HTTP_201_CREATED
        assert await problem(client, "POST", "/flavors", json=FLAVOR | {"devices": -1}) == (400, "bad-input")
        devices = {"devices": 1, "device_vendor": "nvidia"}
        assert await problem(client, "PATCH", "/flavors/tiny", json=devices) == (409, "in-use")
        assert (await client.patch("/api/v1/flavors/tiny", json={"cpus": 2})).json()["cpus"] == 2
        assert await problem(client, "DELETE", "/flavors/tiny") == (409, "in-use")
        stage.users.clear()
        changed = await client.patch("/api/v1/flavors/tiny", json=devices)
        assert (changed.json()["devices"], changed.json()["device_vendor"]) == (1, "nvidia")
        assert (await client.delete("/api/v1/flavors/tiny")).status_code == HTTP_204_NO_CONTENT
        assert await problem(client, "GET", "/flavors/tiny") == (404, "not-found")
