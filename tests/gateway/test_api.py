"""Gateways over HTTP: tenants look, administrators change, and nobody learns of another tenant's listeners."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

import httpx
import msgspec
import pytest
from litestar import Litestar

from appliance.api.context import Context, Port
from appliance.api.parts import Parts
from appliance.gateway import operations
from appliance.gateway.ports import PortRules, PortUse
from appliance.kernel.clock import ManualClock
from appliance.kernel.crypto import Passwords, sha256_hex
from appliance.kernel.db import Database
from appliance.kernel.ids import TenantId, new_id
from appliance.kernel.settings import load
from tenants import actors
from tenants.activity import Sightings
from tenants.permissions import Permission
from tenants.tables import ApiKeyRow, TenantRow
from tenants.work import Work
from tests.support.apps import application

# Of other routes in the same applications, which do not mark their parameters as Litestar 3 wants it.
pytestmark = pytest.mark.filterwarnings("ignore::litestar.exceptions.LitestarDeprecationWarning")
GATEWAYS = "/api/v1/gateways"


class Tenancy:
    def __init__(self) -> None:
        self.sightings = Sightings()


class FewParts:
    """What authentication and the routes of gateways use."""

    def __init__(self, rules: PortRules) -> None:
        self.port_rules = rules
        self.tenancy = Tenancy()


class Caller:
    def __init__(self, client: httpx.AsyncClient, secret: str) -> None:
        self._client, self._headers = client, {"Authorization": f"Bearer {secret}"}

    async def ask(
        self, method: str, path: str = "", body: dict[str, Any] | None = None, status: int = 200, **headers: str
    ) -> Any:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = await self._client.request(method, GATEWAYS + path, json=body, headers={**self._headers, **named})
        assert answer.status_code == status, answer.text
        return answer.json() if answer.content else None


async def add_key(database: Database, clock: ManualClock, tenant_id: str | None, *scopes: Permission) -> str:
    secret = new_id("key")
    row = ApiKeyRow(
        id=new_id("key"),
        tenant_id=tenant_id,
        name=secret,
        prefix="ak_test",
        secret_sha256=sha256_hex(secret),
        scopes=[scope.value for scope in scopes],
        services=[],
        created_by="test",
        created_at=clock.now(),
    )
    async with database.write() as session:
        session.add(row)
    return secret


def _client(app: Litestar) -> httpx.AsyncClient:
    """Within the test's own event loop, as the database's connections belong to it."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="https://appliance")  # type: ignore[arg-type]


@pytest.fixture
async def clients(
    database: Database, clock: ManualClock, rules: PortRules, tmp_path: Path
) -> AsyncIterator[dict[Port, httpx.AsyncClient]]:
    settings = msgspec.structs.replace(load({}), home=str(tmp_path))
    passwords, parts = Passwords(), cast("Parts", FewParts(rules))
    async with AsyncExitStack() as stack:
        yield {
            port: await stack.enter_async_context(
                _client(application(Context(port, settings, database, clock, passwords, parts)))
            )
            for port in Port
        }
    passwords.close()


@pytest.fixture
async def administrator(clients: dict[Port, httpx.AsyncClient], database: Database, clock: ManualClock) -> Caller:
    return Caller(clients[Port.admin], await add_key(database, clock, None, *Permission))


@pytest.fixture
async def tenant(
    clients: dict[Port, httpx.AsyncClient], database: Database, clock: ManualClock, tenant_id: TenantId
) -> Caller:
    return Caller(clients[Port.tenant], await add_key(database, clock, tenant_id, Permission.compute_read))


async def listen(database: Database, clock: ManualClock, tenant_id: str) -> str:
    service_id = new_id("svc")
    async with database.write() as session:
        work = Work(session, actors.system("test", TenantId(tenant_id)), clock)
        await operations.allocate_listener(work, "default", service_id, probe=lambda *_: PortUse.free)
    return service_id


async def test_life_of_a_gateway(administrator: Caller) -> None:
    body = {"name": "default", "first_port": 9000, "port_count": 4}
    made = await administrator.ask("POST", "", body, 201, Idempotency_Key="one")
    assert made == await administrator.ask("POST", "", body, 201, Idempotency_Key="one")
    assert (made["free_ports"], made["listeners"], made["state"]) == ([9000, 9001, 9002, 9003], [], "open")
    assert await administrator.ask("GET", "/default") == made
    assert (await administrator.ask("GET", f"/{made['id']}"))["name"] == "default"
    changed = await administrator.ask("PATCH", "/default", {"state": "closed"}, If_Match='"1"')
    assert (changed["state"], changed["version"]) == ("closed", 2)
    stale = await administrator.ask("PATCH", "/default", {"state": "open"}, 412, If_Match='"1"')
    assert stale["code"] == "stale-version"
    await administrator.ask("DELETE", "/default", status=204)
    assert (await administrator.ask("GET"))["items"] == []


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"name": "second", "first_port": 9010}, 409, "ports-taken"),
        ({"name": "default", "first_port": 9100}, 409, "name-taken"),
        ({"name": "second", "first_port": 33000}, 400, "port-range-refused"),
        ({"name": "second", "first_port": 9100, "port_count": 17}, 400, "bad-input"),
        ({"name": "second", "first_port": 9100, "host": "nowhere"}, 400, "bad-input"),
        ({"name": "Second!", "first_port": 9100}, 400, "bad-input"),
        ({"name": "second", "first_port": 9100, "node": "elsewhere"}, 400, "bad-input"),
    ],
)
async def test_refusals_have_their_codes(administrator: Caller, body: dict[str, Any], status: int, code: str) -> None:
    await administrator.ask("POST", "", {"name": "default", "first_port": 9000}, 201)
    assert (await administrator.ask("POST", "", body, status))["code"] == code


async def test_tenant_sees_its_own_listeners_alone(
    administrator: Caller, tenant: Caller, database: Database, clock: ManualClock, tenant_id: TenantId
) -> None:
    await administrator.ask("POST", "", {"name": "default", "first_port": 9000, "port_count": 4}, 201)
    other = TenantRow(id=new_id("ten"), name="b", display_name="B", state="active", version=1, created_at=clock.now())
    async with database.write() as session:
        session.add(other)
    own, foreign = await listen(database, clock, tenant_id), await listen(database, clock, other.id)
    for seen in ((await tenant.ask("GET"))["items"][0], await tenant.ask("GET", "/default")):
        assert [listener["service_id"] for listener in seen["listeners"]] == [own]
        assert seen["free_ports"] == [9002, 9003], "another tenant's port is not free, and that is all it learns"
        assert foreign not in str(seen)
        assert other.id not in str(seen)
    everything = await administrator.ask("GET", "/default")
    assert [listener["service_id"] for listener in everything["listeners"]] == [own, foreign]
    assert everything["listeners"][0]["state"] == "unknown"
    assert "supervisor does not run" in everything["listeners"][0]["reason"]


async def test_gateway_in_use_is_not_deleted(
    administrator: Caller, database: Database, clock: ManualClock, tenant_id: TenantId
) -> None:
    await administrator.ask("POST", "", {"name": "default", "first_port": 9000}, 201)
    service_id = await listen(database, clock, tenant_id)
    refusal = await administrator.ask("DELETE", "/default", status=409)
    assert refusal["code"] == "in-use"
    assert service_id in refusal["detail"], "by its id, since no such service is known"


@pytest.mark.parametrize(("method", "path"), [("POST", ""), ("PATCH", "/default"), ("DELETE", "/default")])
async def test_changes_do_not_exist_on_the_tenant_port(tenant: Caller, method: str, path: str) -> None:
    assert (await tenant.ask(method, path, {"name": "x", "first_port": 9000}, 405))["status"] == 405


async def test_list_goes_page_by_page(administrator: Caller) -> None:
    for number in range(3):
        body = {"name": f"gateway-{number}", "first_port": 9000 + 16 * number}
        await administrator.ask("POST", "", body, 201)
    first = await administrator.ask("GET", "?limit=2")
    rest = await administrator.ask("GET", f"?limit=2&cursor={first['next_cursor']}")
    assert [item["name"] for item in first["items"] + rest["items"]] == ["gateway-2", "gateway-1", "gateway-0"]
    assert rest["next_cursor"] is None
