"""Device time: exact from begin to end of each lease, whenever it is metered and whatever is interrupted."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func, select

from appliance.kernel.db import Database
from appliance.kernel.errors import BadInput
from appliance.kernel.ids import TenantId
from appliance.services import metering
from appliance.services.device_time import DeviceGrouping, DeviceTimeFilter, report
from appliance.services.metering_tables import DeviceMeterRow, DeviceUsageRow
from appliance.services.shutdown import stop_all
from appliance.services.states import ServiceState
from gpu.tables import DeviceLeaseRow
from tests.services.stage import Stage


async def used(stage: Stage) -> int:
    """Percent of devices times milliseconds, of all."""
    async with stage.database.read() as session:
        return int(await session.scalar(select(func.coalesce(func.sum(DeviceUsageRow.percent_ms), 0))) or 0)


async def running(stage: Stage, replicas: int = 1) -> str:
    service_id = await stage.create(flavor="gpu", replicas=replicas)
    await stage.until(service_id, ServiceState.ready)
    return service_id


def expected(stage: Stage, begins: Sequence[datetime]) -> int:
    """Of whole devices, held from then until now."""
    return sum(100 * ((stage.clock.now() - begin) // timedelta(milliseconds=1)) for begin in begins)


async def held_since(stage: Stage) -> Sequence[datetime]:
    async with stage.database.read() as session:
        return (await session.scalars(select(DeviceLeaseRow.taken_at))).all()


def metered(stage: Stage) -> metering.Metering:
    return metering.Metering(stage.machinery.guarded, stage.clock)


async def test_a_lease_counts_from_its_begin_to_its_release(stage: Stage) -> None:
    service_id = await running(stage, 2)
    begins = await held_since(stage)
    for seconds in (1.5, 60.0, 3 * 3600.0, 0.25):
        stage.clock.advance(seconds)
        assert (await metered(stage).reconcile()).replicas == 2
        await metered(stage).reconcile()  # once more at the same time adds nothing
        assert await used(stage) == expected(stage, begins)
    stage.clock.advance(7)
    await stage.delete(service_id)
    await stage.until_forgotten(service_id)
    total = await used(stage)
    assert total >= sum(100_000 * (3 * 3600 + 68) for _ in begins)
    stage.clock.advance(3600)
    await metered(stage).reconcile()
    assert await used(stage) == total, "what was given back is not metered any more"
    async with stage.database.read() as session:
        assert (await session.scalars(select(DeviceMeterRow))).all() == []


async def test_what_was_held_while_the_control_plane_was_away_falls_into_its_hours(stage: Stage) -> None:
    await running(stage)
    (begin,) = await held_since(stage)
    stage.clock.advance(5 * 3600)
    await metered(stage).reconcile()
    async with stage.database.read() as session:
        rows = (await session.scalars(select(DeviceUsageRow).order_by(DeviceUsageRow.hour))).all()
    assert len({row.hour for row in rows}) == len(rows) in (5, 6)
    assert {(row.tenant_id, row.vendor) for row in rows} == {(stage.tenant_id, "nvidia")}
    assert all(row.hour.minute == row.hour.second == 0 for row in rows)
    assert all(row.percent_ms == 360_000_000 for row in rows[1:-1])
    assert sum(row.percent_ms for row in rows) == expected(stage, [begin])


async def test_what_is_rolled_back_was_never_metered(stage: Stage) -> None:
    """As by a crash before the commit: the next round adds the same once."""
    await running(stage)
    stage.clock.advance(90)

    async def interrupted() -> None:
        async with stage.database.write() as session:
            await metering.settle(session, stage.clock)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await interrupted()
    assert await used(stage) == 0
    await metered(stage).reconcile()
    (begin,) = await held_since(stage)
    assert await used(stage) == expected(stage, [begin])


async def test_those_who_settle_at_once_count_it_once(stage: Stage) -> None:
    await running(stage, 2)
    stage.clock.advance(90)

    async def settle(database: Database) -> None:
        async with database.write() as session:
            await metering.settle(session, stage.clock)

    await asyncio.gather(*(settle(stage.database) for _ in range(8)))
    begins = await held_since(stage)
    assert await used(stage) == expected(stage, begins)


async def test_a_clock_that_is_set_back_adds_nothing_until_it_has_caught_up(stage: Stage) -> None:
    await running(stage)
    stage.clock.advance(600)
    await metered(stage).reconcile()
    before = await used(stage)
    stage.clock.advance(-300)
    await metered(stage).reconcile()
    assert await used(stage) == before
    stage.clock.advance(301)
    await metered(stage).reconcile()
    assert await used(stage) == before + 100_000


async def test_stopping_the_appliance_meters_to_the_end(stage: Stage) -> None:
    await running(stage, 2)
    begins = await held_since(stage)
    stage.clock.advance(30)
    await stop_all(stage.machinery, grace_s=1)
    assert await used(stage) == expected(stage, begins)
    assert await held_since(stage) == []


@given(
    st.integers(0, 10**16),
    st.lists(st.integers(1, 10_000_000_000), min_size=1, max_size=6),
)
def test_pieces_add_up_to_the_whole(begin: int, microseconds: list[int]) -> None:
    cuts = [datetime.fromtimestamp(0, UTC) + timedelta(microseconds=begin)]
    for size in microseconds:
        cuts.append(cuts[-1] + timedelta(microseconds=size))
    whole: dict[datetime, int] = dict(metering.hours(cuts[0], cuts[-1]))
    parts: dict[datetime, int] = {}
    for one, other in pairwise(cuts):
        for hour, milliseconds in metering.hours(one, other):
            assert hour.minute == hour.second == hour.microsecond == 0
            assert 0 < milliseconds <= 3_600_000
            parts[hour] = parts.get(hour, 0) + milliseconds
    assert parts == whole


def last_day(stage: Stage, **changes: Any) -> DeviceTimeFilter:
    now = stage.clock.now()
    return DeviceTimeFilter(since=now - timedelta(days=1), until=now + timedelta(hours=1), **changes)


async def test_totals_are_of_the_callers_tenant_and_add_up_however_they_are_grouped(stage: Stage) -> None:
    one, other = await running(stage), await stage.create("other", flavor="gpu")
    await stage.until(other, ServiceState.ready)
    stage.clock.advance(2 * 3600 + 30)
    await metered(stage).reconcile()
    async with stage.work() as work:
        (whole,) = (await report(work, last_day(stage), [], "UTC")).items
        services = (await report(work, last_day(stage), [DeviceGrouping.service], "UTC")).items
        hours = (await report(work, last_day(stage), [DeviceGrouping.hour, DeviceGrouping.model], "Asia/Tokyo")).items
        days = (await report(work, last_day(stage), [DeviceGrouping.day], "Europe/Berlin")).items
        (single,) = (await report(work, last_day(stage, service_id=one), [], "UTC")).items
    assert whole.device_seconds == await used(stage) / 100_000 > 4 * 3600
    assert {item.service_id for item in services} == {one, other}
    for items in (services, hours, days):
        assert sum(item.device_seconds for item in items) == pytest.approx(whole.device_seconds, abs=1e-6)
    assert all(item.period is not None and item.model for item in hours)
    assert single.device_seconds == next(item.device_seconds for item in services if item.service_id == one)
    async with stage.work_of(TenantId("ten_other")) as work:
        (nothing,) = (await report(work, last_day(stage), [], "UTC")).items
        assert nothing.device_seconds == 0
        assert (await report(work, last_day(stage), [DeviceGrouping.service], "UTC")).items == []
        with pytest.raises(BadInput):
            await report(work, last_day(stage), [DeviceGrouping.hour, DeviceGrouping.day], "UTC")
