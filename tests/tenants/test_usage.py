from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import select

from appliance.kernel.clock import ManualClock
from appliance.kernel.db import Database
from appliance.kernel.errors import BadInput
from appliance.kernel.ids import TenantId
from appliance.kernel.pagination import PageRequest
from tenants import keys, periods, usage
from tenants.permissions import Role
from tenants.schemas import NewKey
from tenants.usage_schemas import Grouping, UsageFilter
from tenants.usage_tables import LatencyRow
from tenants.work import Work
from tests.tenants.conftest import WorkAs, acting
from tests.tenants.support import no_services

ACME, OTHER = TenantId("ten_acme"), TenantId("ten_other")
DAY = datetime(2026, 3, 28, tzinfo=UTC)


def record(number: int, at: datetime, **members: Any) -> dict[str, Any]:
    """As the spool delivers it."""
    return {
        "type": "usage",
        "record_id": f"rec-{number:06d}",
        "request_id": f"req-{number}",
        "at": at.timestamp(),
        "tenant_id": ACME,
        "key_id": "key_1",
        "service_id": "svc_1",
        "deployment_id": "dep_1",
        "replica_id": "rpl_1",
        "route": "/v1/chat/completions",
        "model": "chat",
        "status": 200,
        "outcome": "completed",
        "prompt_tokens": 10,
        "completion_tokens": 5,
        **members,
    }


async def _insert(database: Database, *records: dict[str, Any]) -> int:
    async with database.write() as session:
        return await usage.insert_usage(session, records)


def _between(since: datetime, until: datetime, **members: Any) -> UsageFilter:
    return usage.filter_of(until, since, until, **members)


async def test_each_record_counts_once(database: Database, work_as: WorkAs):
    records = [record(number, DAY) for number in range(2500)]
    assert await _insert(database, *records[:1500]) == 1500
    assert await _insert(database, *records) == 1000
    assert await _insert(database, *records) == 0
    assert await _insert(database) == 0
    async with work_as(acting(Role.viewer, ACME)) as work:
        (total,) = (await usage.report(work, _between(DAY, DAY + timedelta(days=1)), [], "UTC")).items
    assert (total.requests, total.prompt_tokens, total.completion_tokens) == (2500, 25_000, 12_500)


def rollup(number: int, at: datetime, **members: Any) -> dict[str, Any]:
    """The sums of ten requests, as `UsageRollup` has them."""
    return {
        "record_id": f"sum-{number:06d}",
        "at": at.timestamp(),
        "span_s": 60,
        "tenant_id": ACME,
        "key_id": "key_1",
        "service_id": "svc_1",
        "model": "chat",
        "requests": 10,
        "failed": 2,
        "cut": 1,
        "estimated": 3,
        "prompt_tokens": 100,
        "completion_tokens": 50,
        "tail_tokens": 4,
        "bytes_in": 1,
        "bytes_out": 1,
        "duration_ms": 1.0,
        "queue_ms": 0.0,
        **members,
    }


async def test_what_was_rolled_up_counts_like_what_was_not(database: Database, work_as: WorkAs):
    rolled = [
        rollup(1, DAY),
        rollup(2, DAY + timedelta(days=1)),
        rollup(3, DAY, tenant_id=OTHER),
        rollup(4, DAY, key_id="key_2", model="other"),
    ]
    for expected in (4, 0):
        async with database.write() as session:
            assert await usage.insert_rollups(session, rolled) == expected
    await _insert(database, record(1, DAY), record(2, DAY, status=500, estimated=True))
    async with work_as(acting(Role.viewer, ACME)) as work:
        (total,) = (await usage.report(work, _between(DAY, DAY + timedelta(days=1)), [], "UTC")).items
        by_key = (await usage.report(work, _between(DAY, DAY + timedelta(days=2)), [Grouping.key], "UTC")).items
        by_day = (await usage.report(work, _between(DAY, DAY + timedelta(days=2)), [Grouping.day], "UTC")).items
    assert (total.requests, total.failed, total.estimated, total.tail_tokens) == (22, 5, 7, 8)
    assert (total.prompt_tokens, total.completion_tokens) == (220, 110)
    assert {item.key_id: item.requests for item in by_key} == {"key_1": 22, "key_2": 10}
    assert [item.requests for item in by_day] == [22, 10]


async def test_latencies_are_kept_a_week(database: Database):
    histogram = {"buckets": {"3": 7}, "sum_s": 0.5}
    latencies = [
        {
            "record_id": f"latency-{days}",
            "at": (DAY - timedelta(days=days)).timestamp(),
            "span_s": 60,
            "tenant_id": ACME,
            "service_id": "svc_1",
            "deployment_id": "dep_1",
            "requests": 7,
            "failed": 0,
            "prompt_tokens": 1,
            "completion_tokens": 1,
            **dict.fromkeys(("duration", "queue", "first_token", "inter_token"), histogram),
        }
        for days in (0, 6, 8)
    ]
    for expected in (3, 0):
        async with database.write() as session:
            assert await usage.insert_latencies(session, latencies) == expected
    async with database.write() as session:
        assert await usage.prune_latencies(session, DAY) == 1
    async with database.read() as session:
        rows = (await session.scalars(select(LatencyRow).order_by(LatencyRow.at))).all()
    assert [row.record_id for row in rows] == ["latency-6", "latency-0"]
    assert rows[0].first_token == histogram


async def test_an_odd_record_does_not_hold_up_the_others(database: Database):
    odd = record(1, DAY, model="m\0" * 1000, request_id="r" * 1000, ttft_ms=None, estimated=True)
    assert await _insert(database, odd, record(2, DAY)) == 2


async def test_a_record_is_a_use_of_its_key(database: Database, work_as: WorkAs, acme: TenantId):
    async with work_as(acting(Role.developer, acme)) as work:
        key = (await keys.create_key(work, NewKey(name="ci"), no_services)).key
    later = DAY + timedelta(hours=1)
    await _insert(database, record(1, later, key_id=key.id), record(2, DAY, key_id=key.id), record(3, DAY, key_id=""))
    async with work_as(acting(Role.viewer, acme)) as work:
        assert (await keys.get_key(work, key.id)).last_used_at == later


async def test_totals_by_every_column(database: Database, work_as: WorkAs):
    await _insert(
        database,
        record(1, DAY),
        record(2, DAY, key_id="key_2", status=429, prompt_tokens=0, completion_tokens=0),
        record(3, DAY, service_id="svc_2", estimated=True, tail_tokens=3),
        record(4, DAY, tenant_id=OTHER, model="secret"),
    )
    wanted = _between(DAY, DAY + timedelta(days=1))
    async with work_as(acting(Role.viewer, ACME)) as work:
        by_key = (await usage.report(work, wanted, [Grouping.key], "UTC")).items
        assert [(total.key_id, total.requests, total.failed) for total in by_key] == [("key_1", 2, 0), ("key_2", 1, 1)]
        by_service = (await usage.report(work, wanted, [Grouping.service], "UTC")).items
        assert {(total.service_id, total.estimated, total.tail_tokens) for total in by_service} == {
            ("svc_1", 0, 0),
            ("svc_2", 1, 3),
        }
        assert [total.model for total in (await usage.report(work, wanted, [Grouping.model], "UTC")).items] == ["chat"]
        both = (await usage.report(work, wanted, [Grouping.key, Grouping.service], "UTC")).items
        assert len(both) == 3
        narrowed = _between(DAY, DAY + timedelta(days=1), service_id="svc_2")
        assert [total.requests for total in (await usage.report(work, narrowed, [], "UTC")).items] == [1]
    async with work_as(acting(Role.platform_admin, TenantId(""))) as work:
        assert (await usage.report(work, wanted, [Grouping.tenant], "UTC")).items == []
        everything = Work(work.session, acting(Role.platform_admin, None), work.clock)  # type: ignore[arg-type]
        by_tenant = (await usage.report(everything, wanted, [Grouping.tenant], "UTC")).items
        assert {total.tenant_id: total.requests for total in by_tenant} == {ACME: 3, OTHER: 1}


async def test_days_are_those_of_the_time_zone(database: Database, work_as: WorkAs):
    """On 29 March 2026 Berlin's clocks go forward: that day has 23 hours."""
    berlin = ZoneInfo("Europe/Berlin")
    instants = [
        datetime(2026, 3, 28, 23, 59, tzinfo=berlin),
        datetime(2026, 3, 29, 0, 0, tzinfo=berlin),
        datetime(2026, 3, 29, 23, 59, 59, tzinfo=berlin),
        datetime(2026, 3, 30, 0, 0, tzinfo=berlin),
    ]
    await _insert(database, *(record(number, at) for number, at in enumerate(instants)))
    wanted = _between(instants[0], instants[-1] + timedelta(seconds=1))
    async with work_as(acting(Role.viewer, ACME)) as work:
        items = (await usage.report(work, wanted, [Grouping.day], "Europe/Berlin")).items
        hours = (await usage.report(work, wanted, [Grouping.hour, Grouping.key], "Europe/Berlin")).items
    assert [(item.period and item.period.date().day, item.requests) for item in items] == [(28, 1), (29, 2), (30, 1)]
    assert [item.period for item in items][1] == datetime(2026, 3, 29, tzinfo=berlin)
    assert [item.requests for item in hours] == [1, 1, 1, 1]


def test_a_day_may_have_23_or_25_hours():
    berlin = periods.zone("Europe/Berlin")
    for day, hours in ((datetime(2026, 3, 29, 12, tzinfo=UTC), 23), (datetime(2026, 10, 25, 12, tzinfo=UTC), 25)):
        ((begins, ends),) = periods.days(day, day + timedelta(hours=1), berlin)
        assert (ends - begins) == timedelta(hours=hours)


def test_hours_are_those_that_clocks_show():
    ((begins, ends),) = periods.hours(DAY, DAY + timedelta(minutes=1), periods.zone("Asia/Kathmandu"))
    assert (begins.minute, ends - begins) == (15, timedelta(hours=1))


@pytest.mark.parametrize("name", ["", "Nowhere", "../../etc/passwd", "/etc/passwd", "Europe", "a\0b"])
def test_other_time_zones_are_refused(name: str):
    with pytest.raises(BadInput, match="no time zone"):
        periods.zone(name)


def test_too_many_periods_are_refused():
    with pytest.raises(BadInput, match="more than 1000 periods"):
        periods.hours(DAY, DAY + timedelta(days=42), UTC)


def test_a_filter_needs_an_order_and_a_zone(clock: ManualClock):
    with pytest.raises(BadInput, match="must be before"):
        usage.filter_of(clock.now(), DAY, DAY)
    with pytest.raises(BadInput, match="needs a time zone"):
        usage.filter_of(clock.now(), datetime(2026, 1, 1), None)  # noqa: DTZ001
    assert usage.filter_of(DAY, None, None).since == DAY - timedelta(days=30)


async def test_hour_and_day_exclude_each_other(work_as: WorkAs):
    async with work_as(acting(Role.viewer, ACME)) as work:
        with pytest.raises(BadInput, match="not by both"):
            await usage.report(work, _between(DAY, DAY + timedelta(days=1)), [Grouping.hour, Grouping.day], "UTC")


async def test_records_are_paged_latest_first(database: Database, work_as: WorkAs):
    """Several at the same instant, so that the id decides."""
    await _insert(database, *(record(number, DAY + timedelta(seconds=number // 3)) for number in range(10)))
    await _insert(database, record(10, DAY, tenant_id=OTHER))
    wanted, page, seen = _between(DAY, DAY + timedelta(days=1)), PageRequest(4), []
    async with work_as(acting(Role.viewer, ACME)) as work:
        while True:
            answer = await usage.list_records(work, wanted, page)
            seen += [entry.record_id for entry in answer.items]
            if answer.next_cursor is None:
                break
            page = PageRequest(4, answer.next_cursor)
        with pytest.raises(BadInput, match="was not made by this list"):
            await usage.list_records(work, wanted, PageRequest(4, "c3ZjXzE="))
    assert seen == [f"rec-{number:06d}" for number in reversed(range(10))]
