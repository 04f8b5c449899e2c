"""What a worker counts: bounded, told by the minute, and forgotten once it has left the snapshot."""

from collections.abc import Callable

from appliance.gateway.plane import wire
from appliance.gateway.plane.exposition import exposition
from appliance.gateway.plane.metrics import MAX_DEPLOYMENTS, Known
from tests.plane.parts import shard, tables
from tests.plane.records import metrics_of, record


def knowing(deployments: set[str], tenants: set[str]) -> Callable[[], Known]:
    return lambda: Known(deployments, tenants)


def test_series_are_bounded() -> None:
    metrics = metrics_of()
    for number in range(2 * MAX_DEPLOYMENTS):
        metrics.observe(record(number, deployment_id=f"dep_{number}", tenant_id=f"ten_{number}"), "ten_1")
    assert len(metrics.deployments) <= MAX_DEPLOYMENTS + 1
    assert len(metrics.tenants) <= MAX_DEPLOYMENTS + 1
    assert sum(sums[0] for sums in metrics.tenants.values()) == 2 * MAX_DEPLOYMENTS


def test_minutes_add_up_to_what_is_exposed() -> None:
    metrics = metrics_of(known=knowing({"dep_1"}, {"ten_1"}))
    assert metrics.take_minute(59.0) == []
    metrics.observe(record(1, duration_ms=10.0, prompt_tokens=3), "ten_1")
    (first,) = metrics.take_minute(60.0)
    metrics.observe(record(2, duration_ms=20.0, prompt_tokens=4, status=503), "ten_1")
    assert metrics.take_minute(119.0) == []
    (second,) = metrics.take_minute(120.0)
    assert metrics.take_minute(180.0) == []
    assert [(each.at, each.requests, each.failed, each.prompt_tokens) for each in (first, second)] == [
        (0.0, 1, 0, 3),
        (60.0, 1, 1, 4),
    ]
    (deployment,) = metrics.deployments.values()
    assert deployment.latencies().duration.count == 2


def test_what_left_the_snapshot_is_forgotten_after_a_quiet_minute() -> None:
    deployments, tenants = {"dep_stays", "dep_goes"}, {"ten_stays", "ten_goes"}
    metrics = metrics_of(known=knowing(deployments, tenants))
    metrics.take_minute(0.0)
    for name in ("stays", "goes"):
        metrics.observe(record(1, deployment_id=f"dep_{name}", tenant_id=f"ten_{name}"), "ten_1")
    deployments.remove("dep_goes")
    tenants.remove("ten_goes")

    taken = metrics.take_minute(60.0)

    assert {each.deployment_id for each in taken} == {"dep_stays", "dep_goes"}
    assert 'deployment="dep_goes"' in exposition(metrics)  # its last counts can still be scraped
    assert metrics.take_minute(120.0) == []
    assert {series.deployment for series in metrics.deployments} == {"dep_stays"}
    assert set(metrics.tenants) == {"ten_stays"}
    assert "goes" not in exposition(metrics)


def test_counts_of_what_stays_only_grow() -> None:
    metrics = metrics_of(known=knowing({"dep_1"}, {"ten_1"}))
    for minute in range(5):
        metrics.take_minute(60.0 * minute)
        if minute % 2 == 0:
            metrics.observe(record(minute), "ten_1")
    (deployment,) = metrics.deployments.values()
    assert deployment.outcomes == {(200, "completed"): 3}
    assert metrics.tenants["ten_1"][0] == 3


def test_one_that_ends_its_last_requests_is_still_counted() -> None:
    metrics = metrics_of()
    for minute in range(4):
        metrics.take_minute(60.0 * minute)
        metrics.observe(record(minute), "ten_1")
    (deployment,) = metrics.deployments.values()
    assert sum(deployment.outcomes.values()) == 4


def test_departed_make_room_for_others_while_the_rest_is_counted_together() -> None:
    living: set[str] = set()
    metrics = metrics_of(known=knowing(living, {"ten_1"}))
    metrics.take_minute(0.0)
    for number in range(MAX_DEPLOYMENTS + 1):
        metrics.observe(record(number, deployment_id=f"dep_{number}"), "ten_1")
    metrics.take_minute(60.0)
    metrics.take_minute(120.0)
    assert [series.deployment for series in metrics.deployments] == ["other"]
    metrics.observe(record(0, deployment_id="dep_new"), "ten_1")
    assert {series.deployment for series in metrics.deployments} == {"other", "dep_new"}


def test_a_snapshot_tells_its_deployments() -> None:
    deployments = [wire.Deployment(f"dep_{number}", f"d{number}", 1, []) for number in range(2)]
    assert tables(shard(deployments=deployments)).deployment_ids() == {"dep_0", "dep_1"}
