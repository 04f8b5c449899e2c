"""Percentiles over the API: merged over workers, minutes and deployments, and each tenant's its own."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from appliance.gateway import latencies
from appliance.gateway.latencies import LatencyGrouping, Percentiles
from appliance.gateway.plane.wire import RELATIVE_ERROR, Histogram
from appliance.kernel.clock import ManualClock
from appliance.kernel.db import Database
from appliance.kernel.errors import BadInput
from appliance.kernel.ids import TenantId
from tenants.actors import Actor, ActorKind
from tenants.permissions import PERMISSIONS, Role
from tenants.usage import insert_latencies
from tenants.work import Work

NOW = datetime(2026, 3, 28, 12, tzinfo=UTC)
ACME, OTHER = TenantId("ten_acme"), TenantId("ten_other")


def stored(seconds: Sequence[float]) -> dict[str, Any]:
    histogram = Histogram()
    for duration in seconds:
        histogram.observe(duration)
    return {"buckets": {str(bucket): count for bucket, count in histogram.buckets.items()}, "sum_s": histogram.sum}


def record(number: int, seconds: Sequence[float], **members: Any) -> dict[str, Any]:
    """As one worker leaves it of one minute."""
    plain = {
        "record_id": f"lat_{number}",
        "at": (NOW - timedelta(minutes=1)).timestamp(),
        "span_s": 60,
        "tenant_id": ACME,
        "service_id": "svc_1",
        "deployment_id": "dep_1",
        "requests": len(seconds),
        "failed": 0,
        "duration": stored(seconds),
        "queue": None,
        "first_token": stored([]),
        "inter_token": stored([duration / 10 for duration in seconds]),
    }
    return plain | members


async def keep(database: Database, *records: dict[str, Any]) -> None:
    async with database.write() as session:
        await insert_latencies(session, records)


async def report(
    database: Database,
    tenant_id: TenantId | None = ACME,
    grouping: LatencyGrouping = LatencyGrouping.service,
    since: datetime | None = None,
    **chosen: str,
) -> latencies.LatencyReport:
    role = Role.viewer if tenant_id else Role.platform_admin
    actor = Actor(ActorKind.user, "usr_1", "ann", tenant_id, PERMISSIONS[role], "req_1")
    async with database.read() as session:
        work = Work(session, actor, ManualClock())
        return await latencies.report(work, latencies.filter_of(NOW, since, None, **chosen), grouping)


def exact(durations: Sequence[float], share: float) -> float:
    """Of the nearest rank, in milliseconds."""
    rank = max(-(-len(durations) * share // 1), 1)
    return 1000 * sorted(durations)[int(rank) - 1]


async def test_percentiles_of_all_workers_and_minutes_are_within_the_bound(database: Database) -> None:
    chosen = random.Random(1)
    parts = [[chosen.lognormvariate(-2, 1.5) for _ in range(chosen.randrange(1, 400))] for _ in range(12)]
    await keep(database, *(record(number, part) for number, part in enumerate(parts)))
    told = await report(database)
    (service,) = told.items
    whole = [duration for part in parts for duration in part]
    assert told.relative_error == RELATIVE_ERROR == 1 / 32
    assert (service.service_id, service.deployment_id, service.requests) == ("svc_1", None, len(whole))
    assert service.duration.count == len(whole)
    assert service.duration.mean_ms == pytest.approx(1000 * sum(whole) / len(whole), abs=0.001)
    for share, shown in ((0.5, "p50_ms"), (0.9, "p90_ms"), (0.95, "p95_ms"), (0.99, "p99_ms")):
        bound = pytest.approx(exact(whole, share), rel=told.relative_error, abs=0.001)
        assert getattr(service.duration, shown) == bound
    assert service.inter_token.p50_ms == pytest.approx(exact(whole, 0.5) / 10, rel=told.relative_error, abs=0.001)
    assert service.first_token == service.queue == Percentiles(0, None, None, None, None, None)


async def test_deployments_are_kept_apart_where_asked(database: Database) -> None:
    await keep(
        database,
        record(1, [0.1] * 99, failed=3),
        record(2, [1.0], deployment_id="dep_2"),
        record(3, [2.0], service_id="svc_2", deployment_id="dep_3"),
    )
    together = (await report(database)).items
    assert [(each.service_id, each.requests, each.failed) for each in together] == [("svc_1", 100, 3), ("svc_2", 1, 0)]
    apart = (await report(database, grouping=LatencyGrouping.deployment)).items
    assert [each.deployment_id for each in apart] == ["dep_1", "dep_2", "dep_3"]
    assert apart[1].duration.p50_ms == pytest.approx(1000, rel=RELATIVE_ERROR)
    (one,) = (await report(database, deployment_id="dep_2")).items
    assert one.requests == 1
    (other,) = (await report(database, service_id="svc_2")).items
    assert other.duration.p99_ms == pytest.approx(2000, rel=RELATIVE_ERROR)


async def test_a_tenant_is_told_of_its_own_services(database: Database) -> None:
    await keep(database, record(1, [0.1]), record(2, [0.2], tenant_id=OTHER, service_id="svc_2"))
    assert [each.service_id for each in (await report(database, ACME)).items] == ["svc_1"]
    assert (await report(database, ACME, service_id="svc_2")).items == []
    assert [each.service_id for each in (await report(database, None)).items] == ["svc_1", "svc_2"]


async def test_what_is_outside_the_time_does_not_count(database: Database) -> None:
    long_ago = NOW - timedelta(hours=2)
    await keep(
        database, record(1, [0.1]), record(2, [5.0], at=long_ago.timestamp()), record(3, [9.0], at=NOW.timestamp())
    )
    assert [each.requests for each in (await report(database)).items] == [1]
    assert [each.requests for each in (await report(database, since=long_ago)).items] == [2]
    with pytest.raises(BadInput, match="before until"):
        await report(database, since=NOW)


async def test_portions_are_added_up(database: Database) -> None:
    await keep(database, *(record(number, [0.001 * number]) for number in range(1, 1202)))
    (service,) = (await report(database)).items
    assert (service.requests, service.duration.count) == (1201, 1201)
    assert service.duration.p50_ms == pytest.approx(601, rel=RELATIVE_ERROR)
