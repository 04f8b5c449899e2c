"""The probe against children that answer, fail, talk nonsense or hang; there is hardware as far as it can see."""

import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gpu.probe import Probe, VendorProbe
from gpu.states import Vendor
from tests.gpu.stub.catalog import mixed_host
from tests.gpu.stub.host import SimulatedHost
from tests.support.waiting import eventually_async

ANSWER = json.dumps({"vendor": "nvidia", "devices": [{"index": 0, "uuid": "GPU-0"}]})
ECHO = f"import sys\nfor _ in sys.stdin: print({ANSWER!r}, flush=True)"
PID = """
import json, os, sys
for _ in sys.stdin:
    print(json.dumps({"vendor": "nvidia", "devices": [{"index": 0, "uuid": str(os.getpid())}]}), flush=True)
"""
BLOCKED = "import signal, time; signal.pthread_sigmask(0, range(1, 60)); time.sleep(600)"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A file system of a machine with an NVIDIA device."""
    add_device(tmp_path, "0000:01:00.0")
    return tmp_path


def add_device(root: Path, address: str) -> None:
    device = root / "sys/bus/pci/devices" / address
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x10de\n")
    (device / "class").write_text("0x030200\n")


@asynccontextmanager
async def probing(root: Path, code: str, *, deadline_s: float = 30.0) -> AsyncIterator[VendorProbe]:
    probe = VendorProbe(Vendor.nvidia, command=[sys.executable, "-c", code], deadline_s=deadline_s, root=root)
    yield probe
    await probe.close()


async def error_of(probe: VendorProbe) -> str:
    reading = await probe.read()
    assert reading is not None
    assert reading.devices == ()
    return reading.error or ""


async def test_what_the_child_says_is_the_reading(root: Path) -> None:
    async with probing(root, ECHO) as probe:
        for _ in range(2):
            reading = await probe.read()
            assert reading is not None
            assert reading.error is None
            assert [device.uuid for device in reading.devices] == ["GPU-0"]


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("raise SystemExit(3)", "ended with status 3"),
        ("import os; os.abort()", "ended with status -6"),
        ("print('none')", "answered nonsense"),
        ('print(\'{"vendor": "nvidia", "devices": 1}\')', "answered nonsense"),
        ("print('{\"vendor\": \"nvidia\"', end='')", "ended with status 0"),
        ('print(\'{"vendor": "nvidia", "error": "NVML: not loaded"}\')', "NVML: not loaded"),
    ],
)
async def test_a_child_that_fails_is_an_error_and_no_crash(root: Path, code: str, error: str) -> None:
    async with probing(root, code) as probe:
        for _ in range(2):  # each time by a child of its own
            assert error in await error_of(probe)


async def test_a_program_that_is_not_there(root: Path) -> None:
    probe = VendorProbe(Vendor.nvidia, command=["/no/such/program"], root=root)
    assert "does not start" in await error_of(probe)


async def test_a_hanging_driver_is_not_waited_for(root: Path) -> None:
    """The child cannot be ended by SIGTERM; the answer comes at the deadline, and the next probe works again."""
    async with probing(root, BLOCKED, deadline_s=0.5) as hanging:
        for _ in range(2):
            assert "did not answer within 0.5 s" in await error_of(hanging)
            await eventually_async(lambda: _ended(hanging), 10, message="the child is gone")


async def _ended(hanging: VendorProbe) -> bool:
    return hanging.hung_process is None


async def test_one_child_serves_until_the_bus_changes(root: Path) -> None:
    """A driver lists what was there when it was opened."""
    async with probing(root, PID) as probe:
        first, second = await _uuid(probe), await _uuid(probe)
        assert first == second
        add_device(root, "0000:02:00.0")
        assert await _uuid(probe) != first


async def _uuid(probe: VendorProbe) -> str:
    reading = await probe.read()
    assert reading is not None
    return reading.devices[0].uuid


async def test_without_hardware_nothing_is_started(tmp_path: Path) -> None:
    assert await VendorProbe(Vendor.nvidia, command=["/no/such/program"], root=tmp_path).read() is None


async def test_a_child_does_not_get_our_secrets(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPLIANCE_DATABASE_URL", "postgresql://secret@db/appliance")
    told = "print(json.dumps({'vendor': 'nvidia', 'error': ' '.join(os.environ)}))"
    async with probing(root, f"import json, os, sys\nsys.stdin.readline()\n{told}") as probe:
        names = (await error_of(probe)).split()
    assert "PATH" in names
    assert "APPLIANCE_DATABASE_URL" not in names


async def test_the_child_ends_with_the_probe(root: Path) -> None:
    async with probing(root, PID) as probe:
        pid = int(await _uuid(probe))
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_both_vendors_of_one_host_are_asked(simulation: Callable[[SimulatedHost], Path]) -> None:
    probe = Probe(simulation=simulation(mixed_host()))
    try:
        readings = {reading.vendor: reading for reading in await probe.readings()}
    finally:
        await probe.close()
    assert [device.model for device in readings[Vendor.nvidia].devices] == ["NVIDIA L4"] * 2
    assert [device.model for device in readings[Vendor.iluvatar].devices] == ["Iluvatar MR-V100"] * 2
    assert readings[Vendor.nvidia].simulated
    assert readings[Vendor.iluvatar].simulated
    assert not readings[Vendor.cpu].simulated
    assert readings[Vendor.cpu].processor


async def test_one_vendor_that_hangs_does_not_hide_the_other(simulation: Callable[[SimulatedHost], Path]) -> None:
    host = mixed_host()
    host.driver(Vendor.iluvatar).state = "hang"
    probe = Probe(simulation=simulation(host), deadline_s=2.0)
    try:
        readings = {reading.vendor: reading for reading in await probe.readings()}
    finally:
        await probe.close()
    assert len(readings[Vendor.nvidia].devices) == 2
    assert "the Iluvatar driver did not answer within 2 s" in (readings[Vendor.iluvatar].error or "")
