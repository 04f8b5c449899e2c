"""Reservations over HTTP: what an administrator does, and what a tenant sees."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import httpx
import pytest
from sqlalchemy import select

from appliance.api.context import Port
from appliance.kernel.clock import ManualClock
from appliance.kernel.db import Database
from gpu.discovery import record_devices, record_node
from gpu.tables import DeviceRow
from tenants.tables import AuditRow, TenantRow
from tests.gpu.serving import Stage, served
from tests.gpu.test_leasing import MACHINE, seen
from tests.gpu.test_routes import problem

# Litestar 3 wants dependencies and bodies marked; the other routes are to follow.
pytestmark = pytest.mark.filterwarnings("ignore::litestar.exceptions.LitestarDeprecationWarning")


@pytest.fixture
async def devices(database: Database, clock: ManualClock) -> list[str]:
    async with database.write() as session:
        row = await record_node(session, clock, None, MACHINE)
        await record_devices(session, clock, row, seen(2))
        zeta = TenantRow(id="ten_zeta", name="zeta", display_name="Zeta", state="active", created_at=clock.now())
        session.add(zeta)
        await session.flush()
        return list(await session.scalars(select(DeviceRow.id).order_by(DeviceRow.index)))


@pytest.fixture
async def admin(database: Database, clock: ManualClock, devices: list[str]) -> AsyncIterator[httpx.AsyncClient]:
    async with served(database, clock, Stage(), Port.admin) as client:
        yield client


@pytest.fixture
async def tenant(admin: httpx.AsyncClient, database: Database, clock: ManualClock) -> AsyncIterator[httpx.AsyncClient]:
    """A key of the tenant `acme`, on the tenants' port."""
    async with served(database, clock, Stage(), Port.tenant) as client:
        yield client


def _body(clock: ManualClock, **members: object) -> dict[str, object]:
    ends_at = (clock.now() + timedelta(hours=1)).isoformat()
    return {"tenant": "acme", "ends_at": ends_at, "reason": "a demo"} | members


async def test_an_administrator_makes_and_ends_them(
    admin: httpx.AsyncClient, devices: list[str], clock: ManualClock, database: Database
) -> None:
    headers, body = {"Idempotency-Key": "one"}, _body(clock, tenant="zeta", devices=devices)
    first, again = [await admin.post("/api/v1/reservations", json=body, headers=headers) for _ in range(2)]
    assert first.status_code == 201
    made = first.json()
    assert again.json() == made
    assert (made["tenant"], made["devices"], made["state"]) == ("zeta", sorted(devices), "active")
    assert (await admin.get(f"/api/v1/reservations/{made['id']}")).json() == made
    assert (await admin.get(f"/api/v1/reservations?device={devices[0]}&tenant=zeta")).json()["items"] == [made]
    assert (await admin.get("/api/v1/reservations?device=dev_none")).json()["items"] == []
    taken = await problem(admin, "POST", "/reservations", json=_body(clock, tenant="zeta", pool="default", count=1))
    assert taken == (409, "conflict")
    overlapping = _body(clock, tenant="zeta", devices=devices[:1])
    assert await problem(admin, "POST", "/reservations", json=overlapping) == (409, "reservation-overlaps")
    clock.advance(3600)
    assert (await admin.get(f"/api/v1/reservations/{made['id']}")).json()["state"] == "over"
    assert (await admin.delete(f"/api/v1/reservations/{made['id']}")).is_success
    assert await problem(admin, "DELETE", f"/reservations/{made['id']}") == (404, "not-found")
    async with database.read() as session:
        actions = await session.scalars(select(AuditRow.action).where(AuditRow.target_kind == "reservation"))
        assert list(actions) == ["reservation.created", "reservation.deleted"]


async def test_a_tenant_sees_its_own_and_changes_none(
    admin: httpx.AsyncClient, tenant: httpx.AsyncClient, devices: list[str], clock: ManualClock
) -> None:
    theirs = (await admin.post("/api/v1/reservations", json=_body(clock, tenant="zeta", devices=devices[:1]))).json()
    mine = (await admin.post("/api/v1/reservations", json=_body(clock, devices=devices[1:]))).json()
    assert (await tenant.get("/api/v1/reservations")).json()["items"] == [mine]
    assert (await tenant.get(f"/api/v1/reservations?device={devices[0]}")).json()["items"] == []
    assert await problem(tenant, "GET", f"/reservations/{theirs['id']}") == (404, "not-found")
    assert await problem(tenant, "GET", "/reservations?tenant=zeta") == (404, "not-found")
    assert (await tenant.get(f"/api/v1/reservations/{mine['id']}")).json() == mine
    for method, path in (("POST", "/reservations"), ("DELETE", f"/reservations/{mine['id']}")):
        assert (await tenant.request(method, f"/api/v1{path}", json=_body(clock))).status_code in (403, 404, 405)


@pytest.mark.parametrize(
    "members",
    [
        {"devices": []},
        {"pool": "default", "count": 0},
        {"devices": ["dev_1"], "reason": ""},
        {"devices": ["dev_1"], "ends_at": "2999-01-01T00:00:00"},
        {"devices": ["dev_1"], "colour": "red"},
    ],
)
async def test_what_is_no_reservation_is_refused(
    admin: httpx.AsyncClient, clock: ManualClock, members: dict[str, object]
) -> None:
    assert await problem(admin, "POST", "/reservations", json=_body(clock, **members)) == (400, "bad-input")
