"""The routes of this domain over HTTP, on both ports."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
from litestar.handlers import HTTPRouteHandler

from appliance.api import audit, keys, limits, logins, members, quotas, usage
from appliance.api.context import Port
from appliance.kernel.crypto import Passwords
from appliance.kernel.db import Database
from appliance.kernel.ids import TenantId
from appliance.kernel.tables import IdempotencyRow
from tenants import members as member_operations
from tenants.bootstrap import Bootstrapped
from tenants.logins import LoginDesk
from tenants.permissions import PERMISSIONS, MemberRole, Role
from tenants.schemas import NewMember
from tests.tenants.conftest import NewTenantOf, WorkAs, acting
from tests.tenants.ports import ORIGIN, client

pytestmark = pytest.mark.filterwarnings("ignore::litestar.exceptions.LitestarDeprecationWarning")
GOOD = "correct horse battery"
SignIn = Callable[[Role], Awaitable[None]]


@pytest.fixture
async def admin(desk: LoginDesk, platform: Bootstrapped) -> AsyncIterator[httpx.AsyncClient]:
    """The operator on the admin port."""
    async with client(Port.admin, desk, Authorization=f"Bearer {platform.operator_key}") as admin:
        yield admin


@pytest.fixture
async def tenant(desk: LoginDesk) -> AsyncIterator[httpx.AsyncClient]:
    """Somebody on the tenant port."""
    async with client(Port.tenant, desk) as tenant:
        yield tenant


async def sign_in(browser: httpx.AsyncClient, name: str, password: str) -> None:
    """Log in, change the one-time password, and send the CSRF token from then on."""
    answer = await browser.post("/api/v1/logins", json={"name": name, "password": password})
    assert answer.status_code == 201, answer.text
    browser.headers["X-CSRF-Token"] = answer.json()["csrf_token"]
    changed = await browser.put("/api/v1/me/password", json={"current": password, "new": GOOD})
    assert changed.status_code == 204, changed.text


@pytest.fixture
def join(work_as: WorkAs, passwords: Passwords, acme: TenantId) -> Callable[[str, Role], Awaitable[str]]:
    async def add(name: str, role: Role) -> str:
        async with work_as(acting(Role.platform_admin, acme)) as work:
            added = await member_operations.add_member(work, NewMember(name=name, role=MemberRole(role)), passwords)
        return added.one_time_password or ""

    return add


def _code(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    return answer.status_code, answer.json()["code"]


async def test_a_tenants_life(admin: httpx.AsyncClient):
    created = await admin.post("/api/v1/tenants", json={"name": "acme", "display_name": "Acme"})
    assert (created.status_code, created.json()["state"]) == (201, "active")
    assert _code(await admin.post("/api/v1/tenants", json={"name": "acme"})) == (409, "name-taken")
    wrong = await admin.post("/api/v1/tenants", json={"name": "Not a name"})
    assert _code(wrong) == (400, "bad-input")
    assert _code(await admin.post("/api/v1/tenants", json={"name": "x", "state": "active"})) == (400, "bad-input")
    shown = await admin.get("/api/v1/tenants/acme")
    assert shown.headers["ETag"] == '"1"'
    change = {"state": "suspended"}
    changed = await admin.patch("/api/v1/tenants/acme", json=change, headers={"If-Match": '"1"'})
    assert (changed.json()["state"], changed.headers["ETag"]) == ("suspended", '"2"')
    stale = await admin.patch("/api/v1/tenants/acme", json=change, headers={"If-Match": '"1"'})
    assert _code(stale) == (412, "stale-version")
    assert [item["name"] for item in (await admin.get("/api/v1/tenants")).json()["items"]] == ["acme"]
    assert (await admin.delete("/api/v1/tenants/acme")).status_code == 204
    assert _code(await admin.get("/api/v1/tenants/acme")) == (404, "not-found")


async def test_keys_and_quotas(admin: httpx.AsyncClient, tenant: httpx.AsyncClient, acme: TenantId):
    admin.headers["Appliance-Tenant"] = "acme"
    created = await admin.post("/api/v1/keys", json={"name": "ci", "scopes": ["usage:read", "key:read", "inference"]})
    assert created.status_code == 201, created.text
    tenant.headers["Authorization"] = f"Bearer {created.json()['secret']}"
    listed = (await tenant.get("/api/v1/keys")).json()["items"]
    assert [key["name"] for key in listed] == ["ci"]
    assert "secret" not in listed[0]
    assert _code(await tenant.post("/api/v1/keys", json={"name": "more"})) == (403, "forbidden")
    quota = {"scope": acme, "resource": "keys", "used": 1, "limit": 3}
    assert quota in (await tenant.get("/api/v1/quotas")).json()["items"]
    below = await admin.put("/api/v1/quotas/keys", json={"limit": 0})
    assert _code(below) == (409, "limit-below-use")
    assert (await admin.put("/api/v1/quotas/keys", json={"limit": 1})).json() == {**quota, "limit": 1}
    assert _code(await admin.post("/api/v1/keys", json={"name": "more"})) == (409, "quota-exceeded")
    assert (await admin.post("/api/v1/keys/ci/revoke")).json()["state"] == "revoked"
    assert _code(await tenant.get("/api/v1/keys")) == (401, "unauthenticated")
    assert (await admin.delete("/api/v1/keys/ci")).status_code == 204


async def test_without_a_tenant_nothing_is_created(admin: httpx.AsyncClient):
    answer = await admin.post("/api/v1/keys", json={"name": "ci"})
    assert _code(answer) == (400, "bad-input")
    assert "Appliance-Tenant" in answer.json()["detail"]


@pytest.mark.usefixtures("acme")
async def test_a_repeated_creation_shows_no_secret(admin: httpx.AsyncClient, database: Database):
    headers = {"Appliance-Tenant": "acme", "Idempotency-Key": "once"}
    first = await admin.post("/api/v1/keys", json={"name": "ci"}, headers=headers)
    again = await admin.post("/api/v1/keys", json={"name": "ci"}, headers=headers)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert (again.status_code, again.json()) == (201, {**first.json(), "secret": None})
    async with database.read() as session:
        row = await session.get_one(IdempotencyRow, (f"{first.json()['key']['tenant_id']}:{_actor(first)}", "once"))
    assert first.json()["secret"] not in row.body
    other = await admin.post("/api/v1/keys", json={"name": "else"}, headers=headers)
    assert _code(other) == (422, "idempotency-key-reused")


def _actor(answer: httpx.Response) -> str:
    return str(answer.json()["key"]["created_by"])


async def test_a_browser_signs_in(tenant: httpx.AsyncClient, join: Any):
    password = await join("mia", Role.developer)
    answer = await tenant.post("/api/v1/logins", json={"name": "mia", "password": password})
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-appliance=")
    assert {"HttpOnly", "Secure", "SameSite=strict", "Path=/"} <= {part.strip() for part in cookie.split(";")}
    assert "Domain" not in cookie
    assert answer.json()["must_change_password"]
    assert _code(await tenant.get("/api/v1/keys")) == (403, "password-change-required")
    me = (await tenant.get("/api/v1/me")).json()
    assert me["must_change_password"]
    tenant.headers["X-CSRF-Token"] = me["csrf_token"]
    changed = await tenant.put("/api/v1/me/password", json={"current": password, "new": GOOD})
    assert changed.status_code == 204
    me = (await tenant.get("/api/v1/me")).json()
    assert set(me["permissions"]) == PERMISSIONS[Role.developer]
    assert [membership["tenant_name"] for membership in me["memberships"]] == ["acme"]
    assert (await tenant.delete("/api/v1/logins/current")).status_code == 204
    assert _code(await tenant.get("/api/v1/me")) == (401, "unauthenticated")


async def test_a_cookie_alone_may_not_write(tenant: httpx.AsyncClient, join: Any):
    await sign_in(tenant, "mia", await join("mia", Role.developer))
    body, own = {"name": "ci"}, tenant.headers["X-CSRF-Token"]
    for headers in ({"X-CSRF-Token": ""}, {"X-CSRF-Token": "wrong"}, {"Origin": "https://evil.test"}):
        answer = await tenant.post("/api/v1/keys", json=body, headers={"X-CSRF-Token": own, **headers})
        assert _code(answer) == (403, "forbidden"), headers
    other_port = {"Origin": ORIGIN[Port.admin]}
    assert _code(await tenant.post("/api/v1/keys", json=body, headers=other_port)) == (403, "forbidden")
    written = await tenant.post("/api/v1/keys", json=body, headers={"Origin": ORIGIN[Port.tenant]})
    assert written.status_code == 201, written.text


async def test_a_foreign_page_may_not_sign_anyone_in(tenant: httpx.AsyncClient, join: Any):
    credentials = {"name": "mia", "password": await join("mia", Role.developer)}
    answer = await tenant.post("/api/v1/logins", json=credentials, headers={"Origin": "https://evil.test"})
    assert _code(answer) == (403, "forbidden")


async def test_failed_logins_slow_down(tenant: httpx.AsyncClient, platform: Bootstrapped):
    wrong = {"name": "admin", "password": "wrong"}
    for _ in range(6):
        assert _code(await tenant.post("/api/v1/logins", json=wrong)) == (401, "unauthenticated")
    answer = await tenant.post("/api/v1/logins", json=wrong)
    assert _code(answer) == (429, "too-many-attempts")
    assert answer.headers["Retry-After"] == "1"


async def test_a_login_is_not_a_key(admin: httpx.AsyncClient):
    for method, path in (("DELETE", "/api/v1/logins"), ("DELETE", "/api/v1/logins/current")):
        assert _code(await admin.request(method, path)) == (400, "bad-input")
    assert (await admin.get("/api/v1/me")).json()["kind"] == "key"


async def test_members_over_http(admin: httpx.AsyncClient, tenant: httpx.AsyncClient, join: Any):
    await sign_in(tenant, "boss", await join("boss", Role.tenant_admin))
    added = await tenant.post("/api/v1/members", json={"name": "mia", "role": "developer"})
    assert added.json()["one_time_password"]
    risen = await tenant.patch("/api/v1/members/mia", json={"role": "platform_admin"})
    assert _code(risen) == (400, "bad-input")
    assert (await tenant.patch("/api/v1/members/mia", json={"role": "viewer"})).json()["role"] == "viewer"
    assert (await tenant.post("/api/v1/members/mia/password")).json()["one_time_password"]
    assert _code(await tenant.delete("/api/v1/members/boss")) == (409, "last-administrator")
    assert (await tenant.delete("/api/v1/members/mia")).status_code == 204
    assert [user["name"] for user in (await admin.get("/api/v1/users")).json()["items"]] == ["mia", "boss", "admin"]


async def test_users_over_http(admin: httpx.AsyncClient):
    created = await admin.post("/api/v1/users", json={"name": "second", "is_platform_admin": True})
    assert created.json()["one_time_password"]
    assert (await admin.get("/api/v1/users/second")).headers["ETag"] == '"1"'
    renamed = await admin.patch("/api/v1/users/second", json={"display_name": "The second"})
    assert renamed.json()["display_name"] == "The second"
    assert (await admin.post("/api/v1/users/second/password")).json()["one_time_password"]
    assert (await admin.delete("/api/v1/users/second")).status_code == 204
    assert _code(await admin.delete("/api/v1/users/admin")) == (409, "last-administrator")


async def test_audit_and_usage_over_http(admin: httpx.AsyncClient, acme: TenantId):
    events = (await admin.get("/api/v1/audit", params={"target": acme})).json()["items"]
    assert [event["action"] for event in events] == ["tenant.created"]
    assert _code(await admin.get("/api/v1/audit", params={"since": "2026-01-01T00:00:00"})) == (400, "bad-input")
    export = await admin.get("/api/v1/audit/export")
    assert export.headers["content-type"].startswith("application/x-ndjson")
    assert len(export.text.splitlines()) >= 3
    assert (await admin.get("/api/v1/audit/chain")).json()["broken_at"] is None
    query = {"group_by": ["service", "day"], "time_zone": "Europe/Berlin"}
    report = (await admin.get("/api/v1/usage", params=query)).json()
    assert (report["time_zone"], report["items"]) == ("Europe/Berlin", [])
    assert (await admin.get("/api/v1/usage", params={"group_by": "key"})).status_code == 200
    assert _code(await admin.get("/api/v1/usage", params={"time_zone": "Nowhere"})) == (400, "bad-input")
    assert (await admin.get("/api/v1/usage/records")).json() == {"items": [], "next_cursor": None}
    latency = (await admin.get("/api/v1/usage/latency", params={"by": "deployment"})).json()
    assert (latency["relative_error"], latency["items"]) == (1 / 32, [])
    assert _code(await admin.get("/api/v1/usage/latency", params={"by": "model"})) == (400, "bad-input")


# Roles x routes

BODIES: dict[tuple[str, str], Any] = {
    ("POST", "/members"): {"name": "new", "role": "viewer"},
    ("PATCH", "/members/{user:str}"): {"role": "viewer"},
    ("POST", "/keys"): {"name": "new", "scopes": ["usage:read"]},
}
ROUTES = [
    (method, path, route.opt["permission"])
    for module in (members, keys, quotas, limits, usage, audit, logins)
    for route in module.tenant_routes()
    if isinstance(route, HTTPRouteHandler) and "permission" in route.opt
    for path in route.paths
    for method in route.http_methods - {"HEAD", "OPTIONS"}
]


def _path(path: str) -> str:
    return "/api/v1" + path.replace("{user:str}", "nobody").replace("{key:str}", "nothing")


@pytest.mark.parametrize("role", [Role.viewer, Role.developer, Role.tenant_admin])
async def test_each_role_reaches_what_it_may(tenant: httpx.AsyncClient, join: Any, role: Role):
    await sign_in(tenant, "mia", await join("mia", role))
    for method, path, permission in sorted(ROUTES):
        answer = await tenant.request(method, _path(path), json=BODIES.get((method, path)))
        allowed = permission in PERMISSIONS[role]
        assert (answer.status_code != 403) == allowed, f"{role} {method} {path}: {answer.text}"


async def test_nobody_reaches_anything_without_a_secret(tenant: httpx.AsyncClient):
    for method, path, _ in ROUTES:
        answer = await tenant.request(method, _path(path), json=BODIES.get((method, path)))
        assert _code(answer) == (401, "unauthenticated"), f"{method} {path}"


async def test_what_is_for_administrators_is_not_on_the_tenant_port(
    tenant: httpx.AsyncClient, join: Any, platform: Bootstrapped
):
    await sign_in(tenant, "boss", await join("boss", Role.tenant_admin))
    for path in ("/tenants", "/tenants/acme", "/users", "/platform/keys", "/audit/chain"):
        assert _code(await tenant.get(f"/api/v1{path}")) == (404, "not-found")
    tenant.headers["Authorization"] = f"Bearer {platform.operator_key}"
    assert _code(await tenant.get("/api/v1/keys")) == (401, "unauthenticated")


async def test_two_tenants_do_not_meet(
    admin: httpx.AsyncClient, tenant: httpx.AsyncClient, join: Any, new_tenant: NewTenantOf
):
    await new_tenant("other")
    headers = {"Appliance-Tenant": "other"}
    theirs = (await admin.post("/api/v1/keys", json={"name": "theirs"}, headers=headers)).json()["key"]["id"]
    them = await admin.post("/api/v1/members", json={"name": "them", "role": "developer"}, headers=headers)
    user_id = them.json()["member"]["user_id"]
    await sign_in(tenant, "boss", await join("boss", Role.tenant_admin))
    probes = (
        ("GET", f"/keys/{theirs}"),
        ("POST", f"/keys/{theirs}/revoke"),
        ("DELETE", f"/keys/{theirs}"),
        ("DELETE", f"/members/{user_id}"),
        ("POST", "/members/them/password"),
    )
    for method, path in probes:
        assert _code(await tenant.request(method, f"/api/v1{path}")) == (404, "not-found"), path
    assert _code(await tenant.get("/api/v1/keys", headers=headers)) == (404, "not-found")
    for path in (
        "/keys",
        "/members",
        "/audit",
        "/audit/export",
        "/usage",
        "/usage/records",
        "/usage/latency",
        "/quotas",
        "/limits",
    ):
        answer = await tenant.get(f"/api/v1{path}")
        assert theirs not in answer.text
        assert user_id not in answer.text
