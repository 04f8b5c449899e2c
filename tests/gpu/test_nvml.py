"""The real binding, in its real process, over a stub of NVIDIA's library (simulated: no driver, no device)."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gpu.probe import FoundDevice, NvmlProbe, ProbeAnswer
from gpu.states import Vendor
from tests.support.waiting import eventually_async

SOURCE = Path(__file__).parent / "stub_nvml.c"
GIB = 1024**3


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the stub's `libnvidia-ml.so.1`."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    folder = tmp_path_factory.mktemp("nvml")
    target = folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", str(target), str(SOURCE)], check=True)
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine on which the gate is open."""
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidiactl").touch()
    return tmp_path


async def asked(library: Path, root: Path, scene: str, *, deadline_s: float = 30.0) -> ProbeAnswer:
    command = ["env", f"LD_LIBRARY_PATH={library}", f"STUB_NVML={scene}", sys.executable, "-m", "gpu.nvml"]
    probe = NvmlProbe(command, deadline_s=deadline_s, root=root)
    answer = await probe.devices()

    async def none_is_left() -> bool:
        return probe.hung_process is None

    await eventually_async(none_is_left, message="the child is gone")
    return answer


def expected(index: int) -> FoundDevice:
    return FoundDevice(
        vendor=Vendor.nvidia,
        index=index,
        uuid=f"GPU-0000-{index}",
        model="NVIDIA Stub 24GB",
        minor=index + 4,
        pci_address=f"00000000:0{index + 1}:00.0",
        memory_bytes=24 * GIB,
        compute_capability="8.9",
    )


async def test_every_field_is_read(library: Path, root: Path) -> None:
    answer = await asked(library, root, "ok")
    assert answer == ProbeAnswer(driver_version="580.65.06", devices=(expected(0), expected(1)))


async def test_a_device_off_the_bus_does_not_hide_the_others(library: Path, root: Path) -> None:
    answer = await asked(library, root, "lost")
    assert answer.devices[0] == expected(0)
    assert (answer.devices[1].uuid, answer.devices[1].problem) == ("", "NVML: GPU is lost")


async def test_a_partitioned_device_is_not_leased_whole(library: Path, root: Path) -> None:
    answer = await asked(library, root, "mig")
    assert answer.devices[0].problem is None
    assert "MIG mode is on" in (answer.devices[1].problem or "")


async def test_a_driver_that_is_not_loaded(library: Path, root: Path) -> None:
    assert "Driver Not Loaded" in ((await asked(library, root, "broken")).error or "")


async def test_a_driver_that_hangs(library: Path, root: Path) -> None:
    assert "did not answer within 2 s" in ((await asked(library, root, "hang", deadline_s=2.0)).error or "")


async def test_a_library_that_is_not_there(tmp_path: Path, root: Path) -> None:
    """Hardware without a driver: an error to show, and no device."""
    answer = await asked(tmp_path, root, "ok")
    if answer.error is None:
        pytest.skip("this machine has NVIDIA's own library")
    assert "NVML" in answer.error
