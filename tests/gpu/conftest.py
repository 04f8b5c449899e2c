import pytest

from appliance.kernel.clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()
