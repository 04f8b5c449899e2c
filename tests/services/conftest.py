"""The stage on which services are tested."""

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import appliance.app.schema  # noqa: F401 - every table, for the foreign keys
from appliance.kernel.clock import ManualClock
from appliance.kernel.db import Database
from tests.services.stage import Stage, set_stage
from tests.support import ports


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def home() -> Iterator[Path]:
    """With a short name: pytest's own folders are too deep for the sockets of engines."""
    with tempfile.TemporaryDirectory(prefix="stage") as folder:
        yield Path(folder)


@pytest.fixture
async def stage(database: Database, clock: ManualClock, home: Path) -> AsyncIterator[Stage]:
    stage = await set_stage(database, clock, home, ports.free_ports(16).start)
    yield stage
    stage.launcher.may_start.set()
    await stage.reconciler.close()
    await stage.launcher.close()
