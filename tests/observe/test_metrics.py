"""What Prometheus is told of who holds devices."""

from appliance.observe.metrics import exposition
from appliance.observe.recorder import Telemetry
from appliance.services.states import ServiceState
from tests.observe.test_recorder import probed
from tests.services.stage import Stage


async def told(stage: Stage, telemetry: Telemetry) -> dict[str, float]:
    async with stage.database.read() as session:
        text = (await exposition(session, telemetry)).decode()
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


async def test_holdings_fragmentation_and_the_file_are_told(stage: Stage, telemetry: Telemetry) -> None:
    before = await told(stage, telemetry)
    assert "appliance_devices_free" not in before, "nothing is guessed before the first round"
    await stage.until(await stage.create("chat", flavor="gpu"), ServiceState.ready)
    await probed(stage)
    await telemetry.reconcile()
    telemetry.lost = 3
    now = await told(stage, telemetry)
    assert now['appliance_leased_devices{service="chat",tenant="acme"}'] == 1
    assert now["appliance_devices_free"] == 1
    assert now["appliance_devices_fragmentation_percent"] == 0
    assert now["appliance_telemetry_bytes"] == telemetry.store.size() > 0
    assert now["appliance_telemetry_lost_rounds_total"] == 3
