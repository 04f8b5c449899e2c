"""Devices that are reserved, and places that are left to others, under load: no request is lost, and it all ends well.

The devices are simulated under the real NVML binding; the engines, which need none, are real processes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import POSTGRES, database_environ
from tests.gpu.stub.catalog import HOSTS
from tests.gpu.stub.library import install
from tests.support.appliance import Appliance, Tenant, done, running
from tests.support.load import Asked, Load, Manner, plan
from tests.support.waiting import eventually

REQUESTS = 800
GIB = 1024**3
CONSENTS = {"placement": {"preemptible": True}}


@pytest.fixture(params=["sqlite", POSTGRES])
def appliance(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Appliance]:
    """With eight devices."""
    HOSTS["nvlink"]().write(tmp_path)
    install(tmp_path)
    with (
        database_environ(request) as environ,
        running(
            APPLIANCE_COMPUTE__SIMULATION=str(tmp_path),
            APPLIANCE_COMPUTE__PROBE_PERIOD_S="0.5",
            APPLIANCE_GATEWAY__DRAIN_S="30",
            **environ,
        ) as appliance,
    ):
        yield appliance


async def test_who_consented_leaves_without_losing_a_request_and_comes_back(appliance: Appliance) -> None:
    operator = appliance.client()
    done(operator.post("flavors", json={"name": "one", "devices": 1, "cpus": 1, "memory_bytes": GIB // 8}))
    low, high = (_tenant(appliance, operator, priority) for priority in ("low", "high"))
    kept = _reserve(operator, Tenant.create(appliance, "patron").name)
    low.publish("chat", flavor="one", replicas=2, device_memory_bytes=GIB, args=["--pause-ms=5"], **CONSENTS)
    service = low.until("chat", "ready")
    devices = done(operator.get("devices"))["items"]
    assert not {device["id"] for device in devices if device["leases"]} & set(kept["devices"])
    requests = [_patient(asked) for asked in plan(REQUESTS, 11)]
    load = Load(service["url"], low.known_key(service["url"]), "chat", requests, concurrency=16)

    async def come() -> None:
        await asyncio.to_thread(eventually, lambda: load.done >= REQUESTS // 4, 60)
        await asyncio.to_thread(high.publish, "urgent", flavor="one", device_memory_bytes=GIB)
        await asyncio.to_thread(high.until, "urgent", "ready")

    await asyncio.gather(load.run(), come())
    assert not [asked for asked in requests if asked.status != httpx.codes.OK or asked.broken]
    eventually(lambda: "reserved for others" in low.service("chat")["reason"], 20, message="who left says why it waits")
    assert low.service("chat")["deployments"][0]["preemptions"] == 1
    assert [item["id"] for item in done(operator.get("reservations"))["items"]] == [kept["id"]]
    assert not appliance.violations()
    done(operator.delete(f"reservations/{kept['id']}"))
    eventually(lambda: low.service("chat")["ready_replicas"] == 2, 60, message="it is back on what was reserved")
    assert high.service("urgent")["ready_replicas"] == 1
    assert not appliance.violations()


def _patient(asked: Asked) -> Asked:
    """The same request of a client that waits for all of its answer."""
    asked.manner = {Manner.whole_cut: Manner.whole, Manner.streamed_cut: Manner.streamed}.get(
        asked.manner, asked.manner
    )
    return asked


def _tenant(appliance: Appliance, operator: httpx.Client, priority: str) -> Tenant:
    tenant = Tenant.create(appliance, priority)
    done(operator.patch(f"tenants/{priority}", json={"priority": priority}))
    return tenant


def _reserve(operator: httpx.Client, tenant: str) -> dict[str, Any]:
    """Six of the eight."""
    ends_at = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    body = {"tenant": tenant, "pool": "default", "count": 6, "ends_at": ends_at, "reason": "a demo"}

    def made() -> dict[str, Any] | None:
        answer = operator.post("reservations", json=body)
        return done(answer) if answer.is_success else None

    found = eventually(made, 20, message="the devices are known and reserved")
    assert found is not None
    return found
