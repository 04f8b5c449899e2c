"""Cordons, drains, labels and pools of single devices, as an administrator has them over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from sqlalchemy import select

from appliance.api.context import Port
from appliance.kernel.clock import ManualClock
from appliance.kernel.db import Database
from gpu import cordoning, leasing
from gpu.discovery import record_devices, record_node
from gpu.errors import PlacementLost
from gpu.requests import PlacementRequest, Plan
from gpu.states import Disposition
from gpu.tables import DeviceRow, NodeRow
from tenants.tables import AuditRow
from tests.gpu.serving import Stage, served
from tests.gpu.test_leasing import GIB, MACHINE, seen
from tests.gpu.test_routes import problem

# Litestar 3 wants dependencies and bodies marked; the other routes are to follow.
pytestmark = pytest.mark.filterwarnings("ignore::litestar.exceptions.LitestarDeprecationWarning")
ACTIONS = ("cordon", "drain", "uncordon")


@pytest.fixture(autouse=True)
async def _furnished(database: Database, clock: ManualClock) -> None:
    async with database.write() as session:
        row = await record_node(session, clock, None, MACHINE)
        await record_devices(session, clock, row, seen(2))


@pytest.fixture
async def admin(database: Database, clock: ManualClock) -> AsyncIterator[httpx.AsyncClient]:
    async with served(database, clock, Stage(), Port.admin) as client:
        yield client


async def devices(client: httpx.AsyncClient, **params: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = (await client.get("/api/v1/devices", params=params)).json()["items"]
    return sorted(found, key=lambda device: str(device["index"]))


async def free(client: httpx.AsyncClient, pool: str) -> list[tuple[int, int]]:
    groups = (await client.get(f"/api/v1/pools/{pool}")).json()["devices"]
    return [(group["total"], group["free"]) for group in groups]


async def lease(database: Database, clock: ManualClock, pool: str = "default") -> str:
    """Lease the first device that is in the pool; its id."""
    async with database.write() as session:
        device = (await session.scalars(select(DeviceRow).order_by(DeviceRow.index))).first()
        node = (await session.scalars(select(NodeRow))).one()
        assert device is not None
        request = PlacementRequest(pool_id=node.pool_id, devices=1, cpus=1, memory_bytes=GIB)
        await leasing.take(session, clock, "rpl_1", Plan(node.id, (device.id,)), request)
        return device.id


async def test_a_node_is_cordoned_drained_and_opened_again(
    admin: httpx.AsyncClient, database: Database, clock: ManualClock
) -> None:
    begun = clock.now()
    closed = (await admin.post("/api/v1/nodes/n1/cordon", json={"reason": "new firmware"})).json()
    assert (closed["cordon"]["reason"], closed["cordon"]["draining"]) == ("new firmware", False)
    assert await free(admin, "default") == [(2, 0)]
    clock.advance(60)
    drained = (await admin.post("/api/v1/nodes/n1/drain", json={"reason": "new disks"})).json()
    assert (drained["cordon"]["reason"], drained["cordon"]["draining"]) == ("new disks", True)
    assert drained["cordon"]["since"].startswith(begun.isoformat()[:19])
    assert (await admin.get("/api/v1/nodes/n1")).json()["cordon"] == drained["cordon"]
    for _ in range(2):
        assert (await admin.post("/api/v1/nodes/n1/uncordon")).json()["cordon"] is None
    assert await free(admin, "default") == [(2, 2)]
    async with database.read() as session:
        rows = await session.execute(select(AuditRow.action, AuditRow.detail).order_by(AuditRow.id))
        told = [(action, detail.get("reason")) for action, detail in rows if action.startswith("node.")]
    assert told == [
        ("node.cordoned", "new firmware"),
        ("node.drained", "new disks"),
        ("node.uncordoned", None),
        ("node.uncordoned", None),
    ]


async def test_a_device_alone_is_closed_and_a_fence_is_something_else(admin: httpx.AsyncClient) -> None:
    first, second = await devices(admin)
    closed = (await admin.post(f"/api/v1/devices/{first['id']}/drain", json={"reason": "a new fan"})).json()
    assert (closed["state"], closed["cordon"]["draining"]) == ("healthy", True)
    await admin.post(f"/api/v1/devices/{second['id']}/fence", json={"reason": "too hot"})
    assert await free(admin, "default") == [(2, 0)]
    assert (await admin.post(f"/api/v1/devices/{first['id']}/uncordon")).json()["cordon"] is None
    assert await free(admin, "default") == [(2, 1)]
    assert (await admin.post(f"/api/v1/devices/{second['id']}/uncordon")).json()["state"] == "fenced"


async def test_closing_takes_a_reason_and_something_to_close(admin: httpx.AsyncClient) -> None:
    for kind, name in (("nodes", "n1"), ("devices", (await devices(admin))[0]["id"])):
        for action in ("cordon", "drain"):
            assert await problem(admin, "POST", f"/{kind}/{name}/{action}", json={}) == (400, "bad-input")
            assert await problem(admin, "POST", f"/{kind}/{name}/{action}", json={"reason": ""}) == (400, "bad-input")
        for action in ACTIONS:
            missing = await problem(admin, "POST", f"/{kind}/none/{action}", json={"reason": "x"})
            assert missing == (404, "not-found")


async def test_a_device_moves_alone_to_another_pool_and_back(admin: httpx.AsyncClient) -> None:
    night = (await admin.post("/api/v1/pools", json={"name": "night"})).json()["id"]
    first, second = await devices(admin)
    moved = (await admin.patch(f"/api/v1/devices/{first['id']}", json={"pool": "night"})).json()
    assert (moved["pool_id"], moved["node_pool_id"]) == (night, second["pool_id"])
    assert (await free(admin, "default"), await free(admin, "night")) == ([(1, 1)], [(1, 1)])
    assert [device["id"] for device in await devices(admin, pool="night")] == [first["id"]]
    assert [device["id"] for device in await devices(admin, pool="default")] == [second["id"]]
    nodes = (await admin.get("/api/v1/nodes", params={"pool": "night"})).json()["items"]
    assert [node["name"] for node in nodes] == ["n1"]
    assert await problem(admin, "DELETE", "/pools/night") == (409, "in-use")
    back = (await admin.patch(f"/api/v1/devices/{first['id']}", json={"pool": None})).json()
    assert back["pool_id"] == back["node_pool_id"]
    assert (await admin.delete("/api/v1/pools/night")).is_success


async def test_a_leased_device_stays_in_its_pool(
    admin: httpx.AsyncClient, database: Database, clock: ManualClock
) -> None:
    await admin.post("/api/v1/pools", json={"name": "night"})
    leased = await lease(database, clock)
    assert await problem(admin, "PATCH", f"/devices/{leased}", json={"pool": "night"}) == (409, "in-use")
    same = await admin.patch(f"/api/v1/devices/{leased}", json={"pool": "default"})
    assert same.is_success
    async with database.write() as session:
        await leasing.release(session, "rpl_1")
    assert (await admin.patch(f"/api/v1/devices/{leased}", json={"pool": "night"})).is_success


async def test_a_place_is_not_taken_on_what_was_closed_or_moved_since_the_plan(
    admin: httpx.AsyncClient, database: Database, clock: ManualClock
) -> None:
    await admin.post("/api/v1/pools", json={"name": "night"})
    first, _ = await devices(admin)
    for path, close, undo in (
        ("nodes/n1", ("post", "/cordon", {"reason": "x"}), ("post", "/uncordon", None)),
        (f"devices/{first['id']}", ("post", "/cordon", {"reason": "x"}), ("post", "/uncordon", None)),
        (f"devices/{first['id']}", ("patch", "", {"pool": "night"}), ("patch", "", {"pool": None})),
    ):
        assert (await admin.request(close[0], f"/api/v1/{path}{close[1]}", json=close[2])).is_success
        with pytest.raises(PlacementLost):
            await lease(database, clock)
        assert (await admin.request(undo[0], f"/api/v1/{path}{undo[1]}", json=undo[2])).is_success
    await lease(database, clock)


async def test_a_cordon_and_a_lease_at_once_leave_no_lease_that_came_after(
    database: Database, clock: ManualClock
) -> None:
    """Whichever is first, the other sees it: the cordon finds the lease, or the lease finds the cordon."""
    order: list[str] = []

    async def close() -> None:
        async with database.write() as session:
            (device,) = (await session.scalars(select(DeviceRow.id).where(DeviceRow.index == 0))).all()
            row = await cordoning.lock_device(session, device)
            held = await cordoning.replicas_on_device(session, device)
            await cordoning.dispose(session, clock, row, Disposition.cordoned, "x")
            order.append(f"cordoned beside {list(held)}")

    async def take() -> None:
        try:
            await lease(database, clock)
        except PlacementLost:
            order.append("refused")

    await asyncio.gather(close(), take())
    async with database.read() as session:
        (device,) = (await session.scalars(select(DeviceRow.id).where(DeviceRow.index == 0))).all()
        held = await cordoning.replicas_on_device(session, device)
    assert (order, held) in (
        (["cordoned beside []", "refused"], []),
        (["cordoned beside ['rpl_1']"], ["rpl_1"]),
    )


async def test_labels_are_kept_and_checked(admin: httpx.AsyncClient) -> None:
    made = (await admin.post("/api/v1/pools", json={"name": "night", "labels": {"rack": "A1"}})).json()
    assert (made["access"], made["labels"]) == ("public", {"rack": "A1"})
    changed = await admin.patch("/api/v1/pools/night", json={"access": "dedicated", "labels": {}})
    assert (changed.json()["access"], changed.json()["labels"]) == ("dedicated", {})
    labels = {"example.com/zone": "north", "spare": ""}
    assert (await admin.patch("/api/v1/nodes/n1", json={"labels": labels})).json()["labels"] == labels
    assert (await admin.get("/api/v1/nodes/n1")).json()["labels"] == labels
    for kind, query, names in (
        ("nodes", "label=example.com/zone=north&label=spare=", ["n1"]),
        ("nodes", "label=example.com/zone=south", []),
        ("nodes", "label=other=north", []),
        ("pools", "label=rack=A1", []),
    ):
        found = (await admin.get(f"/api/v1/{kind}?{query}")).json()["items"]
        assert [item["name"] for item in found] == names, query
    await admin.patch("/api/v1/pools/night", json={"labels": {"rack": "A1"}})
    assert [pool["name"] for pool in (await admin.get("/api/v1/pools?label=rack=A1")).json()["items"]] == ["night"]
    assert await problem(admin, "GET", "/nodes?label=zone") == (400, "bad-input")
    many = {f"key-{number}": "" for number in range(33)}
    for wrong in ({"Upper": "x"}, {"a": "with space"}, {"": "x"}, {"a": "x" * 64}, {"-a": "x"}, {"a\n": "x"}, many):
        assert await problem(admin, "PATCH", "/nodes/n1", json={"labels": wrong}) == (400, "bad-input"), wrong
