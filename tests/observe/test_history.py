"""Spans, steps, means and peaks, over HTTP too."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.api.context import Context, Port
from appliance.kernel.clock import ManualClock
from appliance.kernel.errors import BadInput
from appliance.kernel.settings import load
from appliance.observe import history
from appliance.observe.errors import HistoryUnavailable
from appliance.observe.recorder import Telemetry
from appliance.observe.store import Kind, Store
from tenants import keys
from tenants.actors import system
from tenants.permissions import Permission
from tenants.quotas import Resource
from tenants.schemas import NewKey
from tenants.tables import QuotaRow
from tenants.work import Work
from tests.observe.test_recorder import probed
from tests.services.stage import GIB, Stage
from tests.support.apps import application

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
AT = int(NOW.timestamp())


def span(seconds: int, *, until: int = 0, step: int | None = None) -> history.Span:
    """The `seconds` before `until` seconds ago."""
    end = NOW - timedelta(seconds=until)
    return history.span_of(NOW, end - timedelta(seconds=seconds), end, step, 10.0)


def test_a_step_is_chosen_that_gives_a_few_hundred_values() -> None:
    assert (span(1800).step, span(1800).kind) == (10, Kind.raw)
    assert (span(3600).step, span(3600).kind) == (60, Kind.minutes)
    assert span(86_400).step == 900
    assert span(30 * 86_400).step == 6 * 3600
    assert (span(600, until=2 * 86_400).step, span(600, until=2 * 86_400).kind) == (60, Kind.minutes)
    assert span(3600, step=10).kind is Kind.raw
    assert span(3601, step=60).since % 60 == 0


@pytest.mark.parametrize(("seconds", "until", "step"), [(3600, 0, 5), (3600, 2 * 86_400, 30), (86_400, 0, 10)])
def test_what_there_is_no_resolution_for_or_is_too_much_is_refused(seconds: int, until: int, step: int) -> None:
    with pytest.raises(BadInput):
        span(seconds, until=until, step=step)


VALUE = st.none() | st.integers(0, 100)


@given(st.dictionaries(st.integers(-1800, -1), VALUE, max_size=60), st.sampled_from([10, 30, 60, 300]))
def test_each_step_has_the_mean_and_peak_of_its_samples(samples: dict[int, int | None], step: int) -> None:
    store = Store(Path(":memory:"), most_bytes=0)
    for at, value in samples.items():
        store.append(AT + at, {"dev_1": [value, None, None, None, None, None]})
    store.keep_house(AT)
    found = history.read(store, "dev_1", span(1800, step=step), 10.0)
    store.close()
    known: dict[int, list[int]] = {}
    for at, value in samples.items():
        known.setdefault((AT + at) - (AT + at) % step, []).extend([] if value is None else [value])
    assert [int(at.timestamp()) for at in found.times] == sorted(known)
    (utilisation, *others) = found.gauges
    for at, mean, peak in zip(sorted(known), utilisation.mean, utilisation.peak, strict=True):
        values = known[at]
        assert peak == (max(values) if values else None)
        # Minutes keep their mean as a whole number.
        assert mean == (pytest.approx(sum(values) / len(values), abs=0.51) if values else None)
    assert all(set(other.mean) | set(other.peak) <= {None} for other in others)


def test_devices_together_are_added_up_or_averaged(tmp_path: Path) -> None:
    store = Store(tmp_path / "telemetry.sqlite", most_bytes=0)
    store.append(AT - 100, {"dev_1": [50, GIB, 0, 0, 40, 1000], "dev_2": [100, 2 * GIB, None, 0, 60, 500]})
    store.append(AT - 50, {"dev_2": [100, 2 * GIB, None, 0, 60, 500]})
    found = history.read_sum(store, ["dev_1", "dev_2", "dev_3"], span(1800), 10.0)
    store.close()
    means = {gauge.name: gauge.mean for gauge in found.gauges}
    assert means["utilisation"] == [75, 100]
    assert means["memory_used"] == [3 * GIB, 2 * GIB]
    assert means["memory_foreign"] == [0, None]
    assert means["power"] == [150, 50]


def test_a_history_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    store = Store(tmp_path / "missing" / "telemetry.sqlite", most_bytes=0)
    with pytest.raises(HistoryUnavailable):
        history.read(store, "dev_1", span(1800), 10.0)


class _Parts:
    """What the routes of the history reach."""

    sightings: None = None

    def __init__(self, store: Store) -> None:
        self.telemetry = store

    @property
    def tenancy(self) -> "_Parts":
        return self


async def _client(stage: Stage, telemetry: Telemetry, port: Port) -> httpx.AsyncClient:
    async def none(*_: object) -> list[str]:
        return []

    async with stage.database.write() as session:
        if port is Port.admin:
            new = await keys.create_platform_key(
                Work(session, system("test"), stage.clock), NewKey("root", list(Permission))
            )
        else:
            session.add(QuotaRow(scope=stage.tenant_id, resource=Resource.keys.value, used=0, quota_limit=1))
            await session.flush()
            work = Work(session, system("test", stage.tenant_id), stage.clock)
            new = await keys.create_key(work, NewKey("app", [Permission.usage_read]), none)
    nothing = cast("Any", None)
    context = Context(port, load({}), stage.database, stage.clock, nothing, cast("Any", _Parts(telemetry.store)))
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(cast("Any", application(context))),
        base_url="https://appliance.test",
        headers={"Authorization": f"Bearer {new.secret}"},
    )


@pytest.fixture
async def admin(stage: Stage, telemetry: Telemetry) -> AsyncIterator[httpx.AsyncClient]:
    async with await _client(stage, telemetry, Port.admin) as client:
        yield client


@pytest.fixture
async def tenant(stage: Stage, telemetry: Telemetry) -> AsyncIterator[httpx.AsyncClient]:
    async with await _client(stage, telemetry, Port.tenant) as client:
        yield client


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


async def test_an_administrator_sees_devices_nodes_and_the_platform(
    stage: Stage, telemetry: Telemetry, admin: httpx.AsyncClient
) -> None:
    (one, _) = await probed(stage, gauges={"utilisation_percent": 80})
    await telemetry.reconcile()
    stage.clock.advance(5)
    for path, gauge, mean in (
        (f"telemetry/devices/{one}", "utilisation", 80),
        ("telemetry/nodes/node-1", "utilisation", 80),
        ("telemetry/platform", "free", 2),
    ):
        answer = await admin.get(f"/api/v1/{path}?since=2026-11-21T11:50:00Z")
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert found["times"] == ["2026-11-21T12:00:00Z"]
        assert (found["step_s"], found["resolution_s"]) == (5, 5)
        (told,) = [each for each in found["gauges"] if each["name"] == gauge]
        assert told["mean"] == [mean]
    assert (await admin.get("/api/v1/telemetry/devices/dev_none")).status_code == 404
    assert (await admin.get("/api/v1/telemetry/platform?step=1")).status_code == 400
    assert (await admin.get("/api/v1/telemetry/tenant")).status_code == 400, "of which tenant?"


async def test_a_tenant_sees_its_own_and_nothing_of_the_machines(
    stage: Stage, telemetry: Telemetry, tenant: httpx.AsyncClient
) -> None:
    (one, _) = await probed(stage)
    await telemetry.reconcile()
    stage.clock.advance(5)
    answer = await tenant.get("/api/v1/telemetry/tenant")
    assert answer.status_code == 200, answer.text
    assert [each["name"] for each in answer.json()["gauges"]] == ["devices", "memory_claimed", "replicas"]
    for path in (f"devices/{one}", "nodes/node-1", "platform"):
        assert (await tenant.get(f"/api/v1/telemetry/{path}")).status_code == 404
