"""Samples of devices, tenants and the platform, round by round, and what becomes of them when something fails."""

import shutil
from typing import Any

import pytest
from sqlalchemy import select, update

from appliance.observe.gauges import DEVICE, PLATFORM, TENANT, WHOLE, Gauge
from appliance.observe.recorder import Telemetry
from appliance.observe.store import Kind
from appliance.services.states import ServiceState
from gpu.states import DeviceState
from gpu.tables import DeviceRow, FlavorRow
from tests.services.stage import GIB, Stage


async def probed(stage: Stage, **values: Any) -> list[str]:
    """As by a probe that saw the same of all devices; their ids."""
    async with stage.database.write() as session:
        await session.execute(update(DeviceRow).values(seen_at=stage.clock.now(), **values))
        return list(await session.scalars(select(DeviceRow.id).order_by(DeviceRow.index)))


async def change(stage: Stage, device_id: str, **values: Any) -> None:
    async with stage.database.write() as session:
        await session.execute(update(DeviceRow).where(DeviceRow.id == device_id).values(**values))


def told(telemetry: Telemetry, series: str, gauges: tuple[Gauge, ...]) -> list[dict[str, float | None]]:
    """Each sample of a series as it is shown, oldest first."""
    rows = telemetry.store.read(series, Kind.raw, 0, 1 << 40)
    return [
        {gauge.name: gauge.shown(value) for gauge, value in zip(gauges, rows[at], strict=True)} for at in sorted(rows)
    ]


async def test_a_round_tells_what_was_probed_and_who_holds_what(stage: Stage, telemetry: Telemetry) -> None:
    service_id = await stage.create(flavor="gpu")
    await stage.until(service_id, ServiceState.ready)
    ids = await probed(
        stage,
        memory_used_bytes=70 * GIB,
        memory_foreign_bytes=GIB,
        gauges={"utilisation_percent": 93, "temperature_c": 61, "power_w": 402.35},
    )
    status = await telemetry.reconcile()
    assert (status.lost, status.failure, status.series) == (0, None, 4)
    assert 0 < status.bytes <= status.most_bytes
    samples = [told(telemetry, device_id, DEVICE) for device_id in ids]
    assert sorted(sample["memory_claimed"] or 0 for (sample,) in samples) == [0, 80 * GIB]
    assert samples[0][0] | {"memory_claimed": None} == {
        "utilisation": 93,
        "memory_used": 70 * GIB,
        "memory_foreign": GIB,
        "memory_claimed": None,
        "temperature": 61,
        "power": 402.4,
    }
    assert told(telemetry, stage.tenant_id, TENANT) == [{"devices": 1, "memory_claimed": 80 * GIB, "replicas": 1}]
    assert told(telemetry, PLATFORM, WHOLE) == [
        {"devices": 2, "healthy": 2, "leased": 1, "free": 1, "fragmentation": 0}
    ]


async def test_a_probe_is_sampled_once_and_what_is_stale_leaves_a_gap(stage: Stage, telemetry: Telemetry) -> None:
    one, other = await probed(stage)
    for _ in range(3):
        await telemetry.reconcile()
        stage.clock.advance(1)
    assert len(told(telemetry, one, DEVICE)) == 1
    await change(stage, other, state=DeviceState.stale.value)
    await probed(stage)
    await telemetry.reconcile()
    assert (len(told(telemetry, one, DEVICE)), len(told(telemetry, other, DEVICE))) == (2, 1)
    await change(stage, other, state=DeviceState.fenced.value)
    stage.clock.advance(1)
    await probed(stage)
    await telemetry.reconcile()
    assert len(told(telemetry, other, DEVICE)) == 2, "what is fenced is still measured"
    assert told(telemetry, stage.tenant_id, TENANT)[-1] == {"devices": 0, "memory_claimed": 0, "replicas": 0}


@pytest.mark.parametrize(
    ("devices", "leased", "expected"), [(2, 0, 0.0), (2, 40, 100.0), (4, 0, 100.0), (1, 40, 37.5), (None, 0, None)]
)
async def test_fragmentation_is_what_the_largest_flavor_could_not_use(
    stage: Stage, telemetry: Telemetry, devices: int | None, leased: int, expected: float | None
) -> None:
    """Of two devices of one node, of which one is leased by a share."""
    (one, _) = await probed(stage)
    await change(stage, one, leased=leased)
    async with stage.database.write() as session:
        await session.execute(update(FlavorRow).where(FlavorRow.name == "gpu").values(devices=devices or 0))
    await telemetry.reconcile()
    (sample,) = told(telemetry, PLATFORM, WHOLE)
    assert sample["fragmentation"] == expected


async def test_a_history_that_cannot_be_written_costs_samples_and_nothing_else(
    stage: Stage, telemetry: Telemetry
) -> None:
    folder = telemetry.store.path.parent
    (one, _) = await probed(stage)
    await telemetry.reconcile()
    telemetry.store.close()
    shutil.rmtree(folder)
    for lost in (1, 2):
        stage.clock.advance(10)
        await probed(stage)
        status = await telemetry.reconcile()
        assert status.lost == lost
        assert status.failure is not None
    folder.mkdir()
    stage.clock.advance(10)
    await probed(stage)
    status = await telemetry.reconcile()
    assert (status.lost, status.failure) == (2, None)
    assert len(told(telemetry, one, DEVICE)) == 1
