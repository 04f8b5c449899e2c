"""`kill -9` of the control plane at each step of its start and of a service's start, update and delete."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.support import crashing
from tests.support.appliance import Appliance, Tenant, running
from tests.support.crashing import Crasher

SAMPLE: Final = 8
SEED: Final = 20_261
"""`make campaign` runs all points on every combination."""


@pytest.mark.timeout(1800)
def test_every_crash_point_converges(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    with _under_traffic(tmp_path) as (appliance, crasher):
        points = crasher.discover()
        assert len(points) > 40, points
        missed = [str(point) for point in crasher.die_at_each(points)]
        record_property("crash_points", len(points))
        record_property("missed", missed)
        print(f"{len(points)} crash points, {len(missed)} not reached again: {missed}")  # noqa: T201
        assert len(missed) <= len(points) // 5, missed
        assert appliance.engines() == 1


@pytest.mark.timeout(600)
@pytest.mark.docker
@pytest.mark.postgres
def test_a_sample_with_containers_on_postgresql(
    tmp_path: Path, on_docker: Mapping[str, str], postgres_url: str
) -> None:
    _dies_at_a_sample(tmp_path, {**on_docker, "APPLIANCE_DATABASE_URL": postgres_url})


@pytest.mark.timeout(600)
@pytest.mark.postgres
def test_a_sample_on_postgresql(tmp_path: Path, postgres_url: str) -> None:
    _dies_at_a_sample(tmp_path, {"APPLIANCE_DATABASE_URL": postgres_url})


def _dies_at_a_sample(folder: Path, environ: Mapping[str, str]) -> None:
    with _under_traffic(folder, **environ) as (appliance, crasher):
        points = crashing.sample(crasher.discover(), SAMPLE, SEED)
        missed = [str(point) for point in crasher.die_at_each(points)]
        print(f"{[str(point) for point in points]}, not reached again: {missed}")  # noqa: T201
        assert len(missed) <= SAMPLE // 4, missed
        assert appliance.engines() == 1


@contextmanager
def _under_traffic(folder: Path, **environ: str) -> Iterator[tuple[Appliance, Crasher]]:
    """An appliance with a service that is asked all the time, without a failure."""
    with running(**Crasher.environ(folder), **environ) as appliance:
        tenant = Tenant.create(appliance)
        tenant.publish("steady")
        url = tenant.until("steady", "ready")["url"]
        with crashing.steady_traffic(url, tenant.known_key(url), "steady") as failures:
            yield appliance, Crasher(appliance, tenant, folder)
        assert not failures, failures[:5]
