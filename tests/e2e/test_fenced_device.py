"""A device that falls off the bus while its replica serves: the replica moves, no request is lost, usage is kept.

The devices are simulated under the real NVML binding; the engines, which need none, are real processes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from tests.gpu.stub.catalog import HOSTS
from tests.gpu.stub.library import install
from tests.support import books
from tests.support.appliance import Appliance, Tenant, done, running
from tests.support.load import Asked, Load, Manner, plan
from tests.support.waiting import eventually

REQUESTS = 1500
GIB = 1024**3


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    """A server with eight devices that are linked by NVLink."""
    HOSTS["nvlink"]().write(tmp_path)
    install(tmp_path)
    return tmp_path


@pytest.fixture
def appliance(fleet: Path) -> Iterator[Appliance]:
    with running(
        APPLIANCE_COMPUTE__SIMULATION=str(fleet),
        APPLIANCE_COMPUTE__PROBE_PERIOD_S="0.5",
        APPLIANCE_GATEWAY__DRAIN_S="30",
    ) as appliance:
        yield appliance


async def test_a_fenced_device_loses_no_request(appliance: Appliance, fleet: Path) -> None:
    operator = appliance.client()
    flavor = {"name": "one", "devices": 1, "cpus": 1, "memory_bytes": GIB // 8}
    done(operator.post("flavors", json=flavor))
    tenant = Tenant.create(appliance)
    tenant.publish("chat", flavor="one", replicas=2, device_memory_bytes=GIB, args=["--pause-ms=5"])
    service = tenant.until("chat", "ready")
    (lost, _) = _held(operator)
    requests = [_patient(asked) for asked in plan(REQUESTS, 7)]
    load = Load(service["url"], tenant.known_key(service["url"]), "chat", requests, concurrency=16)

    async def fall() -> None:
        await asyncio.to_thread(eventually, lambda: load.done >= REQUESTS // 4, 60)
        await asyncio.to_thread(_lose, fleet, lost["index"])
        await asyncio.to_thread(eventually, lambda: _is_fenced(operator, lost["id"]), 20)
        assert load.done < REQUESTS, "the load was over before the device was lost"

    await asyncio.gather(load.run(), fall())
    assert not [asked for asked in requests if asked.status != httpx.codes.OK or asked.broken]
    eventually(lambda: _moved(operator, tenant, lost["id"]), 60, message="both replicas serve on healthy devices")
    shown = done(operator.get(f"devices/{lost['id']}"))
    assert (shown["state"], shown["leases"]) == ("fenced", [])
    _usage_is_whole(tenant, requests)
    assert not appliance.violations()


def _patient(asked: Asked) -> Asked:
    """The same request of a client that waits for all of its answer."""
    asked.manner = {Manner.whole_cut: Manner.whole, Manner.streamed_cut: Manner.streamed}.get(
        asked.manner, asked.manner
    )
    return asked


def _held(operator: httpx.Client) -> list[dict[str, object]]:
    return [device for device in done(operator.get("devices"))["items"] if device["leases"]]


def _lose(fleet: Path, index: object) -> None:
    """As `docs/compute.md` says: the file is replaced as a whole."""
    text = (fleet / "fleet").read_text()
    changed = text.replace(f"nvidia {index} state ok", f"nvidia {index} state lost")
    assert changed != text
    (fleet / "new").write_text(changed)
    (fleet / "new").rename(fleet / "fleet")


def _is_fenced(operator: httpx.Client, device_id: object) -> bool:
    return bool(done(operator.get(f"devices/{device_id}"))["state"] == "fenced")


def _moved(operator: httpx.Client, tenant: Tenant, lost: object) -> bool:
    held = [device["id"] for device in _held(operator)]
    return len(held) == 2 and lost not in held and tenant.service("chat")["ready_replicas"] == 2


def _usage_is_whole(tenant: Tenant, requests: Sequence[Asked]) -> None:
    def recorded() -> dict[str, int]:
        return {record["request_id"]: record["completion_tokens"] for record in books.every_record(tenant)}

    wanted = {asked.id: asked.received for asked in requests}
    eventually(lambda: wanted.items() <= recorded().items(), 30, message="each request is recorded as it was answered")
