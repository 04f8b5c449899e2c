"""Two hundred services at once for the eight devices of a (simulated) server: each device has one holder (I1)."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import POSTGRES, database_environ
from tests.gpu.conftest import simulation  # noqa: F401 - a fixture
from tests.gpu.stub.catalog import nvlink_server
from tests.gpu.stub.host import SimulatedHost
from tests.support.appliance import Appliance, Tenant, done, running
from tests.support.ports import free_ports
from tests.support.waiting import eventually

SERVICES = 200
DEVICES = 8
PORTS = 16
GIB = 1024**3

pytestmark = pytest.mark.alone  # SQLite's writers wait for one another, and are refused after a bounded time


@pytest.fixture(params=["sqlite", POSTGRES])
def appliance(
    request: pytest.FixtureRequest,
    simulation: Callable[[SimulatedHost], Path],  # noqa: F811 - the fixture
) -> Iterator[Appliance]:
    folder = str(simulation(nvlink_server()))
    with (
        database_environ(request) as environ,
        running(APPLIANCE_COMPUTE__SIMULATION=folder, APPLIANCE_LIMITS__SERVICES="250", **environ) as appliance,
    ):
        yield appliance


def test_each_device_is_won_once(appliance: Appliance) -> None:
    operator = appliance.client()
    eventually(lambda: len(_devices(operator)) == DEVICES, message="the devices are found")
    done(operator.post("flavors", json={"name": "one", "devices": 1, "cpus": 0.1, "memory_bytes": GIB // 16}))
    tenants = [Tenant.create(appliance, name) for name in ("red", "blue")]
    for tenant in tenants:
        for quota in done(tenant.client.get("quotas"))["items"]:
            done(tenant.client.put(f"quotas/{quota['resource']}", json={"limit": 2**50}))
    gateways = [_gateway(operator, number) for number in range(-(-SERVICES // PORTS))]

    created = asyncio.run(_create_all(appliance, tenants, gateways))

    assert Counter(answer.status_code for answer in created) == {httpx.codes.CREATED: SERVICES}
    eventually(lambda: _states(operator)["ready"] == DEVICES, 120, message="eight services serve")
    eventually(lambda: all(map(_says_why, _waiting(operator))), 30, message="each of the others says why it waits")
    assert sum(_states(operator).values()) == SERVICES
    _each_has_one_holder(operator)
    assert not appliance.violations()

    first = next(service for service in _services(operator) if service["state"] == "ready")
    done(operator.post(f"services/{first['id']}/stop"))
    eventually(lambda: _states(operator)["ready"] == DEVICES, 60, message="another service has its device")
    _each_has_one_holder(operator)
    assert not appliance.violations()


async def _create_all(appliance: Appliance, tenants: list[Tenant], gateways: list[str]) -> list[httpx.Response]:
    """All at once, each over a connection of its own; who is told to come again does."""
    trust = ssl.create_default_context(cafile=str(appliance.home / "ca.pem"))
    limits = httpx.Limits(max_connections=None)

    async def create(client: httpx.AsyncClient, number: int) -> httpx.Response:
        body = {
            "name": f"s{number}",
            "model": "tiny",
            "runtime": "light",
            "flavor": "one",
            "device_memory_bytes": GIB,
            "gateway": gateways[number // PORTS],
        }
        headers = {**tenants[number % len(tenants)].client.headers, "Idempotency-Key": f"create-{number}"}
        while True:
            try:
                answer = await client.post("services", json=body, headers=headers)
            except httpx.RemoteProtocolError:  # the connection was idle for long, and was closed as this was sent
                continue
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                return answer
            await asyncio.sleep(float(answer.headers["Retry-After"]))  # SQLite's writers wait for a bounded time

    base = str(tenants[0].client.base_url)
    async with httpx.AsyncClient(base_url=base, verify=trust, limits=limits, timeout=120) as client:
        return await asyncio.gather(*(create(client, number) for number in range(SERVICES)))


def _gateway(operator: httpx.Client, number: int) -> str:
    name = f"gateway-{number}"
    ports = free_ports(PORTS)
    done(operator.post("gateways", json={"name": name, "first_port": ports.start, "host": "127.0.0.1"}))
    return name


def _services(operator: httpx.Client) -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = done(operator.get("services", params={"limit": 500}))["items"]
    return shown


def _states(operator: httpx.Client) -> Counter[str]:
    return Counter(service["state"] for service in _services(operator))


def _waiting(operator: httpx.Client) -> list[dict[str, Any]]:
    return [service for service in _services(operator) if service["state"] == "pending"]


def _says_why(service: dict[str, Any]) -> bool:
    return "device" in (service["reason"] or "")


def _devices(operator: httpx.Client) -> list[dict[str, Any]]:
    shown: list[dict[str, Any]] = done(operator.get("devices"))["items"]
    return shown


def _each_has_one_holder(operator: httpx.Client) -> None:
    holders = [device["leases"] for device in _devices(operator)]
    assert [len(leases) for leases in holders] == [1] * DEVICES
    assert len({str(lease) for leases in holders for lease in leases}) == DEVICES
