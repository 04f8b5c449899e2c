"""The stage of the tests of services, and a history."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.observe.recorder import Telemetry
from appliance.observe.store import Store
from tests.services.conftest import clock, home, stage  # noqa: F401 - fixtures
from tests.services.stage import Stage


@pytest.fixture
def telemetry(stage: Stage, tmp_path: Path) -> Iterator[Telemetry]:  # noqa: F811 - the fixture
    store = Store(tmp_path / "history" / "telemetry.sqlite", most_bytes=64 << 20)
    store.path.parent.mkdir()
    yield Telemetry(stage.database, stage.clock, store)
    store.close()
