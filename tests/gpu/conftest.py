from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.kernel.clock import ManualClock
from tests.gpu.stub.host import SimulatedHost
from tests.gpu.stub.library import NoCompiler, install


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def simulation(tmp_path: Path) -> Callable[[SimulatedHost], Path]:
    """Makes a folder that stands for a host's devices, with the stub libraries in it."""

    def make(host: SimulatedHost) -> Path:
        folder = tmp_path / host.name
        host.write(folder)
        try:
            install(folder)
        except NoCompiler as error:
            pytest.skip(str(error))
        return folder

    return make
