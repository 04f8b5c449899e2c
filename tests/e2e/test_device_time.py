"""Devices watched and metered by a whole appliance on simulated hardware, across deaths of the control plane."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.gpu.conftest import simulation  # noqa: F401 - a fixture
from tests.gpu.stub.catalog import nvlink_server
from tests.gpu.stub.host import SimulatedHost
from tests.support.appliance import Appliance, Tenant, done, running
from tests.support.waiting import eventually

DEATHS = 3


def device_seconds(appliance: Appliance) -> float:
    """Of all tenants, as it is billed."""
    (total,) = done(appliance.client().get("usage/devices"))["items"]
    return float(total["device_seconds"])


def instant(stored: object) -> float:
    """Unix seconds of a row's time, which SQLite keeps without its zone."""
    return datetime.fromisoformat(str(stored)).replace(tzinfo=UTC).timestamp()


def held_by_name(appliance: Appliance) -> list[dict[str, Any]]:
    """The devices with a holder."""
    return [item for item in done(appliance.client().get("telemetry/devices"))["items"] if item["holders"]]


def test_device_time_is_whole_though_the_control_plane_is_killed(
    simulation: Callable[[SimulatedHost], Path],  # noqa: F811 - the fixture
) -> None:
    folder = str(simulation(nvlink_server()))
    with running(APPLIANCE_COMPUTE__SIMULATION=folder, APPLIANCE_COMPUTE__PROBE_PERIOD_S="0.5") as appliance:
        eventually(lambda: len(done(appliance.client().get("devices"))["items"]) == 8, message="the devices are found")
        flavor = {"name": "one", "devices": 1, "cpus": 1, "memory_bytes": 1 << 28}
        done(appliance.client().post("flavors", json=flavor))
        tenant = Tenant.create(appliance)
        tenant.publish("held", flavor="one", replicas=2, device_memory_bytes=1 << 30)
        eventually(lambda: tenant.service("held")["ready_replicas"] == 2, 60, message="both replicas serve")
        devices = held_by_name(appliance)
        assert [(item["holders"][0]["tenant"], item["holders"][0]["service"]) for item in devices] == [
            ("acme", "held")
        ] * 2
        begins = [instant(row["taken_at"]) for row in appliance.rows("device_leases")]
        for _ in range(DEATHS):
            appliance.kill()
            appliance.start()
        history = f"telemetry/devices/{devices[0]['id']}?step=1"
        span = f"&since={datetime.fromtimestamp(min(begins) - 60, UTC):%Y-%m-%dT%H:%M:%SZ}"
        eventually(lambda: len(done(appliance.client().get(history + span))["times"]) > 3, message="there is a history")
        told = {gauge["name"]: gauge["mean"] for gauge in done(appliance.client().get(history + span))["gauges"]}
        assert told["memory_claimed"][-1] == devices[0]["memory_bytes"]
        before = time.time()
        done(tenant.client.delete("services/held"))
        eventually(lambda: not appliance.rows("device_leases"), 60, message="the devices are given back")
        after = time.time()
        assert len(begins) == 2
        assert sum(before - begin for begin in begins) <= device_seconds(appliance)
        assert sum(after - begin for begin in begins) >= device_seconds(appliance)
        assert appliance.rows("device_meters") == []
        assert not appliance.violations()
