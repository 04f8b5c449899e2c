from pathlib import Path

import pytest

from appliance.runtimes.catalog import RuntimeSpec
from tests.runtimes.specs import light


@pytest.fixture
def runtime(tmp_path: Path) -> RuntimeSpec:
    return light(tmp_path / "light")
