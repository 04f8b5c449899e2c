"""What is told of devices now, and how it is shown."""

from msgspec import to_builtins

from appliance.cli.gpu import lines, screen
from appliance.kernel.pagination import PageRequest
from appliance.observe.present import DevicePresent, list_present
from appliance.services.states import ServiceState
from gpu.states import DeviceState
from tests.observe.test_recorder import change, probed
from tests.services.stage import GIB, Stage


async def present(stage: Stage) -> list[DevicePresent]:
    async with stage.database.read() as session:
        found = (await list_present(session, PageRequest())).items
    return sorted(found, key=lambda device: device.index)


def shown(devices: list[DevicePresent]) -> list[str]:
    return list(screen([to_builtins(device) for device in devices]))


async def test_a_device_is_told_with_who_holds_it(stage: Stage) -> None:
    service_id = await stage.create("chat", flavor="gpu")
    await stage.until(service_id, ServiceState.ready)
    (replica,) = await stage.replicas(service_id)
    await probed(
        stage, memory_used_bytes=70 * GIB, memory_foreign_bytes=0, gauges={"utilisation_percent": 93, "power_w": 402.35}
    )
    devices = await present(stage)
    (held,) = [device for device in devices if device.holders]
    (free,) = [device for device in devices if not device.holders]
    (holder,) = held.holders
    assert (holder.tenant, holder.service, holder.replica_id, holder.share) == ("acme", "chat", replica.id, 100)
    assert (held.memory_claimed_bytes, free.memory_claimed_bytes) == (80 * GIB, 0)
    lines = shown(devices)
    assert lines[0].startswith("devices 2  healthy 2  memory 140 GiB of 160 GiB")
    (line,) = [line for line in lines if replica.id in line]
    assert line.split() == [
        *("node-1", str(held.index), "H200", "93%", "70.0", "GiB", "80.0", "GiB", "0", "B", "80.0", "GiB", "-", "402W"),
        *("healthy", f"acme/chat/{replica.id}"),
    ]


async def test_what_is_stale_simulated_or_cordoned_says_so(stage: Stage) -> None:
    one, other = await probed(stage, gauges={"utilisation_percent": 50})
    await change(
        stage, one, state=DeviceState.stale.value, gauges=None, memory_used_bytes=None, model="H200 (simulated)"
    )
    await change(stage, one, simulated=True)
    await change(stage, other, cordoned="a new fan")
    first, second = shown(await present(stage))[-2:]
    assert "stale" in first
    assert "(simulated)" in first
    assert "50%" not in first
    assert "healthy, cordoned" in second
    assert "(1 simulated)" in shown(await present(stage))[0]


def test_without_devices_it_says_so() -> None:
    assert shown([])[-1] == "no devices"


def test_a_history_is_a_table_of_its_gauges() -> None:
    gauges = [
        {"name": "utilisation", "unit": "percent", "mean": [12.5, None], "peak": [80, None]},
        {"name": "memory_used", "unit": "bytes", "mean": [3 * GIB, None], "peak": [None, None]},
        {"name": "replicas", "unit": "replicas", "mean": [1234, 2], "peak": [1234, 2]},
    ]
    rows, columns = lines({"times": ["12:00", "12:01"], "gauges": gauges})
    assert [heading for heading, _ in columns] == ["AT", "UTILISATION", "PEAK", "MEMORY USED", "REPLICAS"]
    assert [[row[member] for _, member in columns] for row in rows] == [
        ["12:00", "12.5%", "80%", "3.0 GiB", "1234"],
        ["12:01", "-", "-", "-", "2"],
    ]
