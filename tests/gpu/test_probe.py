"""The probe against children that answer, fail, talk nonsense or hang; there is hardware as far as it can see."""

import json
import sys
from pathlib import Path

import msgspec
import pytest

from gpu.probe import NvmlProbe, ProbeAnswer, has_nvidia_hardware
from gpu.states import Vendor
from tests.support.waiting import eventually_async

ONE = {"vendor": "nvidia", "index": 0, "uuid": "GPU-0", "model": "L4", "memory_bytes": 24}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A file system of a machine with an NVIDIA device."""
    device = tmp_path / "sys/bus/pci/devices/0000:01:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x10de\n")
    (device / "class").write_text("0x030200\n")
    return tmp_path


def probe(root: Path, code: str, *, deadline_s: float = 30.0) -> NvmlProbe:
    return NvmlProbe([sys.executable, "-c", code], deadline_s=deadline_s, root=root)


async def test_what_the_child_says_is_the_answer(root: Path) -> None:
    said = json.dumps({"driver_version": "580.1", "devices": [ONE]})
    answer = await probe(root, f"print({said!r})").devices()
    assert answer.error is None
    assert answer.driver_version == "580.1"
    assert [(device.vendor, device.uuid) for device in answer.devices] == [(Vendor.nvidia, "GPU-0")]


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("raise SystemExit(3)", "ended with status 3"),
        ("import os; os.abort()", "ended with status -6"),
        ("print('none')", "answered nonsense"),
        ("print('{\"devices\": 1}')", "answered nonsense"),
        ('print(\'{"error": "NVML: not loaded"}\')', "NVML: not loaded"),
    ],
)
async def test_a_child_that_fails_is_an_error_and_no_crash(root: Path, code: str, error: str) -> None:
    answer = await probe(root, code).devices()
    assert answer.devices == ()
    assert error in (answer.error or "")


async def test_a_program_that_is_not_there(root: Path) -> None:
    answer = await NvmlProbe(["/no/such/program"], root=root).devices()
    assert "does not start" in (answer.error or "")


async def test_a_hanging_driver_is_not_waited_for(root: Path) -> None:
    """The child cannot be ended by SIGTERM; the answer comes at the deadline, and the next probe works again."""
    hanging = probe(
        root, "import signal, time; signal.pthread_sigmask(0, range(1, 60)); time.sleep(600)", deadline_s=0.5
    )
    answer = await hanging.devices()
    assert "did not answer within 0.5 s" in (answer.error or "")
    await eventually_async(lambda: _ended(hanging), 10, message="the child is gone")
    assert "did not answer" in ((await hanging.devices()).error or "")
    await eventually_async(lambda: _ended(hanging), 10, message="the second child is gone")


async def _ended(hanging: NvmlProbe) -> bool:
    return hanging.hung_process is None


async def test_without_hardware_nothing_is_started(tmp_path: Path) -> None:
    assert await NvmlProbe(["/no/such/program"], root=tmp_path).devices() == ProbeAnswer()


def test_the_gate(root: Path, tmp_path: Path) -> None:
    assert has_nvidia_hardware(root)
    (root / "sys/bus/pci/devices/0000:01:00.0/class").write_text("0x020000\n")
    assert not has_nvidia_hardware(root)
    (root / "dev").mkdir()
    (root / "dev/nvidiactl").touch()
    assert has_nvidia_hardware(root)


def test_an_answer_survives_its_own_encoding() -> None:
    answer = msgspec.json.decode(json.dumps({"devices": [ONE]}).encode(), type=ProbeAnswer)
    assert msgspec.json.decode(msgspec.json.encode(answer), type=ProbeAnswer) == answer
