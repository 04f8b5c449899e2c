"""`kill -9` of the control plane at each step of a service's start, update and delete."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import crashing
from tests.support.appliance import Appliance, Tenant, running


@pytest.mark.timeout(1800)
def test_every_crash_point_converges(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    with running() as appliance:
        tenant = Tenant.create(appliance)
        tenant.publish("steady")
        service = tenant.until("steady", "ready")
        points = crashing.discover(appliance, tenant, tmp_path / "trace")
        assert len(points) > 20, points
        key = tenant.known_key(service["url"])
        with crashing.steady_traffic(service["url"], key, "steady") as failures:
            missed = [point for n, point in enumerate(points) if not _dies(appliance, tenant, point, n)]
        assert not failures
        record_property("crash_points", len(points))
        record_property("missed", missed)
        print(f"{len(points)} crash points, {len(missed)} not reached again: {missed}")  # noqa: T201
        assert len(missed) <= len(points) // 5, missed
        _only_steady_is_left(appliance)


def _dies(appliance: Appliance, tenant: Tenant, point: str, number: int) -> bool:
    return crashing.die_at(appliance, tenant, [point], f"life-{number}")


def _only_steady_is_left(appliance: Appliance) -> None:
    engines = [line for line in appliance.processes() if "light_engine" in line]
    assert len(engines) == 1, engines
